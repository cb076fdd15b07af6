"""Quantities of pixels or patches: `RegressionHead` on features, and `Regressor`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepsentinel.errors import LabelError
from deepsentinel.features import Encoder, Features, Regression
from deepsentinel.heads.classes import check_classes
from deepsentinel.heads.decoders import build_decoder
from deepsentinel.heads.losses import REGRESSION_LOSSES, check_loss, regression
from deepsentinel.heads.model import Model
from deepsentinel.heads.neck import to_pixels
from deepsentinel.heads.readout import Readout
from deepsentinel.heads.targets import mask_target, value_target
from deepsentinel.sample import Batch


class RegressionHead(nn.Module):
    """Features to quantities; what it learns is on the scale of the target's mean and spread.

    Args:
        body: features to maps or numbers, K of them.
        target_mean: K means of the target.
        target_std: K standard deviations of the target.
        per_pixel: whether `body` gives maps (B, K, h, w); else numbers (B, K).
        loss: one of `REGRESSION_LOSSES`.
        focus_classes: ids of `mask` whose pixels count once more.
        focus_weight: how much that counts.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: "PixelBody | Readout",
        *,
        target_mean: Sequence[float],
        target_std: Sequence[float],
        per_pixel: bool,
        loss: str,
        focus_classes: Sequence[int],
        focus_weight: float,
    ) -> None:
        super().__init__()
        self.body = body
        self.per_pixel = per_pixel
        self.kind = check_loss(loss, REGRESSION_LOSSES)
        self.focus_classes = tuple(focus_classes)
        self.focus_weight = focus_weight
        self.register_buffer("mean", torch.tensor(target_mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(target_std, dtype=torch.float32))

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Values in the units of the target; `size` is (H, W) of the input."""
        pixels = isinstance(self.body, PixelBody)
        scaled: Tensor = self.body(features, size) if pixels else self.body(features)
        return scaled * self._shaped(self.std) + self._shaped(self.mean)

    def loss(self, values: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss` in standard deviations of the target, `mae` in its units; NaN counts nothing.

        With focus classes also `focus`, the mean absolute error over their pixels.

        Raises:
            SampleError: the batch has no `target`, or no `mask` where classes are focused on.
            LabelError: a target that is not of numbers; a mask that is not of class ids.
            ShapeError: they have another shape.
        """
        size = (values.shape[-2], values.shape[-1]) if self.per_pixel else None
        target = value_target(batch, len(self.mean), size)
        found, wanted = self._scaled(values), self._scaled(target)
        total = regression(found, wanted, kind=self.kind)
        parts = {"mae": regression(values.detach(), target)}
        if self.focus_classes:
            focus = regression(found, torch.where(self._focus(batch, size), wanted, torch.nan))
            parts["focus"] = focus.detach()
            total = total + self.focus_weight * focus
        return {"loss": total, **parts}

    def decode(self, values: Tensor) -> Regression:
        """The values as they are."""
        return Regression(values)

    def labelled(self, batch: Batch) -> int:
        """How many values of the batch are known."""
        return int(torch.isfinite(batch["target"]).sum())

    def _scaled(self, values: Tensor) -> Tensor:
        return (values - self._shaped(self.mean)) / self._shaped(self.std)

    def _shaped(self, numbers: Tensor) -> Tensor:
        return numbers[:, None, None] if self.per_pixel else numbers

    def _focus(self, batch: Batch, size: tuple[int, int] | None) -> Tensor:
        """Where (B, 1, H, W) the pixels of the classes are that count once more."""
        assert size is not None  # noqa: S101 - refused when the model was built
        mask = mask_target(batch, 2**31, size).unsqueeze(1)
        return torch.isin(mask, torch.tensor(self.focus_classes, device=mask.device))


class PixelBody(nn.Module):
    """A decoder and a 1 x 1 convolution: features to K maps at the size of the input.

    Example:
        >>> body = PixelBody((8,), (4,), 2, decoder="linear", channels=32)
        >>> body(Features(torch.zeros(1, 8), (torch.zeros(1, 8, 5, 5),), (4,)), (18, 20)).shape
        torch.Size([1, 2, 18, 20])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        out: int,
        *,
        decoder: str,
        channels: int,
    ) -> None:
        super().__init__()
        self.decoder = build_decoder(decoder, in_channels, strides, channels=channels)
        self.project = nn.Conv2d(self.decoder.out_channels, out, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, K, H, W)."""
        return to_pixels(self.project(self.decoder(features, size)), self.decoder.out_stride, size)


class Regressor(Model[Regression]):
    """Encoder and head: Sentinel-1 and Sentinel-2 patches to quantities of pixels or of patches.

    Args:
        encoder: any encoder, such as `deepsentinel.load_encoder()`.
        num_targets: K, how many quantities; `target` is (B, K, H, W), or (B, K) of patches, and
            NaN where it is not known.
        per_pixel: a value a pixel; `False` gives one a patch.
        decoder: of pixels, as a `Segmenter` takes it.
        head: of patches: `"linear"`, `"mlp"` or `"attention"`, as a `Classifier` takes it.
        target_names: K names.
        target_mean: K means of the target, such as `training.finetuning.labels.target_statistics` finds: the
            head learns what is left, so that one learning rate suits every quantity.
        target_std: K standard deviations of it.
        channels: width of the decoder, a multiple of 32.
        dropout: in front of the last layer of a head of patches.
        loss: `"l1"`, `"l2"` or `"huber"`, in standard deviations of the target.
        focus_classes: ids of `mask` whose pixels count once more, by an L1 term of their own.
        focus_weight: how much that term counts.

    Raises:
        LabelError: names or numbers that do not fit `num_targets`.
        UnknownNameError: an unknown decoder, head or loss.

    Example:
        >>> from deepsentinel import FusionEncoder
        >>> encoder = FusionEncoder("resnet10t", levels=(1, 2))
        >>> model = Regressor(encoder, 1, decoder="linear", target_names=("evi",))
        >>> model(s1=torch.full((1, 2, 33, 20), -12.0)).values.shape
        torch.Size([1, 1, 33, 20])
        >>> Regressor(encoder, 3, per_pixel=False)(s1=torch.full((1, 2, 33, 20), -12.0)).values.shape
        torch.Size([1, 3])
    """

    task = "regression"
    described = ("num_targets", "target_names")
    exported = ("values",)

    def __init__(
        self,
        encoder: Encoder,
        num_targets: int = 1,
        *,
        per_pixel: bool = True,
        decoder: str = "unet",
        head: str = "linear",
        target_names: Sequence[str] | None = None,
        target_mean: Sequence[float] | None = None,
        target_std: Sequence[float] | None = None,
        channels: int = 128,
        dropout: float = 0.0,
        loss: str = "l1",
        focus_classes: Sequence[int] = (),
        focus_weight: float = 1.0,
    ) -> None:
        names = check_classes(num_targets, target_names, None, least=1, word="target")
        means = _numbers("target_mean", target_mean, num_targets, default=0.0)
        spreads = _numbers("target_std", target_std, num_targets, default=1.0)
        _check_focus(focus_classes, focus_weight, per_pixel=per_pixel)
        body: PixelBody | Readout
        if per_pixel:
            shape = (encoder.out_channels, encoder.strides, num_targets)
            body = PixelBody(*shape, decoder=decoder, channels=channels)
        else:
            maps = encoder.out_channels
            body = Readout(
                encoder.embed_dim, num_targets, head=head, in_channels=maps, dropout=dropout
            )
        module = RegressionHead(
            body,
            target_mean=means,
            target_std=spreads,
            per_pixel=per_pixel,
            loss=loss,
            focus_classes=focus_classes,
            focus_weight=focus_weight,
        )
        super().__init__(encoder, module, names)
        self.per_pixel = per_pixel
        self.options: dict[str, Any] = {
            "per_pixel": per_pixel,
            "decoder": decoder,
            "head": head,
            "target_mean": means,
            "target_std": spreads,
            "channels": channels,
            "dropout": dropout,
            "loss": loss,
            "focus_classes": list(focus_classes),
            "focus_weight": focus_weight,
        }

    @property
    def num_targets(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def target_names(self) -> tuple[str, ...]:
        """Name of each quantity."""
        return self.classes.names


def _numbers(
    name: str, given: Sequence[float] | None, count: int, *, default: float
) -> list[float]:
    numbers = [default] * count if given is None else [float(v) for v in given]
    finite = all(abs(v) < float("inf") for v in numbers)
    if len(numbers) != count or not finite or (name == "target_std" and min(numbers) <= 0):
        above = ", above 0" if name == "target_std" else ""
        raise LabelError(
            f"{name}={given}: {count} finite numbers{above} are expected, one a quantity."
        )
    return numbers


def _check_focus(classes: Sequence[int], weight: float, *, per_pixel: bool) -> None:
    if classes and not per_pixel:
        raise LabelError(
            f"focus_classes={tuple(classes)} choose pixels; a regression of whole patches has none."
        )
    if any(c < 0 for c in classes) or not 0 < weight < float("inf"):
        raise LabelError(
            f"focus_classes={tuple(classes)}, focus_weight={weight}: class ids from 0 and a weight "
            "above 0 are expected."
        )
