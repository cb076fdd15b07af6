"""Batches of a stream: every sample once, in the order of the epoch, for Lightning too."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from deepsentinel.datasets.datamodule import DeepSentinelDataModule
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.stream_loader import StreamLoader
from deepsentinel.errors import SampleError


def ids(loader) -> list[list[str]]:
    return [[m.id for m in batch["meta"]] for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_once_in_as_many_batches_as_it_says(synthetic_root, workers) -> None:
    stream = DeepSentinelStream(synthetic_root, None, prefetch=2)
    loader = StreamLoader(stream, batch_size=5, num_workers=workers, epoch=lambda: 3)
    batches = ids(loader)
    assert len(batches) == len(loader)
    given = [name for batch in batches for name in batch]
    assert sorted(given) == sorted(stream.dataset.corpus.index["id"].to_pylist())
    assert ids(loader) == batches, "the same epoch again"
    loader.epoch = lambda: 4
    assert ids(loader) != batches


def test_processes_must_get_equally_many(synthetic_root) -> None:
    stream = DeepSentinelStream(synthetic_root, None)
    with pytest.raises(SampleError, match="remainder='pad' or 'drop'"):
        StreamLoader(stream, batch_size=4, world_size=2)


class Reading(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, index):
        self.seen += [(self.current_epoch, m.id) for m in batch["meta"]]
        return self.weight * 1.0

    def validation_step(self, batch, index) -> None:
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__`")
def test_a_data_module_trains_on_it(synthetic_root) -> None:
    stream = DeepSentinelStream(synthetic_root, labels=(), seed=4, prefetch=2)
    data = DeepSentinelDataModule(synthetic_root, batch_size=4, labels=(), stream=stream)
    module = Reading()
    Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=2,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, datamodule=data)
    expected = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        expected += [(epoch, sample["meta"].id) for sample in stream]
    assert module.seen == expected


def test_a_data_module_refuses_transforms_that_nobody_would_use(synthetic_root) -> None:
    stream = DeepSentinelStream(synthetic_root)
    with pytest.raises(SampleError, match="a stream has transforms of its own"):
        DeepSentinelDataModule(synthetic_root, stream=stream, train_transforms=lambda s: s)
