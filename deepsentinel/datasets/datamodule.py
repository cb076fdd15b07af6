"""`DeepSentinelDataModule`: loaders of a corpus for Lightning, repeatable to the sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from deepsentinel.bands import SENSORS
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.request import BandsLike, Clouds
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.stream_loader import StreamLoader
from deepsentinel.datasets.transforms import Compose
from deepsentinel.errors import SampleError
from deepsentinel.sample import Batch, Sample, collate
from deepsentinel.store import Options

LIGHTNING_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class ShuffledSampler(Sampler[int]):
    """An order of `size` indices that depends on seed and epoch alone.

    Lightning calls `set_epoch` at the start of each epoch; in a loop of your own, call it yourself.
    Resumed training then sees the order that undisturbed training would have seen.

    Args:
        size: number of indices.
        seed: decides the orders.
        on_epoch: called with each new epoch, such as `Compose.set_epoch`.

    Example:
        >>> sampler = ShuffledSampler(4, seed=0)
        >>> list(sampler) == list(sampler), sorted(sampler)
        (True, [0, 1, 2, 3])
    """

    def __init__(
        self, size: int, *, seed: int = 0, on_epoch: Callable[[int], None] | None = None
    ) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0
        self.on_epoch = on_epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        self.epoch = epoch
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.size, generator=generator).tolist()


class DeepSentinelDataModule(LightningDataModule):  # type: ignore[misc]  # lightning is untyped to mypy
    """Train, val and test loaders of one corpus.

    Order and random transforms depend on `seed` and epoch alone: neither on the number of workers
    nor on what ran before. The last, smaller batch of an epoch is kept.

    Args:
        root: folder or URL of the corpus.
        batch_size: patches a batch.
        num_workers: worker processes a loader; 0 reads in the main process.
        seed: decides shuffling and whatever else draws in workers.
        stream: of the train split, read instead of it; its own arguments then hold for training,
            transforms too. In several processes it shares itself out.
        train_transforms: for the train split only; random ones inside `Compose`.
        eval_transforms: for val and test, such as `CenterCrop`.
        sensors: as `DeepSentinelDataset` takes it; so are those that follow.
        bands: see there.
        labels: see there.
        clouds: see there.
        checksum: see there.
        requester_pays: see there.
        storage_options: see there.
        cache_dir: see there.

    Example:
        >>> import tempfile
        >>> from deepsentinel.datasets.synthetic import write_synthetic_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_synthetic_corpus(f"{folder}/demo", patches=12, patch_size=32)
        ...     data = DeepSentinelDataModule(root, batch_size=4)
        ...     batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["image_s1"].shape), len(batch["meta"])
        ((4, 2, 32, 32), 4)
    """

    def __init__(
        self,
        root: str | Path,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        stream: DeepSentinelStream | None = None,
        train_transforms: Callable[[Sample], Sample] | None = None,
        eval_transforms: Callable[[Sample], Sample] | None = None,
        sensors: Sequence[str] = SENSORS,
        bands: BandsLike = None,
        labels: Sequence[str] | None = None,
        clouds: Clouds = "nan",
        checksum: bool = False,
        requester_pays: bool | str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        if stream is not None and train_transforms is not None:
            raise SampleError(
                "train_transforms would not be used: a stream has transforms of its own. Make it with "
                "DeepSentinelStream(..., transforms=...)."
            )
        self.root = root
        self.stream = stream
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.train_transforms = train_transforms
        self.eval_transforms = eval_transforms
        self.sensors = sensors
        self.bands = bands
        self.labels = labels
        self.clouds = clouds
        self.checksum = checksum
        self.requester_pays = requester_pays
        self.storage_options = Options(storage_options)  # whose repr and pickle hold no secret
        self.cache_dir = cache_dir
        self.datasets: dict[str, DeepSentinelDataset] = {}

    def setup(self, stage: str) -> None:
        """Open the splits that a stage of Lightning needs, so that wrong names fail at once."""
        for split in LIGHTNING_SPLITS.get(stage, ()):
            if split != "train" or self.stream is None:
                self.dataset(split)

    def dataset(self, split: str) -> DeepSentinelDataset:
        """The dataset of one split."""
        if split not in self.datasets:
            self.datasets[split] = DeepSentinelDataset(
                self.root,
                split,
                sensors=self.sensors,
                bands=self.bands,
                labels=self.labels,
                clouds=self.clouds,
                checksum=self.checksum,
                requester_pays=self.requester_pays,
                storage_options=self.storage_options,
                cache_dir=self.cache_dir,
                transforms=self.train_transforms if split == "train" else self.eval_transforms,
            )
        return self.datasets[split]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the train split."""
        if self.stream is not None:
            return StreamLoader(
                self.stream,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                seed=self.seed,
                epoch=lambda: None if self.trainer is None else int(self.trainer.current_epoch),
                world_size=1 if self.trainer is None else self.trainer.world_size,
            )
        dataset = self.dataset("train")
        compose = self.train_transforms if isinstance(self.train_transforms, Compose) else None
        sampler = ShuffledSampler(
            len(dataset), seed=self.seed, on_epoch=None if compose is None else compose.set_epoch
        )
        return self._loader(dataset, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the val split, in order."""
        return self._loader(self.dataset("val"), None)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test split, in order."""
        return self._loader(self.dataset("test"), None)

    def _loader(
        self, dataset: DeepSentinelDataset, sampler: Sampler[int] | None
    ) -> DataLoader[Batch]:
        loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # seeds the workers
        )
        return loader
