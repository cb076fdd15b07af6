"""Distillation from encoders of the zoo: one or more teachers look at the whole patch, as it is trained."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.pretrained import Pretrained
from deepsentinel.errors import ConfigError
from deepsentinel.features import Features
from deepsentinel.objectives.distillation import Distillation
from deepsentinel.objectives.hiding import Hiding
from deepsentinel.objectives.objective import Objective, detached
from deepsentinel.objectives.views import encode, images_of
from deepsentinel.sample import Batch, PatchMeta
from deepsentinel.zoo.load import load_encoder


class Teachers(Objective):
    """Predict the dense and pooled features of each teacher from less than it sees.

    The loss of `Distillation` for every teacher, added up. Targets are standardised channel by
    channel, so that no teacher outweighs another (Ranzinger et al., "PHI-S", arXiv 2410.01680); mean
    and spread are gathered over the first `calibrate` steps and then stay. Where the embedding is as
    wide as all teachers together, each of them has its part of it, and distances in that part become
    the teacher's; else a linear layer reads each from the whole.

    A teacher that cannot see a patch, because it reads another sensor, has no say in it. Teachers are
    not saved with the objective; their names or folders are options, loaded by `load_encoder`.

    Args:
        encoder: the student.
        teachers: names for `load_encoder`, or encoders.
        hiding: what the student is not shown.
        calibrate: steps over which the teachers' statistics are gathered.
        width: channels in which the student's maps meet.

    Raises:
        ConfigError: no teachers, or the same one twice.
        EncoderNotFoundError: an unknown name.

    Example:
        >>> encoder, teacher = FusionEncoder("resnet10t"), FusionEncoder("resnet10t").eval()
        >>> objective = Teachers(encoder, teachers=(teacher,))
        >>> batch = {"image_s1": torch.randn(4, 2, 32, 32) - 12}
        >>> sorted(objective(encoder, batch, torch.Generator().manual_seed(0)))
        ['dense_0', 'loss', 'pooled_0']
    """

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        teachers: tuple[str | Pretrained, ...] = ("galileo-nano",),
        hiding: Hiding | None = None,
        calibrate: int = 200,
        width: int = 192,
    ) -> None:
        super().__init__()
        if not teachers or len(set(teachers)) < len(teachers) or calibrate < 1:
            raise ConfigError(
                f"teachers={teachers}, calibrate={calibrate}: give one teacher or more, each once, and "
                "one step or more."
            )
        loaded = [load_encoder(t) if isinstance(t, str) else t for t in teachers]
        # A plain list: teachers are neither trained nor saved, and follow to the device of a batch.
        self.teachers = [_still(teacher) for teacher in loaded]
        self.hiding = hiding or Hiding()
        self.calibrate = calibrate
        widths = [teacher.out_channels[-1] for teacher in self.teachers]
        self.matches = nn.ModuleList(_match(encoder, w, self.hiding, width) for w in widths)
        if encoder.embed_dim == sum(widths):
            self._divide(widths)
        self.gathered = nn.ModuleList(Gathered(w) for w in widths)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss`, and the parts `dense_i` and `pooled_i` of each teacher, in their order."""
        features = encode(encoder, self.hiding(images_of(encoder, batch), generator))
        losses: dict[str, Tensor] = {}
        for i, teacher in enumerate(self.teachers):
            maps = look(teacher, batch).maps[-1]
            match, gathered = self.matches[i], self.gathered[i]
            assert isinstance(match, Distillation)  # noqa: S101 - for the type checker
            assert isinstance(gathered, Gathered)  # noqa: S101
            if self.training and torch.is_grad_enabled() and int(gathered.steps) < self.calibrate:
                gathered.add(maps)
                gathered.standardise(match)
            losses[f"dense_{i}"], losses[f"pooled_{i}"] = match.compare(features, maps)
        return detached({"loss": torch.stack(list(losses.values())).sum(), **losses})

    def _divide(self, widths: Sequence[int]) -> None:
        start = 0
        for match, width in zip(self.matches, widths, strict=True):
            match.pooled = Part(start, start + width)
            start += width


class Part(nn.Module):
    """Some neighbouring dimensions of a vector.

    Example:
        >>> Part(1, 3)(torch.arange(4.0)[None]).tolist()
        [[1.0, 2.0]]
    """

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, stop - start)."""
        return vectors[:, self.start : self.stop]


class Gathered(nn.Module):
    """Mean and standard deviation of a teacher's channels over batches, and of its means over patches.

    Example:
        >>> gathered = Gathered(1)
        >>> gathered.add(torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1))
        >>> gathered.add(torch.tensor([4.0, 6.0]).reshape(2, 1, 1, 1))
        >>> [x.item() for x in gathered.moments()]
        [3.0, 2.236..., 2.236...]
    """

    steps: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # Sum, sum of squares, and sum of squares of patch means; in double, as they are subtracted.
        self.register_buffer("sums", torch.zeros(3, channels, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.float64))

    @torch.no_grad()
    def add(self, maps: Tensor) -> None:
        """Count the patches (B, D, h, w) that are finite."""
        maps = maps[maps.isfinite().flatten(1).all(dim=1)].double()
        means = maps.mean(dim=(2, 3))
        self.sums += torch.stack(
            [maps.sum(dim=(0, 2, 3)), maps.square().sum(dim=(0, 2, 3)), means.square().sum(dim=0)]
        )
        self.counts += torch.tensor([maps[:, 0].numel(), len(maps)], device=maps.device)
        self.steps += 1

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation, and standard deviation of patch means, float32 (D,) each."""
        cells, patches = self.counts.clamp_min(1)
        mean = self.sums[0] / cells
        std = (self.sums[1] / cells - mean.square()).clamp_min(1e-12).sqrt()
        pooled = (self.sums[2] / patches - mean.square()).clamp_min(1e-12).sqrt()
        return mean.float(), std.float(), pooled.float()

    def standardise(self, match: Distillation) -> None:
        """Let a match use what was gathered."""
        if self.counts[1] < 2:
            return
        mean, std, pooled = self.moments()
        match.mean.copy_(mean[:, None, None])
        match.std.copy_(std.clamp_min(1e-6)[:, None, None])
        match.pooled_std.copy_(pooled.clamp_min(1e-6))


@torch.no_grad()
def look(teacher: Pretrained, batch: Batch) -> Features:
    """What a teacher makes of whole patches; NaN for those of which it can see nothing.

    It is told the month where it knows months and every patch has a date.

    Example:
        >>> teacher = FusionEncoder("resnet10t", s2_bands=()).eval()
        >>> batch = {"image_s1": torch.full((1, 2, 32, 32), float("nan"))}
        >>> look(teacher, batch).embedding.isnan().all().item()
        True
    """
    images = images_of(teacher, batch)
    device = next(iter(images.values())).device
    months = _months(batch.get("meta", ())) if "month" in teacher.card.inputs else None
    features: Features = teacher.to(device)(
        images.get("image_s1"),
        images.get("image_s2"),
        s1_bands=teacher.bands.get("s1"),
        s2_bands=teacher.bands.get("s2"),
        month=None if months is None else torch.tensor(months, device=device),
        empty="nan",
    )
    return features


def _months(metas: Sequence[PatchMeta]) -> list[int] | None:
    dates = [m.date_s2 or m.date_s1 for m in metas]
    known = [date.month for date in dates if date is not None]
    return known if known and len(known) == len(dates) else None


def _match(encoder: FusionEncoder, taught: int, hiding: Hiding, width: int) -> Distillation:
    """A head for a teacher of `taught` channels; it reads the embedding through a linear layer."""
    zeros, ones = torch.zeros(taught), torch.ones(taught)
    match = Distillation(
        encoder.embed_dim, encoder.out_channels, zeros, ones, ones, hiding=hiding, width=width
    )
    match.pooled = nn.Linear(encoder.embed_dim, taught)
    return match


def _still(teacher: Pretrained) -> Pretrained:
    return teacher.eval().requires_grad_(False)  # noqa: FBT003 - torch's signature
