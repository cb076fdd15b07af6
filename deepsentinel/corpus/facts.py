"""Facts of a corpus from its `corpus.json`: `load_info`."""

import json
from collections.abc import Callable

from deepsentinel.corpus.format import DATA_PATH, INDEX_PATH, INFO_PATH, CorpusInfo
from deepsentinel.corpus.index import info_crc
from deepsentinel.errors import CorpusNotFoundError, CorruptCorpusError, StoreNotFoundError
from deepsentinel.store import LocalStore, Store


def load_info(store: Store, *, index_crc: Callable[[], str | None] | None = None) -> CorpusInfo:
    """`corpus.json` of the corpus in a store; read again if it came damaged over a network.

    Args:
        store: where the corpus lies.
        index_crc: gives the checksum that the index states of it, if it states one.

    Raises:
        CorpusNotFoundError: there is none; what is there is listed.
        CorpusError: it has another format version.
        CorruptCorpusError: it is not JSON, or not what the index was written for.
    """
    try:
        data = store.read(INFO_PATH)
    except StoreNotFoundError as error:
        raise _no_corpus(store, INFO_PATH) from error
    if not store.exists(INDEX_PATH):
        raise _no_corpus(store, INDEX_PATH)
    stated = None if index_crc is None else index_crc()
    try:
        return _parse_info(store, data, stated)
    except CorruptCorpusError:
        if isinstance(store, LocalStore):
            raise
        return _parse_info(store, store.read(INFO_PATH), stated)


def _parse_info(store: Store, data: bytes, stated: str | None) -> CorpusInfo:
    """The facts in these bytes of a store."""
    place = f"{store.url}/{INFO_PATH}"
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptCorpusError(f"{place} is not JSON: {error}.") from error
    if stated is not None and info_crc(value) != stated:
        raise CorruptCorpusError(
            f"{place} is not what the index was written for: checksum (crc32c) {info_crc(value)}, "
            f"the index states {stated}. Restore the file from where the corpus came from."
        )
    return CorpusInfo.from_json(value)


def _no_corpus(store: Store, path: str) -> CorpusNotFoundError:
    names = store.list()
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    there = f"It holds {' '.join(names[:8])}{more}." if names else "It is empty or missing."
    return CorpusNotFoundError(
        f"no corpus at {store.url}: {path} is not there. {there} A corpus is a folder with "
        f"{INFO_PATH}, {INDEX_PATH} and {DATA_PATH}; `deepsentinel convert` makes one."
    )
