"""Run by test_finetune.py in a process of its own: fine-tunings that are killed, and repeated.

Arguments: a folder, then moments to die: "read:5" at the fifth reading of a training sample,
"before:2" just before and "torn:2" in the middle of replacing the second file, "none:0" never; and
before a moment, with a comma, what is trained otherwise: "lora" or "stream". Each
moment is a fine-tuning in a subfolder of its name, in a forked process (torch is imported once),
killed, then repeated to its end. Prints the two exit statuses of each.
"""

import os
import signal
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.datasets.transforms import Compose, RandomFlip, RandomRot90, SensorDropout
from deepsentinel.heads import files
from deepsentinel.training import stored
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning import checkpoint
from deepsentinel.training.finetuning.lora import LoRA


def merge(sample):
    """Three classes, as the model has."""
    return sample | {"mask": sample["mask"].clamp(max=2)}


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


def tune(out_dir: Path, death: Death, way: str) -> None:
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

    files.replace_file = checkpoint.replace_file = stored.replace_file = watched
    train, options = Watched(small.make_samples(10)), {}
    if way == "lora":
        options = {"lora": LoRA(rank=2), "layer_decay": 0.7, "augment": Augment(speckle=9.0)}
    elif way == "stream":
        root = write_synthetic_corpus(out_dir.parent / "corpus", patches=12, patch_size=32)
        train = DeepSentinelStream(
            root, labels=("landcover",), buffer=4, prefetch=2, transforms=merge
        )
        options = {"freeze_encoder": True, "unfreeze_epoch": 3}
    # A call that is repeated after a kill draws another head, as a user's would.
    seed = int.from_bytes(os.urandom(2)) if (out_dir / "last.ckpt").exists() else 0
    finetune(
        small.make_model("linear", seed=seed),
        train,
        small.make_samples(5, seed=1),
        out_dir=out_dir,
        epochs=4,
        batch_size=4,
        lr=1e-2,
        progress=False,
        report=False,
        accelerator="cpu",
        **options,
    )


def forked(out_dir: Path, moment: str) -> int:
    child = os.fork()
    if child == 0:
        way, _, when = moment.rpartition(",")
        tune(out_dir, Death(when), way)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        folder = Path(sys.argv[1]) / name
        way = name.rpartition(",")[0]
        statuses = forked(folder, name), forked(folder, f"{way},none:0")
        sys.stdout.write(f"{name} {statuses[0]} {statuses[1]}\n")
