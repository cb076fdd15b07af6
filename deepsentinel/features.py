"""What flows between encoder, head and evaluation: `Features` and `Prediction`, and who makes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor
from torch.utils import _pytree as pytree

from deepsentinel.bands import Sensor
from deepsentinel.sample import Batch


@dataclass(frozen=True, eq=False)
class Features:
    """What an encoder makes of a batch.

    Example:
        >>> import torch
        >>> f = Features(torch.zeros(2, 8), (torch.zeros(2, 4, 16, 16),), (4,))
        >>> f.embedding.shape, f.maps[0].shape, f.strides
        (torch.Size([2, 8]), torch.Size([2, 4, 16, 16]), (4,))
    """

    embedding: Tensor
    """(B, D): one vector a patch."""
    maps: tuple[Tensor, ...]
    """(B, C_i, ceil(H / s_i), ceil(W / s_i)) each, fine to coarse."""
    strides: tuple[int, ...]
    """s_i of each map, in pixels of the input."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same features on another device or in another dtype, as `Tensor.to` takes them."""
        return type(self)(
            self.embedding.to(*args, **kwargs),
            tuple(m.to(*args, **kwargs) for m in self.maps),
            self.strides,
        )


def _unflatten(leaves: Iterable[Any], strides: tuple[int, ...]) -> Features:
    embedding, maps = leaves
    return Features(embedding, tuple(maps), strides)


# torch.export and torch.compile then take an encoder as it is, Features in its output and all.
pytree.register_pytree_node(
    Features,
    lambda f: ([f.embedding, list(f.maps)], f.strides),
    _unflatten,
    serialized_type_name="deepsentinel.Features",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Base of what a model predicts: one frozen dataclass a task, the same in train and eval."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same prediction on another device, as `Tensor.to` takes it."""
        return type(self)(*(getattr(self, f.name).to(*args, **kwargs) for f in fields(self)))


@dataclass(frozen=True, eq=False)
class Classification(Prediction):
    """Classes of whole patches."""

    logits: Tensor
    """(B, K), before softmax (single label) or sigmoid (multi-label)."""
    probabilities: Tensor
    """(B, K); rows sum to 1 for single label only."""
    classes: Tensor
    """int64 (B,) class ids for single label; bool (B, K) for multi-label."""


@dataclass(frozen=True, eq=False)
class Segmentation(Prediction):
    """Classes of pixels, at the size of the input."""

    logits: Tensor
    """(B, K, H, W)."""
    probabilities: Tensor
    """(B, K, H, W), summing to 1 over K."""
    classes: Tensor
    """int64 (B, H, W)."""


@dataclass(frozen=True, eq=False)
class Detection(Prediction):
    """Objects in patches, one entry of each list a patch; N differs from patch to patch."""

    boxes: list[Tensor]
    """float32 (N, 4) each: x0, y0, x1, y1 in pixels, within the patch."""
    scores: list[Tensor]
    """(N,) each, from 0 to 1, descending."""
    labels: list[Tensor]
    """int64 (N,) each: class ids from 0, no background among them."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same detections on another device, as `Tensor.to` takes it."""
        lists = (self.boxes, self.scores, self.labels)
        return type(self)(*([t.to(*args, **kwargs) for t in tensors] for tensors in lists))


@dataclass(frozen=True, eq=False)
class Regression(Prediction):
    """Quantities of pixels or of whole patches, in the units of the target."""

    values: Tensor
    """(B, K, H, W), or (B, K) of patches."""


@dataclass(frozen=True, eq=False)
class Matching(Prediction):
    """Whether the Sentinel-1 and the Sentinel-2 patch of each pair show the same place.

    Pairs that lack a sensor are NaN, their class -1.
    """

    similarity: Tensor
    """(B,) cosine of the two vectors of each pair."""
    probabilities: Tensor
    """(B,) that both show the same place."""
    classes: Tensor
    """int64 (B,): 1 the same place, 0 another, -1 not known."""
    vectors: Tensor
    """(B, 2, D) of unit length, Sentinel-1 then Sentinel-2, for search across sensors."""


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns patches of either or both sensors into `Features`.

    Encoders are `torch.nn.Module`s; `deepsentinel.load_encoder` returns them,
    `deepsentinel.FusionEncoder` builds a new one. Those of this library also know their card and how
    to save and publish themselves: `deepsentinel.Encoder`.
    """

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Sensors that the encoder can read."""

    @property
    def bands(self) -> dict[Sensor, tuple[str, ...]]:
        """Bands that the encoder uses, by sensor, in its own order."""

    @property
    def embed_dim(self) -> int:
        """D of `Features.embedding`."""

    @property
    def out_channels(self) -> tuple[int, ...]:
        """C_i of `Features.maps`."""

    @property
    def strides(self) -> tuple[int, ...]:
        """s_i of `Features.maps`."""

    def __call__(
        self,
        s1: Tensor | None = None,
        s2: Tensor | None = None,
        *,
        s1_bands: Sequence[str] | None = None,
        s2_bands: Sequence[str] | None = None,
    ) -> Features:
        """Features of dB (B, 2, H, W) and reflectance (B, 12, H, W); either may be `None`."""

    def encode(self, batch: Batch) -> Features:
        """Features of a batch as `deepsentinel.collate` makes it."""


@runtime_checkable
class Head(Protocol):
    """Anything that turns `Features` into logits and is trained on a batch's targets."""

    def __call__(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Logits; `size` is (H, W) of the input."""

    def loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses by name; `"loss"` is what training minimises."""

    def decode(self, logits: Tensor) -> Prediction:
        """The prediction that the logits stand for."""
