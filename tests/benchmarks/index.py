"""How long a corpus of a million patches takes to open and to filter.

    python tests/benchmarks/index.py [--patches 1000000] [--rounds 5]

The index is generated; there are no pixels, and none is needed. Wall time, warm; the goals are 2 s
to open and 0.5 s to filter. "Remote" reads the same file from this process's memory.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from deepsentinel.bands import S1_BANDS, S2_BANDS
from deepsentinel.corpus.format import DATA_PATH, INDEX_PATH, INFO_PATH, CorpusInfo, dump_json
from deepsentinel.corpus.index import index_schema, write_index
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.select import Selection
from deepsentinel.store import open_store

INFO = CorpusInfo(
    name="million",
    sensors=("s1", "s2"),
    bands={"s1": S1_BANDS, "s2": S2_BANDS},
    patch_size=256,
    resolution_m=10,
    synthetic=True,
)
SELECTIONS = {
    "filter: cloud < 10": Selection(where="cloud < 10"),
    "filter: split, box, dates, cloud": Selection(
        split="train", bbox=(5, 47, 15, 55), dates="2020-06-01/2020-08-31", where="cloud < 10"
    ),
}


def make_index(count: int) -> pa.Table:
    """Rows as a big corpus has them."""
    rng = np.random.default_rng(0)
    row = np.arange(count)
    days = rng.integers(0, 365, count) * 86_400_000_000 + 1_577_836_800_000_000
    columns: dict[str, object] = {
        "id": [f"S2A_MSIL2A_20200101_{k:07}" for k in range(count)],
        "lon": rng.uniform(-180, 180, count),
        "lat": rng.uniform(-60, 80, count),
        "crs": np.array([f"EPSG:326{z:02}" for z in range(1, 61)], object)[row % 60],
        "split": np.array(["train", "train", "train", "val", "test"], object)[row % 5],
        "date_s1": days,
        "date_s2": days + 86_400_000_000,
        "cloud_percent": rng.uniform(0, 100, count),
        "shard": row // 128,
        "row": row,
        "s1_gaps": np.zeros(count, np.int32),
        "s2_gaps": np.zeros(count, np.int32),
    }
    outlines = pa.py_buffer(rng.bytes(93 * count))  # a polygon of five corners each, incompressible
    columns["geometry"] = pa.Array.from_buffers(pa.binary(93), count, [None, outlines])
    for sensor, size in (("s1", 200_000), ("s2", 900_000)):
        sizes = rng.integers(size // 2, size, count)
        columns[f"{sensor}_offset"] = (row % 128) * size
        columns[f"{sensor}_size"] = sizes
    schema = index_schema(INFO)
    arrays = [
        pa.nulls(count, field.type)
        if columns.get(field.name) is None
        else _array(columns[field.name]).cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: object) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values)


def timed(work: Callable[[], object], rounds: int) -> float:
    """Median seconds."""
    spent = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return float(np.median(spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patches", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / DATA_PATH).mkdir()
        write_index(make_index(asked.patches), str(root / INDEX_PATH))
        (root / INFO_PATH).write_bytes(dump_json(INFO.to_json()))
        size = (root / INDEX_PATH).stat().st_size
        print(f"{asked.patches} patches, index of {size / 1e6:.0f} MB")
        store = open_store("memory://million/corpus")
        for path in (INFO_PATH, INDEX_PATH):
            store.write(path, (root / path).read_bytes())
        corpus = Corpus(root)
        ways: dict[str, Callable[[], object]] = {
            "open, local": lambda: Corpus(root),
            "open, remote": lambda: Corpus("memory://million/corpus"),
            "rows of a split": lambda: corpus.rows("train"),
            "all columns of the index, once": lambda: Corpus(root).index,
        }
        table = corpus.index
        ways |= {n: lambda s=s: s.rows(table, INFO) for n, s in SELECTIONS.items()}  # type: ignore[misc]
        for name, work in ways.items():
            print(f"{name:36}{timed(work, asked.rounds):8.3f} s", flush=True)


if __name__ == "__main__":
    main()
