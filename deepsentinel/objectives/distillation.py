"""Distillation: predict a teacher's features from less than the teacher saw.

Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550, for features as targets; with
parts of the input hidden from the student as in masked modelling, so that one network serves
either sensor, any bands and holes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from deepsentinel.errors import SampleError
from deepsentinel.features import Features
from deepsentinel.objectives.hiding import Hiding
from deepsentinel.objectives.objective import Objective
from deepsentinel.sample import Batch

TEACHER_KEY = "teacher"
"""Key of a batch under which the teacher's map lies: (B, D, h, w)."""


class Distillation(Objective):
    """Smooth L1 between a teacher's dense and pooled features and predictions from the encoder.

    The batch holds, beside the images, the teacher's map of the whole, unhidden patch under
    `"teacher"`. The dense part reads all maps of the encoder through one linear layer each,
    brought to the size of the teacher's map. The pooled part compares the embedding itself where it
    is as wide as the teacher's, so that distances in it become the teacher's, and else a linear
    layer on it. Targets are standardised channel by channel.

    Args:
        embed_dim: D of the encoder.
        out_channels: C_i of the encoder's maps.
        mean: (D,) of the teacher's map over the training patches.
        std: (D,) likewise.
        pooled_std: (D,) standard deviation of the teacher's map averaged over each patch.
        hiding: what the encoder is not shown.
        width: channels in which the encoder's maps meet.

    Example:
        >>> from deepsentinel.encoders.fusion import FusionEncoder
        >>> encoder = FusionEncoder("resnet10t")
        >>> ones = torch.ones(8)
        >>> objective = Distillation(encoder.embed_dim, encoder.out_channels, 0 * ones, ones, ones)
        >>> batch = {"image_s1": torch.full((2, 2, 32, 32), -9.0), "teacher": torch.zeros(2, 8, 4, 4)}
        >>> sorted(objective(encoder, batch, torch.Generator().manual_seed(0)))
        ['dense', 'loss', 'pooled']
    """

    mean: Tensor
    std: Tensor
    pooled_std: Tensor

    def __init__(
        self,
        embed_dim: int,
        out_channels: Sequence[int],
        mean: Tensor,
        std: Tensor,
        pooled_std: Tensor,
        *,
        hiding: Hiding | None = None,
        width: int = 192,
    ) -> None:
        super().__init__()
        self.hiding = hiding or Hiding()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])
        self.register_buffer("pooled_std", pooled_std)
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in out_channels)
        self.dense = nn.Sequential(nn.GELU(), nn.Conv2d(width, len(mean), 1))
        same = embed_dim == len(mean)
        self.pooled = nn.Identity() if same else nn.Linear(embed_dim, len(mean))

    def forward(self, encoder: Any, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """`loss`, and its parts `dense` and `pooled`.

        Raises:
            SampleError: the batch has no teacher's map.
        """
        if TEACHER_KEY not in batch:
            raise SampleError(
                f"the batch has no {TEACHER_KEY!r}, the teacher's map of the unhidden patch; it "
                f"holds {sorted(batch)}."
            )
        features = encoder.encode(self.hiding(batch, generator))
        dense, pooled = self.compare(features, batch[TEACHER_KEY])
        return {"loss": dense + pooled, "dense": dense.detach(), "pooled": pooled.detach()}

    def compare(self, features: Features, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Dense and pooled loss of features against a teacher's map (B, D, h, w).

        Patches of which the teacher's map is not finite, because it could not see them, do not count.
        """
        counted = teacher.isfinite().flatten(1).all(dim=1)
        teacher = teacher.masked_fill(~counted[:, None, None, None], 0.0)
        target = (teacher - self.mean) / self.std
        size = (teacher.shape[-2], teacher.shape[-1])
        met = [
            at_size(lateral(m), size)
            for lateral, m in zip(self.laterals, features.maps, strict=True)
        ]
        whole = (teacher.mean((2, 3)) - self.mean[:, 0, 0]) / self.pooled_std
        return (
            _smooth_l1(self.dense(torch.stack(met).sum(0)), target, counted),
            _smooth_l1(self.pooled(features.embedding), whole, counted),
        )


def _smooth_l1(found: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Mean over the patches that count; 0 where none does."""
    errors = F.smooth_l1_loss(found, wanted, reduction="none").flatten(1).mean(dim=1)
    return (errors * counted).sum() / counted.sum().clamp_min(1)


def at_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """A map averaged down or interpolated up to (h, w).

    Example:
        >>> at_size(torch.ones(1, 1, 8, 2), (4, 4)).shape
        torch.Size([1, 1, 4, 4])
    """
    if maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
