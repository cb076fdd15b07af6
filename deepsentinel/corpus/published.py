"""The index that a store holds, column by column, with errors that say what is wrong with it."""

from functools import cached_property
from typing import Any

import pyarrow as pa

from deepsentinel.corpus.format import INDEX_PATH
from deepsentinel.corpus.index import read_columns, read_index, stated_info_crc
from deepsentinel.errors import CorruptCorpusError, NotAuthorisedError, TransientError
from deepsentinel.store import Store


class PublishedIndex:
    """The published index of a corpus; pickles without what it read.

    Args:
        store: that holds the corpus.
        remote: whether it lies beyond a network: then all of it comes in one request, once.
    """

    def __init__(self, store: Store, *, remote: bool) -> None:
        self._store = store
        self._remote = remote

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_bytes"}

    def read(self, columns: list[str] | None) -> pa.Table:
        """Some columns of it, or all for `None`.

        Raises:
            CorruptCorpusError: it cannot be read.
            NotAuthorisedError, TransientError: nobody can tell.
        """
        try:
            return self._read(columns)
        except (NotAuthorisedError, TransientError):
            raise  # that says nothing about the bytes
        except (pa.ArrowException, OSError) as error:
            raise CorruptCorpusError(
                f"the index {self._store.url}/{INDEX_PATH} cannot be read: "
                f"{str(error).rstrip('.')}. Restore the file from where the corpus came from."
            ) from error

    def stated_info_crc(self) -> str | None:
        """What it says of `corpus.json`."""
        return stated_info_crc(self.read([]).schema)

    @cached_property
    def _bytes(self) -> bytes:
        """The whole index of a remote corpus: one request brings what many columns would ask for."""
        return self._store.read(INDEX_PATH)

    def _read(self, columns: list[str] | None) -> pa.Table:
        if not self._remote:
            return read_index(self._store, INDEX_PATH, columns)
        try:
            return read_columns(pa.BufferReader(self._bytes), columns)
        except (pa.ArrowException, OSError):
            self.__dict__.pop("_bytes", None)  # damaged on its way, perhaps: once more
            return read_columns(pa.BufferReader(self._bytes), columns)
