"""Order, transforms and workers depend on seed and epoch alone."""

import torch
from torch.utils.data import Dataset, Subset

from deepsentinel.training.finetuning.loader import EpochLoader, in_order


class Drawing(Dataset):
    """Samples that draw from torch's global generator, and know their epoch."""

    def __init__(self) -> None:
        self.transforms = self
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict:
        return {
            "label": torch.tensor(index),
            "draw": torch.rand(()),
            "epoch": torch.tensor(self.epoch),
        }


def read(loader) -> dict[str, list]:
    batches = list(loader)
    return {k: torch.cat([b[k] for b in batches]).tolist() for k in batches[0]}


def test_epochs_differ_and_repeat() -> None:
    loader = EpochLoader(Drawing(), batch_size=3, seed=5)
    first = read(loader)
    loader.order.set_epoch(1)
    second = read(loader)
    assert sorted(first["label"]) == sorted(second["label"]) == list(range(7))
    assert first["label"] != second["label"]
    assert (first["epoch"], second["epoch"]) == ([0] * 7, [1] * 7)
    assert read(EpochLoader(Drawing(), batch_size=3, seed=5, start=1))["label"] == second["label"]
    assert read(EpochLoader(Drawing(), batch_size=3, seed=6))["label"] != first["label"]


def test_workers_draw_the_same_however_often_an_iterator_was_made() -> None:
    loader = EpochLoader(Subset(Drawing(), range(6)), batch_size=2, num_workers=1, seed=5)
    loader.order.set_epoch(2)
    iter(loader)
    again = EpochLoader(Subset(Drawing(), range(6)), batch_size=2, num_workers=1, seed=5, start=2)
    assert read(loader) == read(again)
    assert read(again)["epoch"] == [2] * 6


def test_in_order_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    samples = [{"label": torch.tensor(i)} for i in range(5)]
    assert [b["label"].tolist() for b in in_order(samples, batch_size=3)] == [[0, 1, 2], [3, 4]]
    assert torch.equal(torch.get_rng_state(), state)
