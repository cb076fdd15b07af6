"""Where bytes come from and go to: ranges by URL, every length checked."""

from deepsentinel.store.local import LocalStore
from deepsentinel.store.protocol import Store
from deepsentinel.store.urls import open_store

__all__ = ["LocalStore", "Store", "open_store"]
