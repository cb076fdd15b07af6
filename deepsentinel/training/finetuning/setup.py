"""From what a corpus says of its labels to the model that learns them."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Final

from deepsentinel.corpus.format import CorpusInfo, LabelKind, LabelSpec
from deepsentinel.errors import ConfigError, LabelError, UnknownNameError, nearest
from deepsentinel.features import Encoder
from deepsentinel.heads.model import Model
from deepsentinel.labels import Scheme

TASKS: Final[dict[str, tuple[LabelKind, ...]]] = {
    "segmentation": ("mask",),
    "classification": ("label", "multilabel"),
    "detection": ("boxes",),
    "regression": ("target",),
}
"""Kinds of label that each task can be trained on."""


def pick_label(info: CorpusInfo, task: str, name: str | None = None) -> LabelSpec:
    """The label of a corpus that a task is trained on.

    Args:
        info: facts of the corpus.
        task: `"segmentation"`, `"classification"`, `"detection"` or `"regression"`.
        name: of the label; needed only where several would do.

    Raises:
        UnknownNameError: unknown task.
        LabelError: no label, or several, that would do, or `name` is not one of them.

    Example:
        >>> from deepsentinel.datasets.synthetic import LANDCOVER
        >>> info = CorpusInfo(name="a", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=32,
        ...     resolution_m=10, labels=(LabelSpec("landcover", "mask", LANDCOVER),))
        >>> pick_label(info, "segmentation").name
        'landcover'
    """
    if task not in TASKS:
        raise UnknownNameError(f"unknown task {task!r}. {nearest(task, TASKS)}")
    fitting = {spec.name: spec for spec in info.labels if spec.kind in TASKS[task]}
    what = f"corpus {info.name!r} has these labels for {task}: {' '.join(fitting) or '(none)'}"
    if name is not None:
        if name not in fitting:
            raise LabelError(f"label {name!r} was asked for; {what}.")
        return fitting[name]
    if len(fitting) != 1:
        hint = "Name one." if fitting else "Choose another task or another corpus."
        raise LabelError(f"{what}. {hint}")
    return next(iter(fitting.values()))


def model_for(
    encoder: Encoder,
    label: LabelSpec | None,
    *,
    decoder: str | None = None,
    target_mean: Sequence[float] | None = None,
    target_std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model[Any]:
    """A model on an encoder with the classes, names and colours, or the quantities, of a label.

    Args:
        encoder: any encoder.
        label: as `pick_label` returns it; `None` gives a `Matcher`, which learns from none.
        decoder: of a `Segmenter`, and of a `Regressor` of pixels; a `Classifier` is linear, a
            `Detector` finds centre points.
        target_mean: of a `Regressor`, as `training.finetuning.labels.target_statistics` finds it.
        target_std: likewise.
        options: further arguments of the model's class, such as `{"loss": "focal"}`.

    Raises:
        LabelError: the label has no classes, or is of a kind that no model learns.
        ConfigError: an option that the model's class does not have.
    """
    kind, facts = _plan(label)
    given = {"decoder": decoder, "target_mean": target_mean, "target_std": target_std}
    arguments = {k: v for k, v in given.items() if v is not None and k in _parameters(kind)}
    free = [k for k in _parameters(kind) if k not in {"encoder", *facts}]
    for name in options or {}:
        if name not in free:
            why = "is given by the label" if name in facts else "is unknown"
            raise ConfigError(f"option {name!r} of {kind.__name__} {why}. {nearest(name, free)}")
    model: Model[Any] = kind(encoder, **{**facts, **arguments, **(options or {})})
    return model


def _parameters(kind: type[Model[Any]]) -> list[str]:
    return [name for name in signature(kind).parameters if name != "self"]


def _plan(label: LabelSpec | None) -> tuple[type[Model[Any]], dict[str, Any]]:
    """The class of model that learns a label, and what the label says of it."""
    from deepsentinel.heads.classification import Classifier
    from deepsentinel.heads.detection import Detector
    from deepsentinel.heads.matching import Matcher
    from deepsentinel.heads.regression import Regressor
    from deepsentinel.heads.segmentation import Segmenter

    if label is None:
        return Matcher, {}
    kinds: dict[str, type[Model[Any]]] = {
        "mask": Segmenter,
        "boxes": Detector,
        "label": Classifier,
        "multilabel": Classifier,
        "target": Regressor,
    }
    if label.kind not in kinds:
        raise LabelError(
            f"label {label.name!r} is of kind {label.kind!r}, for which there is no model; a mask, "
            "label, multilabel, boxes or target can be learnt."
        )
    facts: dict[str, Any]
    if label.kind == "target":
        facts = {"num_targets": len(label.channels), "per_pixel": label.per_pixel}
        return Regressor, facts | {"target_names": label.channels}
    scheme = _scheme(label)
    facts = {"num_classes": len(scheme), "class_names": scheme.names}
    facts |= {"class_colours": scheme.colours}
    if kinds[label.kind] is Classifier:
        facts |= {"multilabel": label.kind == "multilabel"}
    return kinds[label.kind], facts


def _scheme(label: LabelSpec) -> Scheme:
    if label.scheme is None:
        raise LabelError(
            f"label {label.name!r} has no class scheme; convert the corpus with one, so that "
            "predictions have names."
        )
    return label.scheme
