"""What a fine-tuning keeps on disk: `last.ckpt`, `best`, `metrics.csv` and `config.yaml`.

Every file is replaced in one step.
"""

import csv
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from deepsentinel.errors import TrainingError
from deepsentinel.heads.files import read_weights, replace_file, write_model
from deepsentinel.training.config import write_config
from deepsentinel.training.stored import read_state, write_state

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
        stored = read_state(self.last, FORMAT_VERSION)
        if stored is None:
            return None
        return State(**stored | {"history": tuple(stored["history"])})

    def write(self, state: State) -> None:
        """Replace `last.ckpt` and `metrics.csv`.

        Raises:
            TrainingError: they cannot be written, as on a full disk.
        """
        plain = {
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
            write_state(self.last, FORMAT_VERSION, plain)
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


def _table(history: tuple[Row, ...]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]) if history else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _unwritable(path: Path, epoch: int, error: OSError) -> TrainingError:
    return TrainingError(
        f"after epoch {epoch} {path} could not be written: {error}. What was there before is "
        "untouched. Make room (or make the folder writable) and repeat the call: it goes on from "
        "the last checkpoint."
    )
