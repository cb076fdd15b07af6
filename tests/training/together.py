"""Run by test_ranks.py in a process of its own: fine-tunings by two processes that talk by gloo.

Arguments: a folder, then scenarios of `SCENARIOS`. Each is run by two forked processes (torch is
imported once), in a subfolder of its name; each process leaves its result in `rank<n>.pt` there.
A scenario that ends in "-killed" is first killed in its second epoch, both processes, then repeated.
"""

import os
import signal
import sys
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import TrainingWarning
from deepsentinel.heads.matching import Matcher
from deepsentinel.heads.regression import Regressor
from deepsentinel.heads.segmentation import Segmenter
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.lora import LoRA
from tests.training.processes import ranks


def small():
    spec = spec_from_file_location("small", Path(__file__).with_name("conftest.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_encoder(seed: int = 0):
    """Nothing in it depends on which patches are in a batch, and nothing is drawn."""
    torch.manual_seed(seed)
    options = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
    return FusionEncoder("convnext_atto", backbone_options=options, levels=(0, 1), embed_dim=16)


def labelled(samples: list) -> list:
    """Every pixel has a class and a quantity: else patches would weigh differently."""
    for sample in samples:
        sample["mask"].clamp_(min=0)
        sample["target"] = sample["image_s2"][:1].clone()
    return samples


class Dying(list):
    """Kills the process at a reading in the second epoch."""

    left = 2 + 5 + 2

    def __getitem__(self, index):
        Dying.left -= 1
        if Dying.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def run(name: str, out_dir: Path, *, dying: bool) -> None:
    tools, rank = small(), int(os.environ.get("RANK", "0"))
    # Heads are drawn differently by each process and each call: the first one's is taken.
    seed = rank + 2 * (out_dir / "last.ckpt").exists()
    kind = name.partition("-")[0]
    options = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "progress": False, "accelerator": "cpu"}
    options |= {"report": kind == "plain"}
    train, val = tools.make_samples(10), tools.make_samples(4, seed=1)
    model = tools.make_model("linear", seed=seed)
    if kind == "plain":
        model, train = Segmenter(plain_encoder(seed), 3, "linear", channels=16), labelled(train)
    elif kind == "regressor":
        model = Regressor(plain_encoder(seed), decoder="linear")
        train, val = labelled(train), labelled(val)
    elif kind == "matcher":
        model = Matcher(plain_encoder(seed), dim=8)
    elif (
        kind == "blank"
    ):  # one patch a step and process, so that some steps show one of them nothing
        train[3]["image_s1"][:] = train[3]["image_s2"][:] = float("nan")
        options |= {"batch_size": 2}
        warnings.simplefilter("ignore", TrainingWarning)  # of just this
    elif kind == "unfrozen":
        options |= {"freeze_encoder": True, "unfreeze_epoch": 2, "augment": Augment(speckle=9.0)}
    elif kind == "lora":
        options |= {"lora": LoRA(rank=2), "layer_decay": 0.7}
    elif kind == "stream":
        root = out_dir.parent / "corpus"
        train = DeepSentinelStream(root, labels=("landcover",), remainder="pad", prefetch=2)
        model = Segmenter(model.encoder, 8, "linear", channels=16)
        val = [train.dataset[i] for i in range(2)]
    elif kind == "wrong":
        options |= {"batch_size": 3}
    train = Dying(train) if dying else train
    result = finetune(model, train, val, out_dir=out_dir, **options)
    found = {"history": list(result.history), "model": result.model.state_dict()}
    torch.save(found, out_dir / f"rank{rank}.pt")


def both(name: str, out_dir: Path, *, dying: bool) -> list[int]:
    """Exit statuses of the processes."""
    return ranks(lambda _rank: run(name, out_dir, dying=dying))


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    write_synthetic_corpus(place / "corpus", patches=12, patch_size=32)
    for scenario in sys.argv[2:]:
        folder = place / scenario
        folder.mkdir()
        statuses = []
        if scenario.endswith("-killed"):
            statuses += both(scenario, folder, dying=True)
        statuses += both(scenario, folder, dying=False)
        sys.stdout.write(f"{scenario} {' '.join(map(str, statuses))}\n")
        sys.stdout.flush()
