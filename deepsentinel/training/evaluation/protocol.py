"""`Protocol`: how encoders are evaluated, as one config that a YAML file or keywords fill."""

from dataclasses import dataclass
from typing import Annotated, Literal

from deepsentinel.bands import SENSORS, check_sensors
from deepsentinel.errors import TrainingError, UnknownNameError, nearest
from deepsentinel.training.evaluation.folds import Budget

PARTS = ("scores", "matrix", "unseen")
METHODS = ("knn", "linear", "finetune")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is measured, and how.

    Example:
        >>> [b.name for b in Protocol(shots=(5,), shares=(1.0,)).budgets]
        ['5 per class', '100 %']
        >>> Protocol(folds=2)
        Traceback (most recent call last):
        deepsentinel.errors.TrainingError: folds=2: give 3 or more, or null for the splits ...
    """

    parts: Annotated[
        tuple[str, ...],
        "What to measure: scores (few-shot curves), matrix (sensors and clouds), unseen (classes).",
    ] = ("scores",)
    task: Annotated[
        Literal["classification", "segmentation"] | None,
        "Whole patches or pixels; whichever the label is for if null.",
    ] = None
    label: Annotated[str | None, "Label of the corpus; needed where several would do."] = None
    sensors: Annotated[tuple[str, ...], "Sensors that are shown for scores and unseen."] = SENSORS
    least_units: Annotated[
        int, "Classes on fewer labelled patches (or pixels) than this are left out."
    ] = 1
    methods: Annotated[
        tuple[str, ...],
        "knn and linear on the frozen encoder, finetune trains it with a linear head.",
    ] = ("knn", "linear")
    shots: Annotated[tuple[int, ...], "Labels of each class."] = (1, 5, 10, 50)
    shares: Annotated[tuple[float, ...], "Shares of all that may train."] = (0.01, 0.1, 1.0)
    counts: Annotated[tuple[int, ...], "Labels in all."] = ()
    folds: Annotated[
        int | None,
        "Folds of spatial blocks; null takes the splits train, val and test of the corpus.",
    ] = 5
    block_km: Annotated[
        float | None,
        "Side of a block; null makes every patch its own block, where no positions are known.",
    ] = 5.0
    seeds: Annotated[int, "How often folds, labels and random weights are drawn anew."] = 3
    seed: Annotated[int, "The first of these seeds."] = 0
    replicates: Annotated[int, "Draws of the bootstrap."] = 1000
    random_twins: Annotated[
        int, "How many of the seeds draw random weights of their own for the control."
    ] = 3
    pixels: Annotated[int, "Labelled pixels of each patch, for segmentation."] = 32
    batch_size: Annotated[int, "Patches a batch."] = 32
    num_workers: Annotated[int, "Worker processes that read."] = 0
    matrix_method: Annotated[str, "knn, linear or finetune: what learns for the matrix."] = "linear"
    clouds: Annotated[
        Literal["auto", "real", "simulated"],
        "Clouds of the matrix: real where the corpus knows any, if auto.",
    ] = "auto"
    cloud_shares: Annotated[tuple[float, ...], "Columns of the matrix."] = (
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
    )
    unseen_share: Annotated[float, "Share of the classes that is never seen."] = 0.3
    steps: Annotated[int, "Steps of each fine-tuning."] = 200
    lr: Annotated[float, "Learning rate of the head in fine-tuning."] = 1e-3
    encoder_lr: Annotated[float | None, "Of the encoder; a tenth of lr if null."] = None
    tune_batch_size: Annotated[int, "Patches a batch in fine-tuning."] = 16

    def __post_init__(self) -> None:
        check_sensors(self.sensors)
        _known("parts", self.parts, PARTS)
        _known("methods", self.methods, METHODS)
        _known("matrix_method", (self.matrix_method,), METHODS)
        if self.folds is not None and self.folds < 3:
            raise TrainingError(
                f"folds={self.folds}: give 3 or more, or null for the splits of the corpus: one "
                "fold tests, one chooses, the others train."
            )
        least = {n: getattr(self, n) for n in _AT_LEAST_ONE if getattr(self, n) < 1}
        if least or not 0 < self.unseen_share < 1 or not self.lr > 0:
            raise TrainingError(
                f"out of range: {least or {'unseen_share': self.unseen_share, 'lr': self.lr}}. "
                f"{', '.join(_AT_LEAST_ONE)} are at least 1, unseen_share lies between 0 and 1, "
                "lr above 0."
            )
        if "scores" in self.parts and not self.budgets:
            raise TrainingError("no budget of labels: give shots, shares or counts.")

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """How many labels are tried: shots, then counts, then shares."""
        return (
            *(Budget("shots", n) for n in self.shots),
            *(Budget("count", n) for n in self.counts),
            *(Budget("share", s) for s in self.shares),
        )

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.seed, self.seed + self.seeds))


_AT_LEAST_ONE = (
    "seeds",
    "replicates",
    "random_twins",
    "pixels",
    "least_units",
    "batch_size",
    "steps",
    "tune_batch_size",
)


def _known(key: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names:
        raise TrainingError(f"{key} is empty; give some of {' '.join(known)}.")
    for name in names:
        if name not in known:
            raise UnknownNameError(f"{key} names {name!r}. {nearest(name, known)}")
