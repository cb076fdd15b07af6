"""A tiny encoder of our own, so that heads are tested on any pyramid, and batches for it."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsentinel.bands import Sensor
from deepsentinel.features import Features
from deepsentinel.sample import Batch


class TinyEncoder(nn.Module):
    """One convolution a stride on what is observed; has normalisation layers and dropout."""

    def __init__(self, strides: Sequence[int] = (4, 8), channels: Sequence[int] = (8, 16)) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.out_channels = tuple(channels)
        self.embed_dim = channels[-1]
        self.sensors: tuple[Sensor, ...] = ("s1", "s2")
        self.bands = {"s1": ("VV", "VH"), "s2": ("B02", "B03")}
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(4, c, s, stride=s), nn.BatchNorm2d(c), nn.GELU(), nn.Dropout2d(0.1)
            )
            for s, c in zip(strides, channels, strict=True)
        )

    def forward(
        self,
        s1: Tensor | None = None,
        s2: Tensor | None = None,
        *,
        s1_bands: Sequence[str] | None = None,
        s2_bands: Sequence[str] | None = None,
    ) -> Features:
        given = s1 if s1 is not None else s2
        B, _, H, W = given.shape
        s1 = given.new_full((B, 2, H, W), -12.0) if s1 is None else s1
        s2 = given.new_zeros((B, 2, H, W)) if s2 is None else s2[:, :2]
        x = torch.cat([s1.nan_to_num(-12.0) / 10 + 1.2, s2.nan_to_num(0.0) * 3], 1)
        maps = []
        for level, stride in zip(self.levels, self.strides, strict=True):
            padded = F.pad(x, (0, -W % stride, 0, -H % stride))
            maps.append(level(padded))
        return Features(maps[-1].mean((2, 3)), tuple(maps), self.strides)

    def encode(self, batch: Batch) -> Features:
        return self(batch.get("image_s1"), batch.get("image_s2"))


@pytest.fixture
def make_encoder() -> Callable[..., TinyEncoder]:
    return TinyEncoder


@pytest.fixture
def encoder() -> TinyEncoder:
    return TinyEncoder()


@pytest.fixture
def batch() -> Batch:
    """Four patches whose class is their brightness, in mask (with ignored pixels) and label."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(0, 3, (4, 8, 8), generator=generator)
    mask = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
    s2 = mask.unsqueeze(1) * 0.2 + 0.02 * torch.rand(4, 12, 32, 32, generator=generator)
    s1 = -20.0 + 3 * mask.unsqueeze(1) + torch.randn(4, 2, 32, 32, generator=generator)
    mask = mask.clone()
    mask[:, :3] = -1
    return {"image_s1": s1, "image_s2": s2, "mask": mask, "label": torch.tensor([0, 1, 2, -1])}
