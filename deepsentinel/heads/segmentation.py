"""Classes of pixels: `SegmentationHead` on features, and `Segmenter`, encoder and head as one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepsentinel.features import Encoder, Features, Segmentation
from deepsentinel.heads.classes import (
    check_classes,
    check_gamma,
    check_smoothing,
    check_weighted,
    check_weights,
)
from deepsentinel.heads.decoders import build_decoder
from deepsentinel.heads.losses import check_losses, cross_entropy, dice, focal, lovasz
from deepsentinel.heads.model import Model
from deepsentinel.heads.neck import to_pixels
from deepsentinel.heads.targets import mask_target
from deepsentinel.sample import IGNORE_INDEX, Batch


class SegmentationHead(nn.Module):
    """Features to logits of every pixel.

    Args:
        in_channels: C_i of the encoder's maps.
        strides: s_i of the encoder's maps.
        num_classes: K.
        decoder: one of `decoders.DECODERS`.
        channels: width of the decoder, a multiple of 32.
        loss: `"cross_entropy"`, `"focal"`, `"dice"` or `"lovasz"`, or several by weight.
        focal_gamma: how much less the focal loss counts what is already right; 0 is no less.
        class_weights: K weights of the cross entropy and the focal loss.
        label_smoothing: share of each target spread over all classes, 0 to 1; cross entropy only.

    Example:
        >>> import torch
        >>> head = SegmentationHead((8,), (4,), 5, decoder="linear")
        >>> head(Features(torch.zeros(2, 8), (torch.zeros(2, 8, 5, 5),), (4,)), (18, 20)).shape
        torch.Size([2, 5, 18, 20])
    """

    class_weights: Tensor | None

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        decoder: str = "unet",
        channels: int = 128,
        loss: str | Mapping[str, float] = "cross_entropy",
        focal_gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.loss_weights = check_losses(loss)
        self.focal_gamma = check_gamma(focal_gamma)
        check_weighted(class_weights, *self.loss_weights)
        self.label_smoothing = check_smoothing(label_smoothing, *self.loss_weights)
        self.decoder = build_decoder(decoder, in_channels, strides, channels=channels)
        self.classify = nn.Conv2d(self.decoder.out_channels, num_classes, 1)
        weights = check_weights(class_weights, num_classes)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W); `size` is (H, W) of the input."""
        logits = self.classify(self.decoder(features, size))
        return to_pixels(logits, self.decoder.out_stride, size)

    def loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and by name what it is the weighted sum of, against `mask`; -1 counts nothing.

        Raises:
            SampleError: the batch has no `mask`.
            LabelError: the mask holds ids that the model lacks, or no integers.
        """
        target = mask_target(batch, self.num_classes, (logits.shape[-2], logits.shape[-1]))
        parts = {name: self._loss(name, logits, target) for name in self.loss_weights}
        weighted = [parts[name] * weight for name, weight in self.loss_weights.items()]
        total = torch.stack(weighted).sum()
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def _loss(self, name: str, logits: Tensor, target: Tensor) -> Tensor:
        weights = self.class_weights
        if name == "focal":
            return focal(logits, target, gamma=self.focal_gamma, class_weights=weights)
        if name == "dice":
            return dice(logits, target)
        if name == "lovasz":
            return lovasz(logits, target)
        smoothing = self.label_smoothing
        return cross_entropy(logits, target, class_weights=weights, label_smoothing=smoothing)

    def decode(self, logits: Tensor) -> Segmentation:
        """Probabilities and classes (B, H, W) of the logits."""
        return Segmentation(logits, logits.float().softmax(1), logits.argmax(1))

    def labelled(self, batch: Batch) -> int:
        """How many pixels of the batch count."""
        return int((batch["mask"] != IGNORE_INDEX).sum())


class Segmenter(Model[Segmentation]):
    """Encoder, neck and decoder: Sentinel-1 and Sentinel-2 patches to classes of pixels.

    Args:
        encoder: any encoder, such as `deepsentinel.load_encoder()`.
        num_classes: K; ids count from 0.
        decoder: `"unet"`, `"unetplusplus"`, `"fpn"`, `"deeplabv3plus"`, `"upernet"`, `"segformer"`
            or `"dpt"` of segmentation-models-pytorch, or `"linear"`, one linear layer on the
            encoder's maps.
        class_names: K names.
        class_colours: K colours, `"#rrggbb"`.
        channels: width of the decoder, a multiple of 32.
        loss: `"cross_entropy"`, `"focal"`, `"dice"` or `"lovasz"`; or several by weight, such as
            `{"cross_entropy": 1, "dice": 0.5}`.
        focal_gamma: how much less the focal loss counts what is already right; 0 is no less.
        class_weights: K weights of the cross entropy and the focal loss, such as
            `training.finetuning.labels.class_weights` counts; Dice and Lovasz weigh classes alike by nature.
        label_smoothing: share of each target spread over all classes, 0 to 1; cross entropy only.

    Raises:
        LabelError: names, colours, weights or numbers that do not fit.
        UnknownNameError: an unknown decoder or loss.
        ShapeError: a width that is no multiple of 32.

    Example:
        >>> import torch
        >>> from deepsentinel import FusionEncoder
        >>> model = Segmenter(FusionEncoder("resnet10t", levels=(1, 2)), 9, decoder="linear")
        >>> backscatter = torch.full((1, 2, 33, 20), -12.0)
        >>> model(s1=backscatter).classes.shape
        torch.Size([1, 33, 20])
        >>> batch = {"image_s1": backscatter, "mask": torch.zeros(1, 33, 20, dtype=torch.int64)}
        >>> sorted(model.loss(batch))
        ['cross_entropy', 'loss']
    """

    task = "segmentation"

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        decoder: str = "unet",
        *,
        class_names: Sequence[str] | None = None,
        class_colours: Sequence[str] | None = None,
        channels: int = 128,
        loss: str | Mapping[str, float] = "cross_entropy",
        focal_gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        classes = check_classes(num_classes, class_names, class_colours)
        options: dict[str, Any] = {
            "decoder": decoder,
            "channels": channels,
            "loss": check_losses(loss),
            "focal_gamma": focal_gamma,
            "class_weights": None if class_weights is None else list(map(float, class_weights)),
            "label_smoothing": label_smoothing,
        }
        head = SegmentationHead(encoder.out_channels, encoder.strides, num_classes, **options)
        super().__init__(encoder, head, classes)
        self.options = options
