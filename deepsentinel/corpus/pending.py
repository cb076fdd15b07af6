"""Patches that a writer completed and no index names yet: those of its journal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from deepsentinel.corpus.arrays import ArraySpec, corpus_arrays
from deepsentinel.corpus.format import DATA_PATH, JOURNAL_PATH, CorpusInfo
from deepsentinel.corpus.index import rows_table
from deepsentinel.corpus.journal import Journal
from deepsentinel.store import Store


@dataclass(frozen=True)
class Pending:
    """Rows that follow those of the index.

    They come in the order in which the index will name them, so that the numbers of patches stay
    what they are when the writer goes on.
    """

    published: int
    """Rows that the index had when the journal was read."""
    rows: pa.Table

    def extend(self, table: pa.Table) -> pa.Table:
        """Columns of the index with the rows that it does not have yet."""
        left = self.rows.slice(min(table.num_rows - self.published, self.rows.num_rows))
        columns = [left[field.name].cast(field.type) for field in table.schema]
        return pa.concat_tables([table, pa.Table.from_arrays(columns, schema=table.schema)])


def pending_patches(store: Store, info: CorpusInfo, published: Sequence[int]) -> Pending:
    """What the journal of a corpus on this machine says beyond the rows that its index names.

    A patch counts as it does for the writer: its line is complete, and its bytes are there.
    """
    last = max(published, default=-1)
    arrays = corpus_arrays(info)
    found = []
    for entry in Journal(Path(store.url) / JOURNAL_PATH).entries:
        row = entry["row"]
        if row["row"] <= last:
            continue
        if not all(_is_there(store, arrays[n], row, at) for n, at in entry["places"].items()):
            break  # a power cut can take bytes that the journal speaks of
        found.append(row)
    return Pending(len(published), rows_table(found, info))


def _is_there(store: Store, spec: ArraySpec, row: Mapping[str, Any], place: Any) -> bool:
    if store.exists(f"{DATA_PATH}/{spec.shard_path(row['shard'])}"):
        return True
    part, (start, sizes) = spec.part_path(row["shard"]), place
    return store.exists(part) and store.size(part) >= start + sum(sizes)
