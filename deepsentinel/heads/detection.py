"""Objects in patches: `DetectionHead` on features, and `Detector`, encoder and head as one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from torch import Tensor, nn

from deepsentinel.encoders.export import Format
from deepsentinel.errors import ExportError, ShapeError, UnknownNameError, nearest
from deepsentinel.features import Detection, Encoder, Features
from deepsentinel.heads.boxes import Selection, box_targets
from deepsentinel.heads.classes import check_classes
from deepsentinel.heads.dense import CentrePoint, Fcos, Found, Retina
from deepsentinel.heads.model import Model
from deepsentinel.heads.neck import Neck, even
from deepsentinel.heads.two_stage import FasterRcnn
from deepsentinel.sample import Batch

MethodName = Literal["centre", "fcos", "retinanet", "faster-rcnn"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)

_BUILDERS: Final[dict[str, Callable[[int, int, Sequence[int], Selection], nn.Module]]] = {
    "centre": CentrePoint,
    "fcos": Fcos,
    "retinanet": Retina,
    "faster-rcnn": FasterRcnn,
}


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al., arXiv 1612.03144): what coarse maps know is added to finer ones.

    torchvision's own makes an output of every map, and parameters that nothing trains where only
    the finest is used.

    Args:
        channels: of every map, in and out.
        levels: how many maps.
        only_finest: give the finest alone.

    Example:
        >>> import torch
        >>> maps = [torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 2, 2)]
        >>> [tuple(m.shape) for m in Pyramid(8, 2)(maps)]
        [(1, 8, 4, 4), (1, 8, 2, 2)]
    """

    def __init__(self, channels: int, levels: int, *, only_finest: bool = False) -> None:
        super().__init__()
        self.smooth = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(1 if only_finest else levels)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the same sizes, finest first; each is twice as large as the next."""
        sums = list(maps[-1:])
        for finer in reversed(maps[:-1]):
            doubled = sums[0].repeat_interleave(2, -2).repeat_interleave(2, -1)
            sums.insert(0, finer + doubled)
        return [smooth(m) for smooth, m in zip(self.smooth, sums, strict=False)]


class DetectionHead(nn.Module):
    """Features to boxes: a neck to the wanted strides, a feature pyramid, and a method.

    Args:
        in_channels: C_i of the encoder's maps.
        strides: s_i of the encoder's maps.
        num_classes: K.
        method: `"centre"`, `"fcos"`, `"retinanet"` or `"faster-rcnn"`.
        channels: width of the pyramid and the method.
        levels: strides of the pyramid, each twice the one before.
        selection: which candidates become detections.

    Example:
        >>> import torch
        >>> head = DetectionHead((8,), (4,), 3, channels=32, levels=(4, 8))
        >>> found = head(Features(torch.zeros(2, 8), (torch.zeros(2, 8, 8, 8),), (4,)), (32, 32))
        >>> [len(boxes) for boxes in head.decode(found).boxes]
        [0, 0]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        method: str = "centre",
        channels: int = 64,
        levels: Sequence[int] = (2, 4, 8, 16, 32),
        selection: Selection | None = None,
    ) -> None:
        super().__init__()
        if method not in _BUILDERS:
            raise UnknownNameError(f"unknown way to detect {method!r}. {nearest(method, METHODS)}")
        self.num_classes = num_classes
        if channels < 32 or channels % 32:
            raise ShapeError(f"channels={channels} of the detector: a multiple of 32 is expected.")
        self.neck = Neck(in_channels, strides, _check_levels(levels), channels=channels)
        self.pyramid = Pyramid(channels, len(levels), only_finest=method == "centre")
        self.method: Any = _BUILDERS[method](
            channels, num_classes, levels, selection or Selection()
        )

    def forward(self, features: Features, size: tuple[int, int]) -> Found:
        """What the method found, before losses and boxes; `size` is (H, W) of the input."""
        maps = self.neck(even(features), size)
        found: Found = self.method(self.pyramid(maps), size)
        return found

    def loss(self, logits: Found, batch: Batch) -> dict[str, Tensor]:
        """`loss` and its parts against `bbox_xyxy` and `label`; a patch without boxes counts too.

        Raises:
            SampleError: the batch has no boxes.
            ShapeError: boxes and labels that are not (N, 4) and (N,).
            LabelError: boxes outside the patch or none at all, or classes that the model lacks.
        """
        targets = box_targets(batch, self.num_classes, logits.size, like=logits.anchors)
        parts: dict[str, Tensor] = self.method.loss(logits, targets)
        total = sum(parts.values(), logits.anchors.new_zeros(()))
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def decode(self, logits: Found) -> Detection:
        """Boxes, scores and labels of each patch."""
        detection: Detection = self.method.decode(logits)
        return detection

    def labelled(self, batch: Batch) -> int:
        """How many boxes the batch has."""
        return sum(map(len, batch["bbox_xyxy"]))


class Detector(Model[Detection]):
    """Encoder, neck, feature pyramid and detector: Sentinel-1 and Sentinel-2 patches to boxes.

    It is made for boxes of a few pixels, as ships and turbines are at 10 m: the finest map has a
    cell for every two pixels, and patches are seen as they are, never resized or padded with
    zeros, in training and in use alike.

    Args:
        encoder: any encoder, such as `deepsentinel.load_encoder()`.
        num_classes: K; ids count from 0, and there is no class for the background.
        method: `"centre"`, centre points; or `"fcos"`, `"retinanet"` or `"faster-rcnn"` of
            torchvision's parts.
        class_names: K names.
        class_colours: K colours, `"#rrggbb"`.
        channels: width of pyramid and method, a multiple of 32.
        levels: strides of the pyramid, each twice the one before. `"centre"` finds boxes on the
            first, the others find boxes of about 2 to 8 strides on each.
        score_threshold: least score of a detection.
        nms_threshold: overlap (IoU) from which the less sure of two boxes of a class is dropped.
        max_detections: most detections of a patch.

    Raises:
        LabelError: names or colours that do not fit `num_classes`.
        UnknownNameError: an unknown method.
        ShapeError: levels that do not double, or another width.

    Example:
        >>> import torch
        >>> from deepsentinel import FusionEncoder
        >>> model = Detector(FusionEncoder("resnet10t", levels=(1, 2)), 2, channels=32)
        >>> backscatter = torch.full((1, 2, 33, 20), -12.0)
        >>> model(s1=backscatter).boxes[0].shape[1]
        4
        >>> batch = {"image_s1": backscatter, "bbox_xyxy": [torch.tensor([[4.0, 4.0, 9.0, 7.0]])],
        ...     "label": [torch.tensor([1])]}
        >>> sorted(model.loss(batch))
        ['bbox_regression', 'classification', 'loss']
    """

    task = "detection"
    exported = ()

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        method: str = "centre",
        *,
        class_names: Sequence[str] | None = None,
        class_colours: Sequence[str] | None = None,
        channels: int = 64,
        levels: Sequence[int] = (2, 4, 8, 16, 32),
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 300,
    ) -> None:
        classes = check_classes(num_classes, class_names, class_colours, least=1)
        head = DetectionHead(
            encoder.out_channels,
            encoder.strides,
            num_classes,
            method=method,
            channels=channels,
            levels=levels,
            selection=Selection(
                score_threshold=score_threshold,
                nms_threshold=nms_threshold,
                max_detections=max_detections,
            ),
        )
        super().__init__(encoder, head, classes)
        self.options: dict[str, Any] = {
            "method": method,
            "channels": channels,
            "levels": list(levels),
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "max_detections": max_detections,
        }

    def export(
        self,
        path: str | Path,
        *,
        format: Format = "onnx",  # noqa: A002 - as of encoders
        size: tuple[int, int] | None = None,
    ) -> Path:
        """A detector has no graph: how many boxes come out depends on what is in the patch.

        Raises:
            ExportError: always.
        """
        raise ExportError(
            f"a detector cannot be exported to {path}: the number of boxes depends on the patch, "
            "and a graph has outputs of fixed rank and order. Export its encoder with "
            "model.encoder.export(...), or keep the model as save_pretrained writes it."
        )


def _check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    powers = [2**i * levels[0] for i in range(len(levels))] if levels else [0]
    if list(levels) != powers or levels[0] < 1 or levels[0] & (levels[0] - 1):
        raise ShapeError(
            f"levels={tuple(levels)} of the detector: powers of two are expected, each twice the one "
            "before, such as (2, 4, 8, 16)."
        )
    return tuple(levels)
