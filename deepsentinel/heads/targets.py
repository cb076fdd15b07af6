"""Targets of a batch, checked before anything is computed with them."""

import torch
from torch import Tensor

from deepsentinel.errors import LabelError, SampleError, ShapeError
from deepsentinel.sample import IGNORE_INDEX, Batch


def mask_target(batch: Batch, num_classes: int, size: tuple[int, int]) -> Tensor:
    """`mask` of a batch as int64 (B, H, W), ids below `num_classes`, -1 = ignore.

    Raises:
        SampleError: the batch has no `mask`.
        ShapeError: it is not (B, H, W) of the given size.
        LabelError: it is not of integers, or holds other ids.

    Example:
        >>> mask_target({"mask": torch.tensor([[[0, 1], [2, -1]]])}, 3, (2, 2)).shape
        torch.Size([1, 2, 2])
    """
    mask = _integers(batch, "mask", "a mask")
    if mask.ndim != 3 or mask.shape[-2:] != size:
        raise ShapeError(
            f"mask has shape {tuple(mask.shape)}; (B, H, W) is expected with H, W = {size}, "
            "the size of the images."
        )
    check_ids(mask, num_classes, "mask")
    return mask.long()


def label_target(batch: Batch, num_classes: int) -> Tensor:
    """`label` of a batch as int64 (B,), ids below `num_classes`, -1 = not known.

    Raises:
        SampleError: the batch has no `label`.
        LabelError: it is not of integers, is multi-hot, or holds other ids.

    Example:
        >>> label_target({"label": torch.tensor([0, 4])}, 5)
        tensor([0, 4])
    """
    label = _integers(batch, "label", "a class per patch")
    if label.ndim != 1:
        raise LabelError(
            f"label has shape {tuple(label.shape)}; (B,), one class a patch, is expected. "
            "For several classes a patch build the model with multilabel=True."
        )
    check_ids(label, num_classes, "label")
    return label.long()


def multilabel_target(batch: Batch, num_classes: int) -> Tensor:
    """`label` of a batch as int64 (B, C), multi-hot, -1 = not known.

    Raises:
        SampleError: the batch has no `label`.
        LabelError: it is not of integers, has another C, or holds anything but 0, 1 and -1.

    Example:
        >>> multilabel_target({"label": torch.tensor([[0, 1, 1]])}, 3)
        tensor([[0, 1, 1]])
    """
    label = _integers(batch, "label", "a multi-hot label")
    if label.ndim != 2 or label.shape[1] != num_classes:
        hint = (
            " One class a patch needs a model with multilabel=False."
            if label.ndim == 1
            else " Give the model the corpus' number of classes."
        )
        raise LabelError(
            f"label has shape {tuple(label.shape)}; (B, {num_classes}), multi-hot over the "
            f"model's {num_classes} classes, is expected.{hint}"
        )
    if label.numel() and not _within(label, 1):
        found = sorted(set(label.flatten().tolist()))
        raise LabelError(f"label is multi-hot: 0, 1, or -1 for not known; found {_few(found)}.")
    return label.long()


def value_target(batch: Batch, channels: int, size: tuple[int, int] | None) -> Tensor:
    """`target` of a batch as float32 (B, K, H, W), or (B, K) with `size=None`; NaN = not known.

    Raises:
        SampleError: the batch has no `target`.
        ShapeError: it has another shape.
        LabelError: it is not of floating-point numbers, or holds infinity.

    Example:
        >>> value_target({"target": torch.tensor([[1.0], [torch.nan]])}, 1, None).shape
        torch.Size([2, 1])
    """
    if "target" not in batch:
        raise SampleError(
            f"the batch holds no 'target', only {sorted(batch)}. A regression is trained on "
            "quantities: read the corpus with labels=[...] naming one of kind target "
            "(`deepsentinel info CORPUS` lists them), or compute one, as EviTarget does."
        )
    target: Tensor = batch["target"]
    if not target.is_floating_point():
        raise LabelError(
            f"target has dtype {target.dtype}; floating-point numbers are expected, NaN = not known."
        )
    wanted = (channels,) if size is None else (channels, *size)
    if target.shape[1:] != wanted:
        kind = "of whole patches" if size is None else "of pixels"
        raise ShapeError(
            f"target has shape {tuple(target.shape)}; (B, {', '.join(map(str, wanted))}) is "
            f"expected by a regression {kind} with {channels} quantities. per_pixel= and "
            "num_targets= of the Regressor say which it is."
        )
    if bool(target.isinf().any()):
        raise LabelError("target holds infinity; what is not known is NaN.")
    return target.float()


def check_ids(ids: Tensor, num_classes: int, key: str) -> None:
    """Class ids are 0 to `num_classes` - 1, or -1.

    Raises:
        LabelError: other values, which it names.

    Example:
        >>> check_ids(torch.tensor([0, 7, -1]), 3, "label")
        Traceback (most recent call last):
        deepsentinel.errors.LabelError: label holds 7, ...
    """
    if not ids.numel() or _within(ids, num_classes - 1):
        return
    wrong = sorted({i for i in ids.flatten().tolist() if not IGNORE_INDEX <= i < num_classes})
    raise LabelError(
        f"{key} holds {_few(wrong)}, but the model has {num_classes} classes: ids 0 to "
        f"{num_classes - 1}, and {IGNORE_INDEX} for what counts for nothing. Build the model with "
        "as many classes as the label's scheme has, or encode the label with Scheme.encode."
    )


def _integers(batch: Batch, key: str, what: str) -> Tensor:
    if key not in batch:
        raise SampleError(
            f"the batch holds no {key!r}, only {sorted(batch)}. This model is trained on {what}: "
            f'read the corpus with labels=[...] naming one that is stored as "{key}" '
            "(`deepsentinel info CORPUS` lists them)."
        )
    value = batch[key]
    if not isinstance(value, Tensor):
        raise LabelError(
            f"{key} is a {type(value).__name__}; a tensor of integers is expected. "
            "A label that belongs to boxes trains a detector, not this model."
        )
    if value.is_floating_point() or value.is_complex():
        raise LabelError(
            f"{key} has dtype {value.dtype}; integers are expected: class ids do not carry NaN, "
            f"{IGNORE_INDEX} is what counts for nothing."
        )
    return value


def _within(values: Tensor, highest: int) -> bool:
    low, high = torch.aminmax(values.to(torch.int64))
    return int(low) >= IGNORE_INDEX and int(high) <= highest


def _few(values: list[int]) -> str:
    return " ".join(map(str, values[:8])) + (" ..." if len(values) > 8 else "")
