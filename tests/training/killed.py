"""Run by test_finetune.py in a process of its own: fine-tunings that are killed, and repeated.

Arguments: a folder, then moments to die: "read:5" at the fifth reading of a training sample,
"before:2" just before and "torn:2" in the middle of replacing the second file, "none:0" never. Each
moment is a fine-tuning in a subfolder of its name, in a forked process (torch is imported once),
killed, then repeated to its end. Prints the two exit statuses of each.
"""

import os
import signal
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from deepsentinel.datasets.transforms import Compose, RandomFlip, RandomRot90, SensorDropout
from deepsentinel.heads import files
from deepsentinel.training import checkpoint
from deepsentinel.training.finetune import finetune


class Death:
    """SIGKILL when the moment comes for the n-th time."""

    def __init__(self, moment: str) -> None:
        self.place, _, count = moment.partition(":")
        self.left = int(count)

    def at(self, place: str) -> None:
        if place == self.place:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def tune(out_dir: Path, death: Death) -> None:
    spec = spec_from_file_location("small", Path(__file__).with_name("conftest.py"))
    small = module_from_spec(spec)
    spec.loader.exec_module(small)
    replace_file = files.replace_file

    class Watched(list):
        transforms = Compose(RandomFlip(), RandomRot90(), SensorDropout(s1=0.3, s2=0.3), seed=0)

        def __getitem__(self, index: int):
            death.at("read")
            return self.transforms(super().__getitem__(index))

    def watched(path: Path, write) -> None:
        def torn(part: Path) -> None:
            write(part)
            death.at("torn")

        death.at("before")
        replace_file(path, torn)

    files.replace_file = checkpoint.replace_file = watched
    # A call that is repeated after a kill draws another head, as a user's would.
    seed = int.from_bytes(os.urandom(2)) if (out_dir / "last.ckpt").exists() else 0
    finetune(
        small.make_model("linear", seed=seed),
        Watched(small.make_samples(10)),
        small.make_samples(5, seed=1),
        out_dir=out_dir,
        epochs=4,
        batch_size=4,
        lr=1e-2,
        progress=False,
        report=False,
        accelerator="cpu",
    )


def forked(out_dir: Path, moment: str) -> int:
    child = os.fork()
    if child == 0:
        tune(out_dir, Death(moment))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        folder = Path(sys.argv[1]) / name
        statuses = forked(folder, name), forked(folder, "none:0")
        sys.stdout.write(f"{name} {statuses[0]} {statuses[1]}\n")
