"""`DeepSentinelDataModule`: the same order and draws whatever the number of workers."""

import pickle

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

try:  # torchgeo 0.10 renamed them
    from torchgeo.tasks import SemanticSegmentation
except ImportError:
    from torchgeo.trainers import SemanticSegmentationTask as SemanticSegmentation
from torchgeo.transforms import AppendNDVI

from deepsentinel import DeepSentinelDataModule
from deepsentinel.datasets.datamodule import ShuffledSampler
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.datasets.transforms import (
    CenterCrop,
    Compose,
    RandomCrop,
    RandomFlip,
    Speckle,
    ToTorchgeo,
)
from deepsentinel.errors import LabelError, StoreError
from deepsentinel.store import open_store

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # lightning 2.6 on torch 2.15
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),  # Python 3.12 and later
]


def trainer(**settings) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def epoch_of(data: DeepSentinelDataModule, epoch: int):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return [m.id for b in batches for m in b["meta"]], torch.cat([b["image_s1"] for b in batches])


def test_order_and_draws_depend_on_seed_and_epoch_alone(synthetic_root):
    def module(workers, seed=1):
        return DeepSentinelDataModule(
            synthetic_root,
            batch_size=5,
            num_workers=workers,
            seed=seed,
            train_transforms=Compose(RandomFlip(), Speckle(), seed=seed),
        )

    ids, pixels = epoch_of(module(0), 2)
    again_ids, again = epoch_of(module(2), 2)
    assert ids == again_ids
    assert torch.equal(pixels, again)
    assert len(set(ids)) == 16
    assert epoch_of(module(0), 3)[0] != ids
    assert epoch_of(module(0, seed=2), 2)[0] != ids


def test_transforms_are_for_their_splits(synthetic_root):
    data = DeepSentinelDataModule(
        synthetic_root,
        batch_size=4,
        train_transforms=Compose(RandomCrop(16)),
        eval_transforms=CenterCrop(24),
        bands=("VV", "B04"),
    )
    sizes = [
        next(iter(loader))["image_s2"].shape
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]
    assert sizes == [(4, 1, 16, 16), (4, 1, 24, 24), (4, 1, 24, 24)]
    in_order = [m.id for b in data.test_dataloader() for m in b["meta"]]
    assert in_order == list(data.dataset("test").index["id"])


def test_wrong_names_fail_in_setup(synthetic_root):
    with pytest.raises(LabelError, match="'nothing'"):
        DeepSentinelDataModule(synthetic_root, labels=("nothing",)).setup("fit")


def test_sampler_is_a_permutation_of_its_own_each_epoch():
    sampler = ShuffledSampler(50, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
        assert tuple(sampler) == orders[-1]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


class _Remember(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[str]] = {}
        self.sums: list[float] = []
        self.validated: set[float] = set()

    def training_step(self, batch):
        self.epochs.setdefault(self.current_epoch, []).extend(m.id for m in batch["meta"])
        self.sums.append(batch["image_s1"].double().sum().item())
        return self.weight * batch["image_s1"].mean()

    def validation_step(self, batch):
        self.validated.add(batch["image_s1"].double().sum().item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("workers", [0, 1])
def test_lightning_shuffles_and_augments_anew_each_epoch(synthetic_root, workers):
    augment = Compose(Speckle(), seed=1)
    data = DeepSentinelDataModule(
        synthetic_root, batch_size=16, num_workers=workers, train_transforms=augment
    )
    model = _Remember()
    trainer(max_epochs=3, num_sanity_val_steps=0).fit(model, datamodule=data)
    orders = list(model.epochs.values())
    assert len(orders) == 3
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({round(s, 3) for s in model.sums}) == 3
    assert augment.epoch == 2
    assert len(model.validated) == 1  # one batch, alike in every epoch


def test_one_step_of_a_torchgeo_trainer(synthetic_root):
    to_torchgeo = ToTorchgeo(fill={"s1": -25.0, "s2": 0.0})
    data = DeepSentinelDataModule(
        synthetic_root, batch_size=2, train_transforms=to_torchgeo, eval_transforms=to_torchgeo
    )
    task = SemanticSegmentation(
        model="unet",
        backbone="resnet18",
        weights=None,
        in_channels=14,
        task="multiclass",
        num_classes=8,
        ignore_index=-1,
    )
    before = [p.detach().clone() for p in task.parameters()]
    fitting = trainer(max_steps=1, limit_val_batches=0)
    fitting.fit(task, datamodule=data)
    assert torch.isfinite(fitting.callback_metrics["train_loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))


def test_a_torchgeo_transform_and_kornia_work_on_a_batch(synthetic_root):
    import kornia.augmentation as K

    data = DeepSentinelDataModule(
        synthetic_root, batch_size=2, eval_transforms=ToTorchgeo(fill={"s1": -25.0, "s2": 0.0})
    )
    batch = next(iter(data.val_dataloader()))
    red, nir = 2 + 3, 2 + 7
    with_ndvi = AppendNDVI(index_nir=nir, index_red=red)(batch["image"])
    expected = (batch["image"][:, nir] - batch["image"][:, red]) / (
        batch["image"][:, nir] + batch["image"][:, red]
    )
    assert torch.allclose(with_ndvi[:, -1], expected, atol=1e-5)
    rasters = {k: batch[k] for k in ("image_s1", "image_s2")}
    rasters["mask"] = batch["mask"][:, None].float()
    flip = K.AugmentationSequential(K.RandomHorizontalFlip(p=1.0), data_keys=None)
    flipped = flip(rasters)
    assert all(torch.equal(flipped[k], rasters[k].flip(-1)) for k in rasters)


def test_a_remote_corpus(tmp_path):
    root = write_synthetic_corpus(tmp_path / "c", patches=12, patch_size=32)
    url = f"memory://{tmp_path.name}/datamodule"
    there = open_store(url)
    for file in (f for f in root.rglob("*") if f.is_file()):
        there.write(file.relative_to(root).as_posix(), file.read_bytes())
    near, far = (DeepSentinelDataModule(r, batch_size=4) for r in (root, url))
    for left, right in zip(near.train_dataloader(), far.train_dataloader(), strict=True):
        assert torch.equal(left["image_s2"], right["image_s2"])
    data = DeepSentinelDataModule(
        "az://c/x", requester_pays="me", storage_options={"account_key": "a-secret-key"}
    )
    assert b"a-secret-key" not in pickle.dumps(data.storage_options)
    assert "a-secret-key" not in repr(data.storage_options)
    with pytest.raises(StoreError, match="Azure has no requester pays"):
        data.setup("fit")
