"""Classes of pixels: `SegmentationHead` on features, and `Segmenter`, encoder and head as one."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from deepsentinel.features import Encoder, Features, Segmentation
from deepsentinel.heads.classes import check_classes, check_share, check_weights
from deepsentinel.heads.decoders import build_decoder
from deepsentinel.heads.losses import cross_entropy, dice
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
        decoder: `"unet"`, `"unetplusplus"`, `"fpn"` or `"linear"`.
        channels: width of the decoder.
        class_weights: K weights of the cross entropy.
        label_smoothing: share of each target spread over all classes, 0 to 1.
        dice_weight: how much of the Dice loss is added to the cross entropy.

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
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        dice_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label_smoothing = check_share("label_smoothing", label_smoothing)
        self.dice_weight = dice_weight
        self.decoder = build_decoder(decoder, in_channels, strides, channels=channels)
        self.classify = nn.Conv2d(self.decoder.out_channels, num_classes, 1)
        weights = check_weights(class_weights, num_classes)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W); `size` is (H, W) of the input."""
        logits = self.classify(self.decoder(features, size))
        return to_pixels(logits, self.decoder.out_stride, size)

    def loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss`, `cross_entropy` and, where it is used, `dice` against `mask`; -1 counts nothing.

        Raises:
            SampleError: the batch has no `mask`.
            LabelError: the mask holds ids that the model lacks, or no integers.
        """
        target = mask_target(batch, self.num_classes, (logits.shape[-2], logits.shape[-1]))
        entropy = cross_entropy(
            logits,
            target,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
        )
        if not self.dice_weight:
            return {"loss": entropy, "cross_entropy": entropy.detach()}
        overlap = dice(logits, target)
        return {
            "loss": entropy + self.dice_weight * overlap,
            "cross_entropy": entropy.detach(),
            "dice": overlap.detach(),
        }

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
        decoder: `"unet"`, `"unetplusplus"` or `"fpn"` of segmentation-models-pytorch, or
            `"linear"`, one linear layer on the encoder's maps.
        class_names: K names.
        class_colours: K colours, `"#rrggbb"`.
        channels: width of the decoder.
        class_weights: K weights of the cross entropy.
        label_smoothing: share of each target spread over all classes, 0 to 1.
        dice_weight: how much of the Dice loss is added to the cross entropy.

    Raises:
        LabelError: names, colours or weights that do not fit `num_classes`.
        UnknownNameError: an unknown decoder.

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
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        dice_weight: float = 0.0,
    ) -> None:
        classes = check_classes(num_classes, class_names, class_colours)
        head = SegmentationHead(
            encoder.out_channels,
            encoder.strides,
            num_classes,
            decoder=decoder,
            channels=channels,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
            dice_weight=dice_weight,
        )
        super().__init__(encoder, head, classes)
        self.options: dict[str, Any] = {
            "decoder": decoder,
            "channels": channels,
            "class_weights": None if class_weights is None else list(map(float, class_weights)),
            "label_smoothing": label_smoothing,
            "dice_weight": dice_weight,
        }
