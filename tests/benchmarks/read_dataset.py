"""How fast `DeepSentinelDataset` gives float32 samples, beside a raw read of the same codes.

    python tests/benchmarks/read_dataset.py [--patches 96] [--rounds 7]

CPU time of this process, warm caches, all ways in turn in each round; ratios are medians over
rounds. Each way is measured twice: once dropping each result, so that memory is reused and a raw
read is hardly more than a copy within the cache, and once keeping the results of a batch of 32, as
a loader does, so that memory is fresh. The goal is 0.15 of the raw read.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.synthetic import write_synthetic_corpus

SIZE = 256
BYTES = 14 * SIZE * SIZE * 2
GOAL = 0.15


def readers(folder: Path, count: int) -> dict[str, Callable[[int], object]]:
    """Every way to read patch k; the raw read first."""
    root = write_synthetic_corpus(folder / "corpus", patches=count, patch_size=SIZE, clouds=True)
    raw = folder / "raw.bin"
    raw.write_bytes(os.urandom(BYTES) * count)
    file = os.open(raw, os.O_RDONLY)
    plain = DeepSentinelDataset(root, None, labels=(), clouds="keep")
    settings = {
        "S1 + S2": {"labels": (), "clouds": "keep"},
        "S1 + S2, checksum": {"labels": (), "clouds": "keep", "checksum": True},
        "S1 + S2, mask, class, clouds as NaN": {},
    }
    ways: dict[str, Callable[[int], object]] = {
        "raw pread of the codes": lambda k: os.pread(file, BYTES, k * BYTES),
        "corpus.read_physical": plain.corpus.read_physical,
    }
    for name, arguments in settings.items():
        ways[f"dataset, {name}"] = DeepSentinelDataset(root, None, **arguments).__getitem__  # type: ignore[arg-type]
    return ways


def measure(
    ways: dict[str, Callable[[int], object]], *, count: int, rounds: int, batch: int
) -> dict[str, NDArray[np.float64]]:
    """CPU milliseconds a patch, by way and round, keeping the last `batch` results."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, read in ways.items():
            kept: list[object] = []
            started = time.process_time()
            for k in range(count):
                if len(kept) == batch:
                    kept = []
                kept.append(read(k))
            spent[name].append((time.process_time() - started) / count * 1e3)
    return {name: np.array(times) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways = readers(Path(folder), asked.patches)
        for batch in (1, 32):
            spent = measure(ways, count=asked.patches, rounds=asked.rounds, batch=batch)
            raw = spent["raw pread of the codes"]
            print(f"\n{f'keeping {batch}; CPU time a patch of 256 px':45} {'ms':>6} {'of raw':>6}")
            for name, times in spent.items():
                print(f"{name:45} {np.median(times):6.2f} {np.median(raw / times):6.2f}")
            ratio = np.median(raw / spent["dataset, S1 + S2"])
            print(f"goal {GOAL}: {'reached' if ratio >= GOAL else 'NOT reached'} ({ratio:.2f})")


if __name__ == "__main__":
    main()
