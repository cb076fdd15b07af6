"""Where patches lie: the few columns of the index that reading needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepsentinel.bands import Sensor


@dataclass(frozen=True)
class Splits:
    """The split of each patch, as a number."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """The few columns of the index that reading needs, as NumPy arrays; -1 for NULL."""

    rows: NDArray[np.int64]
    splits: Splits
    offsets: dict[str, NDArray[np.int64]]
    sizes: dict[str, NDArray[np.int64]]
    gaps: dict[str, NDArray[np.int64]]

    @classmethod
    def of(cls, table: pa.Table, names: Sequence[str], sensors: Sequence[Sensor]) -> "Places":
        """From these columns of the index, for arrays and sensors of these names."""
        return cls(
            rows=table["row"].to_numpy(),
            splits=_split_codes(table["split"]),
            offsets={name: _integers(table[f"{name}_offset"]) for name in names},
            sizes={name: _integers(table[f"{name}_size"]) for name in names},
            gaps={sensor: _integers(table[f"{sensor}_gaps"]) for sensor in sensors},
        )

    def span(self, name: str, number: int) -> tuple[int, int]:
        """Offset and size of the bytes of one array of one patch; -1 where it has none."""
        return int(self.offsets[name][number]), int(self.sizes[name][number])


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(column, -1).to_numpy(), dtype=np.int64)


def _split_codes(column: pa.ChunkedArray) -> Splits:
    """Splits as codes; names in the order in which they first occur, NULL is -1."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return Splits(codes.astype(np.int32), tuple(encoded.dictionary.to_pylist()))


def count_splits(table: pa.Table) -> dict[str, int]:
    """Patches in each split of an index: train, val and test first, then others by name."""
    splits = _split_codes(table["split"])
    counts = {name: int((splits.codes == k).sum()) for k, name in enumerate(splits.names)}
    usual = ("train", "val", "test")
    order = sorted(counts, key=lambda name: (name not in usual, (*usual, name).index(name), name))
    return {name: counts[name] for name in order}
