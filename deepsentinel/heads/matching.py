"""Do these two patches show the same place? `MatchingHead`, and `Matcher`: Sentinel-1 against -2."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsentinel.bands import SENSORS
from deepsentinel.errors import LabelError, SampleError, UnknownNameError
from deepsentinel.features import Encoder, Features, Matching
from deepsentinel.heads.classes import MATCHES, Classes
from deepsentinel.heads.model import Model, image_size
from deepsentinel.heads.readout import Readout
from deepsentinel.sample import IMAGE_KEYS, Batch, PatchMeta


class MatchingHead(nn.Module):
    """Embeddings of both sensors to vectors that are near where the place is the same.

    Each sensor has layers of its own. The logit of a pair is the cosine of its two vectors under a
    scale and a bias that are learnt.

    Args:
        embed_dim: D of the embedding.
        dim: of the vectors.
        in_channels: C_i of the encoder's maps, for `head="attention"`.
        head: `"linear"`, `"mlp"` or `"attention"`, as in `Readout`.
        dropout: in front of the last layer.

    Example:
        >>> head = MatchingHead(16, dim=8)
        >>> head(Features(torch.randn(2 * 3, 16), (), ()), (64, 64)).shape  # 3 pairs
        torch.Size([3, 2, 8])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        dim: int = 128,
        in_channels: Sequence[int] = (),
        head: str = "mlp",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise LabelError(f"dim={dim}: the vectors need at least one number.")
        self.project = nn.ModuleList(
            Readout(embed_dim, dim, head=head, in_channels=in_channels, dropout=dropout)
            for _ in SENSORS
        )
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Unit vectors (B, 2, dim) of 2 B patches, first all of S1, then all of S2."""
        halves = [_half(features, i) for i in range(len(SENSORS))]
        vectors = [project(half) for project, half in zip(self.project, halves, strict=True)]
        return F.normalize(torch.stack(vectors, dim=1).float(), dim=-1)

    def loss(
        self, vectors: Tensor, batch: Batch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """`loss`, the binary cross entropy of right and wrong pairs, which weigh the same.

        Right pairs are those of the batch; wrong ones are made from it: each S1 patch with the S2
        patch of another place. Pairs that lack a sensor count nothing; where no wrong pair can be
        made, the right ones are all the loss.

        Args:
            vectors: (B, 2, dim) as `forward` makes them.
            batch: its `meta` says which patches show one place, as of several dates.
            generator: draws one wrong pair for each right one; without it all wrong pairs count.
        """
        same = same_place(batch, len(vectors))
        known = torch.isfinite(vectors).all(dim=(1, 2))
        right = torch.diag(known)
        wrong = ~same.to(vectors.device) & known & known.unsqueeze(1)
        if generator is not None:
            drawn = torch.zeros_like(wrong)
            partner = wrong_partners(len(vectors), generator).to(vectors.device)
            drawn[torch.arange(len(vectors), device=vectors.device), partner] = True
            wrong &= drawn
        logits = self.logits(vectors.nan_to_num(), pairs=False)
        costs = _mean(F.softplus(-logits), right) + _mean(F.softplus(logits), wrong)
        sides = right.any().long() + wrong.any().long()
        return {"loss": costs / sides.clamp(min=1)}

    def logits(self, vectors: Tensor, *, pairs: bool = True) -> Tensor:
        """(B,) of each pair; with `pairs=False` (B, B) of every S1 patch with every S2 patch."""
        s1, s2 = vectors.unbind(1)
        with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 has 3 digits
            cosine = (s1 * s2).sum(-1) if pairs else s1 @ s2.T
        logits: Tensor = cosine * self.log_scale.exp() + self.bias
        return logits

    def decode(self, vectors: Tensor) -> Matching:
        """Whether each pair shows one place."""
        probabilities = self.logits(vectors).sigmoid()
        known = torch.isfinite(probabilities)
        classes = torch.where(known, (probabilities >= 0.5).long(), -1)
        return Matching((vectors[:, 0] * vectors[:, 1]).sum(-1), probabilities, classes, vectors)

    def labelled(self, batch: Batch) -> int:
        """How many pairs of the batch have both sensors."""
        return int(paired(batch).sum())


class Matcher(Model[Matching]):
    """Encoder and head: does this Sentinel-1 patch show the place of this Sentinel-2 patch?

    Each sensor goes through the encoder alone. Which weights they share is the encoder's affair:
    `FusionEncoder(fusion="early")` has one trunk behind two stems, `fusion="late"` two trunks, the
    pseudo-siamese network of Hughes et al. (IEEE GRSL 2018, arXiv 1801.08467). No label is needed:
    the pairs of the batch are right, and wrong pairs are made from it.

    Args:
        encoder: any encoder that reads both sensors.
        dim: of the vectors that are compared.
        head: `"linear"`, `"mlp"` or `"attention"` between embedding and vector.
        dropout: in front of the last layer.

    Raises:
        UnknownNameError: an unknown head, or an encoder of one sensor.

    Example:
        >>> from deepsentinel import FusionEncoder
        >>> model = Matcher(FusionEncoder("resnet10t", levels=(1, 2)), dim=16)
        >>> s1, s2 = torch.full((3, 2, 32, 32), -12.0), torch.full((3, 12, 32, 32), 0.05)
        >>> model(s1=s1, s2=s2).probabilities.shape
        torch.Size([3])
    """

    task = "matching"
    described = ()
    exported = ("similarity", "probabilities")

    def __init__(
        self, encoder: Encoder, *, dim: int = 128, head: str = "mlp", dropout: float = 0.0
    ) -> None:
        if set(encoder.sensors) != set(SENSORS):
            raise UnknownNameError(
                f"a matcher compares {' and '.join(SENSORS)}, but the encoder reads "
                f"{' '.join(encoder.sensors)} only. Take one of both sensors."
            )
        maps = encoder.out_channels
        module = MatchingHead(
            encoder.embed_dim, dim=dim, in_channels=maps, head=head, dropout=dropout
        )
        super().__init__(encoder, module, Classes(MATCHES))
        self.options: dict[str, Any] = {"dim": dim, "head": head, "dropout": dropout}

    def features(self, s1: Tensor | None, s2: Tensor | None, **options: Any) -> Features:
        """Features of 2 B patches, first all of S1 alone, then all of S2 alone.

        Raises:
            SampleError: one of the two is missing.
        """
        if s1 is None or s2 is None:
            raise SampleError("a matcher compares two patches: give both s1= and s2=.")
        per_patch = [k for k, v in options.items() if isinstance(v, Tensor) and v.ndim]
        doubled = {k: torch.cat([options[k]] * len(SENSORS)) for k in per_patch}
        return super().features(*_stacked(s1, s2), **options | doubled)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss` over the pairs of a batch and wrong pairs made from it.

        Args:
            batch: patches of both sensors; two or more of different places.
            generator: draws one wrong pair for each right one; without it all wrong pairs count.

        Raises:
            SampleError: the batch lacks a sensor.
        """
        losses: dict[str, Tensor] = self.head.loss(self.logits(batch), batch, generator)
        return losses

    def logits(self, batch: Batch) -> Tensor:
        """Vectors (B, 2, dim) of a batch, NaN where a pair lacks a sensor."""
        size, kept = image_size(batch), paired(batch)
        shape = (len(kept), len(SENSORS), self.options["dim"])
        vectors: Tensor = batch[IMAGE_KEYS["s1"]].new_full(shape, torch.nan)
        if not bool(kept.any()):
            return vectors
        places = kept.nonzero().flatten()
        s1, s2 = _stacked(*(batch[IMAGE_KEYS[s]][places] for s in SENSORS))
        doubled: Batch = {IMAGE_KEYS["s1"]: s1, IMAGE_KEYS["s2"]: s2}
        if "meta" in batch:
            doubled["meta"] = [batch["meta"][i] for i in places.tolist()] * len(SENSORS)
        found: Tensor = self.head(self.encoder.encode(doubled), size)
        return vectors.index_put((places,), found.to(vectors.dtype))


def paired(batch: Batch) -> Tensor:
    """Which patches of a batch have an observed value of either sensor: bool (B,).

    Raises:
        SampleError: the batch lacks a sensor.

    Example:
        >>> s2 = torch.tensor([0.1, torch.nan]).reshape(2, 1, 1, 1)
        >>> paired({"image_s1": torch.zeros(2, 2, 4, 4), "image_s2": s2}).tolist()
        [True, False]
    """
    missing = [IMAGE_KEYS[s] for s in SENSORS if IMAGE_KEYS[s] not in batch]
    if missing:
        raise SampleError(
            f"the batch lacks {' and '.join(missing)}; a matcher compares both sensors. Read the "
            'corpus with sensors=("s1", "s2").'
        )
    images: list[Tensor] = [batch[IMAGE_KEYS[s]] for s in SENSORS]
    return torch.stack([torch.isfinite(x).flatten(1).any(1) for x in images]).all(0)


def same_place(batch: Batch, count: int) -> Tensor:
    """Which patches of a batch show one place: bool (B, B).

    Example:
        >>> same_place({"label": torch.zeros(2)}, 2).tolist()
        [[True, False], [False, True]]
    """
    places = torch.tensor(places_of(batch.get("meta", ()), count))
    return places == places.unsqueeze(1)


def places_of(metas: Sequence[PatchMeta], count: int) -> list[int]:
    """A number for the place of each of `count` patches, by longitude and latitude of its centre.

    Patches within about a metre are one place, as those of several dates; without a position each
    patch has a place of its own. Patches that overlap in part count as two places.

    Example:
        >>> a, b = PatchMeta(id="a", lon=9.0, lat=50.0), PatchMeta(id="b", lon=9.0, lat=50.0)
        >>> places_of([a, PatchMeta(id="c"), b], 3)
        [0, 1, 0]
    """
    known = [
        i if m.lon is None or m.lat is None else (round(m.lon, 5), round(m.lat, 5))
        for i, m in enumerate(metas)
    ]
    numbers = {place: i for i, place in enumerate(dict.fromkeys(known))}
    return [numbers[place] for place in known] if known else list(range(count))


def wrong_partners(count: int, generator: torch.Generator) -> Tensor:
    """A random order of `count` things in which none is in its own place (Sattolo's algorithm).

    Example:
        >>> partners = wrong_partners(5, torch.Generator().manual_seed(0))
        >>> sorted(partners.tolist()), bool((partners == torch.arange(5)).any())
        ([0, 1, 2, 3, 4], False)
    """
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = int(torch.randint(last, (1,), generator=generator))
        order[last], order[other] = order[other], order[last]
    return torch.tensor(order, dtype=torch.int64)


def _stacked(s1: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
    """Both sensors of 2 B patches: the first B have S1 alone, the others S2 alone.

    One batch of both, so that batch norms learn the statistics that they are used with.
    """
    absent_s1, absent_s2 = torch.full_like(s1, torch.nan), torch.full_like(s2, torch.nan)
    return torch.cat([s1, absent_s1]), torch.cat([absent_s2, s2])


def _half(features: Features, number: int) -> Features:
    """One sensor's half of stacked features."""
    chosen = [
        x.reshape(len(SENSORS), x.shape[0] // len(SENSORS), *x.shape[1:])[number]
        for x in (features.embedding, *features.maps)
    ]
    return Features(chosen[0], tuple(chosen[1:]), features.strides)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
