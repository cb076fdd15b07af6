"""Memory of a stream over many epochs.

    python tests/benchmarks/memory.py [--patches 256] [--epochs 10] [--workers 0 2]

Resident memory after each epoch, of this process + its workers (shared pages by their share), for
an epoch that is larger than buffer and read-ahead together. Linux only.
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from deepsentinel import DeepSentinelStream, collate
from deepsentinel.datasets.synthetic import write_synthetic_corpus

BUFFER, PREFETCH = 32, 32


def resident(pid: int | str) -> float:
    """Proportional share of resident memory in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patches", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = write_synthetic_corpus(f"{temporary}/corpus", patches=asked.patches, patch_size=256)
        for workers in asked.workers:
            stream = DeepSentinelStream(
                root, None, labels=(), clouds="keep", buffer=BUFFER, prefetch=PREFETCH
            )
            loader = DataLoader(
                stream,
                batch_size=8,
                num_workers=workers,
                collate_fn=collate,
                persistent_workers=workers > 0,
            )
            print(f"{workers} workers; MB before {resident('self'):.0f}; after each epoch:", end="")
            for _ in range(asked.epochs):
                for _batch in loader:
                    pass
                children = [resident(p.pid) for p in multiprocessing.active_children() if p.pid]
                print(f" {resident('self'):.0f}+{sum(children):.0f}", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
