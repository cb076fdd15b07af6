"""From what a user names to a store."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from deepsentinel.errors import StoreError
from deepsentinel.store.local import LocalStore
from deepsentinel.store.protocol import Store


def open_store(root: str | Path) -> Store:
    """The store that a path or URL names.

    Args:
        root: a folder, or a `file://` URL of one.

    Raises:
        StoreError: the URL has a scheme that this version cannot read.

    Example:
        >>> open_store("/data/corpus").url, open_store("file:///data/my%20corpus").url
        ('/data/corpus', '/data/my corpus')
    """
    text = str(root)
    scheme, found, _ = text.partition("://")
    if isinstance(root, Path) or not found:
        return LocalStore(root)
    if scheme.lower() == "file":
        return LocalStore(unquote(urlsplit(text).path))
    raise StoreError(
        f"cannot open {text!r}: this version reads and writes corpora on local disks only. "
        "Copy the corpus to a folder first, and pass its path."
    )
