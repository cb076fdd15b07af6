"""Each sample with a neighbour on the ground, found in the geography of the index."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from deepsentinel.bands import DEFAULT_BANDS
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.errors import SampleError
from deepsentinel.sample import IMAGE_KEYS, NEIGHBOUR_KEYS, Sample

EARTH_KM = 6371.0


class WithNeighbours(Dataset[Sample]):
    """Samples of a dataset with the images of a patch near by under `neighbour_s1` and `neighbour_s2`.

    The neighbour is drawn among the patches of the same split whose centres lie within
    `within_km`, anew in each epoch; seed, epoch and place decide it. A patch without a neighbour,
    or without a position, comes with itself, which views then tell apart; `alone` counts them.
    Both keys are always there, NaN where the neighbour lacks the sensor, so that samples of several
    corpora make one batch.

    Args:
        dataset: a corpus with positions.
        within_km: greatest distance between the centres of neighbours.
        seed: decides the draws.
        required: refuse a corpus in which no patch has a neighbour; one of several may be so.

    Raises:
        SampleError: no patch has a neighbour, though it is required.

    Example:
        >>> import tempfile
        >>> from deepsentinel.datasets.synthetic import write_synthetic_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_synthetic_corpus(f"{folder}/demo", patches=8, patch_size=32)
        ...     pairs = WithNeighbours(DeepSentinelDataset(root, None, labels=()), within_km=1.0)
        ...     sample = pairs[0]
        >>> pairs.alone, sample["neighbour_s1"].shape, torch.equal(
        ...     sample["neighbour_s1"], sample["image_s1"]
        ... )
        (0, torch.Size([2, 32, 32]), False)
    """

    def __init__(
        self,
        dataset: DeepSentinelDataset,
        *,
        within_km: float = 5.0,
        seed: int = 0,
        required: bool = True,
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.near = near_places(_positions(dataset), within_km)
        """Places of the neighbours of each patch."""
        # Shared memory, so that workers that outlive an epoch hear of the next one.
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]
        if required and self.alone == len(dataset):
            raise SampleError(
                f"none of {len(dataset)} patches has another within {within_km} km. Enlarge "
                "within_km, or train with an objective that needs no neighbours."
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy shares memory with its own workers too."""
        self.__dict__.update(state)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def alone(self) -> int:
        """Patches without a neighbour."""
        return sum(len(places) == 0 for places in self.near)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, with other neighbours."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The sample of a patch and the images of its neighbour."""
        sample = self.dataset[index]
        other = self.dataset[self.neighbour(index % len(self))]
        brought = {
            NEIGHBOUR_KEYS[s]: _image(other, IMAGE_KEYS[s], len(bands), sample)
            for s, bands in (DEFAULT_BANDS | self.dataset.bands).items()
        }
        return {**sample, **brought}

    def neighbour(self, place: int) -> int:
        """Place of the patch that comes with another in this epoch."""
        near = self.near[place]
        if len(near) == 0:
            return place
        generator = np.random.default_rng([self.seed, int(self._epoch.item()), place])
        return int(near[generator.integers(len(near))])


def near_places(lonlat: NDArray[np.float64], within_km: float) -> list[NDArray[np.intp]]:
    """For each position the places of the others within a distance; none where it is NaN.

    Args:
        lonlat: (N, 2) in degrees.
        within_km: along the great circle.

    Example:
        >>> near_places(np.array([[0.0, 0.0], [0.01, 0.0], [5.0, 0.0]]), 2.0)
        [array([1]), array([0]), array([], dtype=int64)]
    """
    from sklearn.neighbors import BallTree

    known = np.flatnonzero(np.isfinite(lonlat).all(axis=1))
    near = [np.empty(0, dtype=np.intp)] * len(lonlat)
    if len(known) == 0:
        return near
    radians = np.radians(lonlat[known][:, ::-1])
    tree = BallTree(radians, metric="haversine")
    found = tree.query_radius(radians, within_km / EARTH_KM)
    for place, others in zip(known, found, strict=True):
        near[place] = np.sort(known[others][known[others] != place])
    return near


def _positions(dataset: DeepSentinelDataset) -> NDArray[np.float64]:
    rows = dataset.corpus.index.take(dataset.rows)
    columns = [rows.column(name).to_numpy(zero_copy_only=False) for name in ("lon", "lat")]
    return np.stack(columns, axis=1).astype(np.float64)


def _image(sample: Sample, key: str, bands: int, like: Sample) -> Tensor:
    """The image of a sensor; NaN in the size of the patch where it is absent."""
    if key in sample:
        found: Tensor = sample[key]
        return found
    present: Tensor = next(s[k] for s in (sample, like) for k in IMAGE_KEYS.values() if k in s)
    return torch.full((bands, *present.shape[-2:]), float("nan"))
