"""What a model is told about its classes: names, colours, weights; checked when it is built."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from deepsentinel.errors import LabelError

MATCHES: Final = ("another place", "the same place")
"""The two answers of a matcher."""


@dataclass(frozen=True)
class Classes:
    """Names and colours of the classes of a model; ids are their places."""

    names: tuple[str, ...]
    colours: tuple[str, ...] | None = None
    """`#rrggbb` each."""

    def __len__(self) -> int:
        return len(self.names)


def check_classes(
    num_classes: int,
    names: Sequence[str] | None,
    colours: Sequence[str] | None,
    *,
    least: int = 2,
    word: str = "class",
) -> Classes:
    """Names and colours that fit the number of classes; unnamed classes are named by their id.

    `word` is what the messages call one: `"target"` for quantities.

    Raises:
        LabelError: too few classes, another number of names or colours, a repeated name, or a
            colour that is not `#rrggbb`.

    Example:
        >>> check_classes(2, ("water", "land"), None)
        Classes(names=('water', 'land'), colours=None)
    """
    count = f"num_{word}es" if word == "class" else f"num_{word}s"
    if num_classes < least:
        raise LabelError(f"{count}={num_classes}: at least {least} are needed.")
    named = tuple(str(i) for i in range(num_classes)) if names is None else tuple(names)
    coloured = None if colours is None else tuple(colours)
    for what, values in ((f"{word}_names", named), (f"{word}_colours", coloured)):
        if values is not None and len(values) != num_classes:
            raise LabelError(
                f"{count}={num_classes}, but {what} has {len(values)}: {values[:8]}. "
                f"Give one a {word}, in order."
            )
    twice = sorted({n for n in named if named.count(n) > 1})
    if twice:
        raise LabelError(f"{word}_names repeats {twice}; each {word} needs its own name.")
    bad = [c for c in coloured or () if not re.fullmatch(r"#[0-9a-fA-F]{6}", c)]
    if bad:
        raise LabelError(f"class_colours holds {bad[:5]}; write each as '#rrggbb'.")
    return Classes(named, coloured)


def check_weights(weights: Sequence[float] | None, num_classes: int) -> Tensor | None:
    """Class weights as a tensor (K,).

    Raises:
        LabelError: not K of them, or one is negative or not finite.

    Example:
        >>> check_weights([1, 2], 2)
        tensor([1., 2.])
    """
    if weights is None:
        return None
    tensor = torch.tensor([float(w) for w in weights])
    if len(tensor) != num_classes or not bool((torch.isfinite(tensor) & (tensor >= 0)).all()):
        raise LabelError(
            f"class_weights={tuple(weights)}: {num_classes} finite numbers, none negative, are "
            "expected, one a class."
        )
    return tensor


def check_share(name: str, value: float) -> float:
    """A number from 0 to below 1.

    Raises:
        LabelError: anything else.

    Example:
        >>> check_share("dropout", 0.1)
        0.1
    """
    if not 0 <= value < 1:
        raise LabelError(f"{name}={value}: a share from 0 to below 1 is expected.")
    return value


def check_gamma(gamma: float) -> float:
    """The exponent of a focal loss.

    Raises:
        LabelError: below 0, or not finite.

    Example:
        >>> check_gamma(2.0)
        2.0
    """
    if not 0 <= gamma < float("inf"):
        raise LabelError(f"focal_gamma={gamma}: a finite number from 0 is expected.")
    return gamma


def check_weighted(weights: Sequence[float] | None, *losses: str) -> None:
    """Class weights are given only where a loss in use takes them.

    Raises:
        LabelError: no cross entropy and no focal loss to weigh.

    Example:
        >>> check_weighted((1.0, 2.0), "focal")
    """
    if weights is not None and not {"cross_entropy", "focal"} & set(losses):
        raise LabelError(
            f"class_weights belong to the cross entropy and the focal loss, but "
            f"loss={' '.join(losses)}, which weighs classes alike by nature. Leave one of them out."
        )


def check_smoothing(share: float, *losses: str) -> float:
    """A share of label smoothing that the losses in use take.

    Raises:
        LabelError: not a share, or no cross entropy to smooth.

    Example:
        >>> check_smoothing(0.1, "cross_entropy", "dice")
        0.1
    """
    if share and "cross_entropy" not in losses:
        raise LabelError(
            f"label_smoothing={share} belongs to the cross entropy, but loss={' '.join(losses)}. "
            "Leave one of them out."
        )
    return check_share("label_smoothing", share)
