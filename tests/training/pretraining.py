"""Run by test_pretrain.py in a process of its own: pretrainings that are killed, or shared by two.

Arguments: a folder, the corpus, then what to do; torch is imported once, each run is a fork.
"map" and "stream" are ways to read: a run that is undisturbed; one that SIGKILL ends while the row
of step 7 is written; and that one repeated to its end. "two-map" and "two-stream" are two
processes that find each other as torchrun lets them. Prints the exit statuses of each.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from deepsentinel.training.pretrain import pretrain
from tests.training.processes import forked, ranks, status

KILLED_AT = 7
TINY = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16], "drop_path_rate": 0.2}


class Fatal:
    """A logger that ends its process."""

    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        if step == KILLED_AT and "loss" in numbers:
            os.kill(os.getpid(), signal.SIGKILL)


def small(**more: Any) -> dict[str, Any]:
    return {
        "backbone": "convnext_atto",
        "encoder_options": {"backbone_options": TINY},
        "log_every": 1,
        "accelerator": "cpu",
        "progress": False,
    } | more


def killed(corpus: str, out_dir: Path, *, stream: bool, logger: object) -> None:
    pretrain(
        corpus,
        out_dir=out_dir,
        **small(
            objective="moco",
            objective_options={"queue": 32},
            steps=12,
            batch_size=4 if stream else 8,
            accumulate=1 if stream else 2,
            stream=stream,
            num_workers=2 if stream else 0,
            ema=0.9,
            crop=24,
            checkpoint_every=5,
            watch_every=2,
            probe=corpus,
            probe_label="landcover_class",
            probe_patches=16,
            probe_every=5,
            logger=logger,
        ),
    )


def shared(corpus: str, out_dir: Path, *, stream: bool, accumulate: int = 1) -> torch.Tensor:
    """Returns all weights."""
    result = pretrain(
        corpus,
        out_dir=out_dir,
        **small(
            objective="masked",
            steps=3,
            batch_size=8,
            seed=1,
            checkpoint_every=2,
            stream=stream,
            accumulate=accumulate,
        ),
    )
    return torch.cat([p.detach().flatten() for p in result.encoder.parameters()])


def together(corpus: str, out_dir: Path, *, stream: bool, rank: int) -> None:
    weights = shared(corpus, out_dir, stream=stream)
    torch.save(weights, out_dir / f"rank{rank}.pt")


def main(folder: Path, corpus: str, what: str) -> list[int]:
    stream = what.endswith("stream")
    if what.startswith("two"):
        return ranks(lambda rank: together(corpus, folder / what, stream=stream, rank=rank))
    whole, broken = folder / f"{what}-whole", folder / f"{what}-broken"
    runs = ((whole, None), (broken, Fatal()), (broken, None))
    return [
        status(forked(lambda o=o, g=g: killed(corpus, o, stream=stream, logger=g))) for o, g in runs
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[3:]:
        sys.stdout.write(f"{name} {main(Path(sys.argv[1]), sys.argv[2], name)}\n")
        sys.stdout.flush()
