"""What of a patch is shown: which sensors, and how much of Sentinel-2 lies under clouds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch.utils.data import Dataset

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.datasets.fields import cloud_field
from deepsentinel.errors import TrainingError
from deepsentinel.sample import IMAGE_KEYS, PatchMeta, Sample
from deepsentinel.training.evaluation.embed import Samples


@dataclass(frozen=True)
class Condition:
    """One way to show patches.

    Example:
        >>> Condition(("s1", "s2"), 0.25).name, Condition(("s1",), 0.25).shown
        ('both, 25 % cloud', Condition(sensors=('s1',), cloud=0.0))
    """

    sensors: tuple[Sensor, ...] = SENSORS
    cloud: float = 0.0
    """Share of Sentinel-2 that is made not observed, under clouds of random shape."""

    def __post_init__(self) -> None:
        if not 0 <= self.cloud <= 1:
            raise TrainingError(f"a cloud share of {self.cloud} was asked for; give 0 to 1.")

    @property
    def name(self) -> str:
        """For tables."""
        cloud = f", {100 * self.cloud:g} % cloud" if self.cloud else ""
        return f"{sensors_name(self.sensors)}{cloud}"

    @property
    def shown(self) -> "Condition":
        """The simplest condition that shows the same, so that it is embedded once.

        Clouds hide nothing from Sentinel-1, and Sentinel-2 under nothing but cloud is absent.
        """
        if "s2" not in self.sensors:
            return Condition(self.sensors)
        if self.cloud == 1 and len(self.sensors) > 1:
            return Condition(tuple(s for s in self.sensors if s != "s2"))
        return self


def sensors_name(sensors: Sequence[str]) -> str:
    """`s1`, `s2` or `both`."""
    return "both" if len(sensors) == len(SENSORS) else "+".join(sensors)


class Conditioned(Dataset[Sample]):
    """A dataset under one condition; the clouds of a patch depend on its id, the share and the seed.

    Other sensors become NaN.

    Example:
        >>> patch = {"image_s2": torch.zeros(12, 20, 20), "meta": PatchMeta(id="a")}
        >>> dim = Conditioned([patch], Condition(("s2",), 0.25))[0]["image_s2"]
        >>> float(dim.isnan().float().mean())
        0.25
    """

    def __init__(self, dataset: Samples, condition: Condition, *, seed: int = 0) -> None:
        self.dataset = dataset
        self.condition = condition
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        """The sample as the condition shows it."""
        sample = dict(self.dataset[index])
        for sensor, key in IMAGE_KEYS.items():
            if key in sample and sensor not in self.condition.sensors:
                sample[key] = torch.full_like(sample[key], torch.nan)
        image = sample.get("image_s2")
        if image is not None and self.condition.cloud > 0:
            covered = self._clouds(sample, index, image.shape[-2], image.shape[-1])
            sample["image_s2"] = image.masked_fill(covered, torch.nan)
        return sample

    def _clouds(self, sample: Sample, index: int, height: int, width: int) -> Any:
        meta = sample.get("meta")
        patch = crc32(meta.id.encode()) if isinstance(meta, PatchMeta) else index
        share = self.condition.cloud
        generator = np.random.default_rng([self.seed, patch, round(1000 * share)])
        return torch.from_numpy(cloud_field(height, width, share, generator))
