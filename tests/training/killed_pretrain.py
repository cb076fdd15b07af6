"""Run by test_pretrain.py in a process of its own: pretrainings that are killed, and repeated.

Arguments: a folder, the corpus, then ways to read it: "map" or "stream". Each is pretrained three
times, in forked processes (torch is imported once): undisturbed; killed by SIGKILL while the row of
step 7 is written; and repeated after that to its end. Prints the exit statuses of each way.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from deepsentinel.training.pretrain import pretrain

KILLED_AT = 7
TINY = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16], "drop_path_rate": 0.2}


class Fatal:
    """A logger that ends its process."""

    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        if step == KILLED_AT and "loss" in numbers:
            os.kill(os.getpid(), signal.SIGKILL)


def run(corpus: str, out_dir: Path, way: str, logger: object) -> None:
    pretrain(
        corpus,
        out_dir=out_dir,
        objective="moco",
        objective_options={"queue": 32},
        backbone="convnext_atto",
        encoder_options={"backbone_options": TINY},
        steps=12,
        batch_size=4 if way == "stream" else 8,
        accumulate=1 if way == "stream" else 2,
        stream=way == "stream",
        num_workers=2 if way == "stream" else 0,
        ema=0.9,
        crop=24,
        log_every=1,
        checkpoint_every=5,
        probe=corpus,
        probe_label="landcover_class",
        probe_patches=16,
        probe_every=5,
        accelerator="cpu",
        progress=False,
        logger=logger,
    )


def forked(corpus: str, out_dir: Path, way: str, logger: object) -> int:
    child = os.fork()
    if child == 0:
        run(corpus, out_dir, way, logger)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, corpus, *ways = sys.argv[1:]
    for way in ways:
        whole, broken = (Path(folder) / f"{way}-{kind}" for kind in ("whole", "broken"))
        statuses = [forked(corpus, whole, way, None)]
        statuses += [forked(corpus, broken, way, Fatal())]
        statuses += [forked(corpus, broken, way, None)]
        sys.stdout.write(f"{way} {statuses}\n")
