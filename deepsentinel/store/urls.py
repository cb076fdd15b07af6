"""From what a user names to a store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from deepsentinel.errors import StoreError
from deepsentinel.store.cache import CachedStore, RangeCache
from deepsentinel.store.families import Pays, family_of
from deepsentinel.store.local import LocalStore
from deepsentinel.store.memory import MemoryStore
from deepsentinel.store.options import Options, redact
from deepsentinel.store.protocol import Store
from deepsentinel.store.remote import RemoteStore
from deepsentinel.store.retry import Retry

CACHE_BYTES = 10 * 2**30
_PLACES = ("account_name", "account_host", "endpoint_url", "endpoint")
"""Options that change what a URL means."""


def open_store(
    root: str | Path,
    *,
    requester_pays: Pays = None,
    storage_options: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    retry: Retry | None = None,
) -> Store:
    """The store that a path or URL names. Nothing is asked of a server yet.

    Args:
        root: a folder, or a URL: `file://`, `memory://`, `gs://`, `az://`, `abfs://`, `s3://`,
            `https://`, `http://` or `hf://`.
        requester_pays: who is billed for what is read from a bucket whose readers pay: the id of a
            Google Cloud project, or `True` on S3. Sent only when given.
        storage_options: arguments of the client (gcsfs, adlfs, s3fs, fsspec's HTTP or
            huggingface_hub's), such as credentials or an `endpoint_url`.
        cache_dir: a folder that keeps ranges that were read; for any number of processes.
        cache_bytes: how large it may grow.
        retry: how often and how long a call is tried.

    Raises:
        UnknownNameError: the URL has a scheme that nothing here serves.
        StoreError: an argument that this place cannot serve.

    Example:
        >>> open_store("/data/corpus").url, open_store("file:///data/my%20corpus").url
        ('/data/corpus', '/data/my corpus')
        >>> open_store("gs://bucket/corpus", requester_pays="my-project")
        RemoteStore('gs://bucket/corpus', requester_pays='my-project', options={})
    """
    given = storage_options
    options = given if isinstance(given, Options) else Options(given)
    store = _origin(root, requester_pays, options, retry)
    if cache_dir is None:
        return store
    place = " ".join(f"{k}={options[k]}" for k in _PLACES if k in options)
    return CachedStore(store, RangeCache(cache_dir, cache_bytes), identity=place)


def pinned(store: Store, path: str) -> Store:
    """The same store, whose cache, if it has one, takes one file's version for that of all.

    Spares a question for each file where all are replaced together with that one.
    """
    return store.under(store.version(path)) if isinstance(store, CachedStore) else store


def _origin(root: str | Path, requester_pays: Pays, options: Options, retry: Retry | None) -> Store:
    text = str(root)
    scheme, found, _ = text.partition("://")
    scheme = scheme.lower()
    if isinstance(root, Path) or not found:
        scheme = "file"
    if scheme in {"file", "memory"}:
        _check_unbilled(text, requester_pays, options)
        if scheme == "memory":
            return MemoryStore(text)
        return LocalStore(unquote(urlsplit(text).path) if found else root)
    return RemoteStore(
        text,
        family_of(scheme),
        requester_pays=requester_pays,
        options=options,
        retry=retry,
    )


def is_local(root: str | Path) -> bool:
    """Whether a root is on the disks or in the memory of this machine.

    Example:
        >>> is_local("/data/corpus"), is_local("file:///data"), is_local("s3://bucket")
        (True, True, False)
    """
    scheme, found, _ = str(root).partition("://")
    return isinstance(root, Path) or not found or scheme.lower() in {"file", "memory"}


def _check_unbilled(text: str, pays: Pays, options: Options) -> None:
    if pays or options:
        given = f"requester_pays={pays!r}" if pays else f"storage_options={options}"
        raise StoreError(
            f"{given} does not go with {redact(text)}, which no server keeps. Leave it out, or give a URL."
        )
