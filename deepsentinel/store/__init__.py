"""Where bytes come from and go to: ranges by URL, every length checked."""

from deepsentinel.store.cache import CachedStore, RangeCache
from deepsentinel.store.local import LocalStore
from deepsentinel.store.memory import MemoryStore
from deepsentinel.store.options import Options
from deepsentinel.store.protocol import Span, Store
from deepsentinel.store.remote import RemoteStore
from deepsentinel.store.retry import Retry
from deepsentinel.store.urls import is_local, open_store, pinned

__all__ = [
    "CachedStore",
    "LocalStore",
    "MemoryStore",
    "Options",
    "RangeCache",
    "RemoteStore",
    "Retry",
    "Span",
    "Store",
    "is_local",
    "open_store",
    "pinned",
]
