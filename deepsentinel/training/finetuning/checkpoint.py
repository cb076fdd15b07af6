"""What a fine-tuning keeps on disk: `last.ckpt`, `best`, `metrics.csv` and `config.yaml`.

`last.ckpt` holds tensors and plain values only and is always read with `weights_only=True`, so
that a checkpoint from elsewhere cannot run code. Every file is replaced in one step.
"""

import csv
import io
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zipfile import is_zipfile

import torch
from torch import Tensor

from deepsentinel.errors import CheckpointError, TrainingError
from deepsentinel.heads.files import read_weights, replace_file, write_model
from deepsentinel.training.config import write_config

FORMAT_VERSION: Final = 1

Row = dict[str, float]
"""One epoch of the history: `epoch` counted from 1, losses, scores, learning rate."""


@dataclass(frozen=True)
class State:
    """A run after some epochs; everything that the next epoch depends on.

    There is no state of random generators: each epoch seeds its own from seed and number.
    """

    options: Mapping[str, Any]
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Any] | None = None
    """`None` before the first epoch."""
    scheduler: Mapping[str, Any] | None = None
    history: tuple[Row, ...] = field(default=())


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Example:
        >>> folder = RunFolder(Path("runs/demo"))
        >>> folder.last.name, folder.best.name
        ('last.ckpt', 'best')
    """

    path: Path

    @property
    def last(self) -> Path:
        """The state after the last complete epoch."""
        return self.path / "last.ckpt"

    @property
    def best(self) -> Path:
        """The model of the best epoch, as `save_pretrained` writes it."""
        return self.path / "best"

    def read(self) -> State | None:
        """The state to go on from; `None` where no run has begun.

        Raises:
            CheckpointError: the file is damaged or of another version.
        """
        if not self.last.exists():
            return None
        try:
            if not is_zipfile(self.last):  # what torch.save writes
                raise EOFError("it is cut off, or no checkpoint at all")  # noqa: TRY301
            stored = torch.load(self.last, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise CheckpointError(
                f"{self.last} cannot be read: {error}. It is damaged, or holds more than tensors "
                "and plain values. Start over with resume=False."
            ) from error
        found = stored.pop("format_version", None) if isinstance(stored, dict) else None
        if found != FORMAT_VERSION:
            raise CheckpointError(
                f"{self.last} has format {found!r}; this version continues runs of format "
                f"{FORMAT_VERSION}. Start over with resume=False, or in another out_dir."
            )
        return State(**stored | {"history": tuple(stored["history"])})

    def write(self, state: State) -> None:
        """Replace `last.ckpt` and `metrics.csv`.

        Raises:
            TrainingError: they cannot be written, as on a full disk.
        """
        plain = {
            "format_version": FORMAT_VERSION,
            "options": dict(state.options),
            "model": dict(state.model),
            "optimiser": state.optimiser,
            "scheduler": state.scheduler,
            "history": list(state.history),
        }
        table = _table(state.history)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            replace_file(self.path / "metrics.csv", lambda p: p.write_text(table, encoding="utf-8"))
            replace_file(self.last, lambda p: _save(plain, p))
        except OSError as error:
            raise _unwritable(self.path, len(state.history), error) from error

    def write_best(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], *, epoch: int
    ) -> None:
        """Replace the best model.

        Raises:
            TrainingError: it cannot be written, as on a full disk.
        """
        try:
            write_model(self.best, config, weights)
        except OSError as error:
            raise _unwritable(self.best, epoch, error) from error

    def write_config(self, config: Any) -> None:
        """Replace `config.yaml`, the choices of the run in words.

        Raises:
            TrainingError: it cannot be written, as on a full disk.
        """
        try:
            write_config(config, self.path / "config.yaml")
        except OSError as error:
            raise _unwritable(self.path, 0, error) from error

    def read_best(self) -> dict[str, Tensor]:
        """Weights of the best model."""
        return read_weights(self.best)

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else."""
        self.last.unlink(missing_ok=True)
        (self.path / "metrics.csv").unlink(missing_ok=True)
        (self.path / "config.yaml").unlink(missing_ok=True)
        if self.best.exists():
            shutil.rmtree(self.best)


def check_options(stored: Mapping[str, Any], asked: Mapping[str, Any], where: Path) -> None:
    """A run goes on only as it began.

    Raises:
        CheckpointError: naming each option that differs.

    Example:
        >>> check_options({"lr": 0.1}, {"lr": 0.2}, Path("run/last.ckpt"))
        Traceback (most recent call last):
        deepsentinel.errors.CheckpointError: run/last.ckpt was begun with other options: lr=0.1,
        now asked for lr=0.2. ...
    """
    old, new = _flat(stored), _flat(asked)
    names = [k for k in dict.fromkeys([*old, *new]) if old.get(k) != new.get(k)]
    if names:
        said = "; ".join(f"{k}={old.get(k)!r}, now asked for {k}={new.get(k)!r}" for k in names[:6])
        raise CheckpointError(
            f"{where} was begun with other options: {said}. Repeat the call as it was to go on, "
            "give another out_dir, or start over with resume=False (deepsentinel ... --restart)."
        )


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _table(history: tuple[Row, ...]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]) if history else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _save(plain: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(plain, file)
        except RuntimeError as error:
            # torch covers what the system said, such as a full disk, or Ctrl-C, with a complaint of
            # its own.
            if isinstance(error.__context__, OSError | KeyboardInterrupt):
                raise error.__context__ from None
            raise


def _unwritable(path: Path, epoch: int, error: OSError) -> TrainingError:
    return TrainingError(
        f"after epoch {epoch} {path} could not be written: {error}. What was there before is "
        "untouched. Make room (or make the folder writable) and repeat the call: it goes on from "
        "the last checkpoint."
    )
