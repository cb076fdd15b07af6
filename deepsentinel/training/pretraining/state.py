"""What a pretraining keeps on disk: `last.ckpt`, `log.jsonl`, `images`, `report`, `encoder`.

The log is added to row by row; a run that goes on cuts off the rows after its checkpoint and writes
them again.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deepsentinel.errors import TrainingError
from deepsentinel.heads.files import replace_file
from deepsentinel.training.stored import read_state, write_state

FORMAT_VERSION: Final = 1

LogRow = dict[str, float | str | None]
"""`step` counted from 1, and what was measured; `None` for what could not be."""


@dataclass(frozen=True, kw_only=True)
class PretrainState:
    """A run after some steps: everything that the next step depends on.

    There is no state of random generators: each step seeds its own.
    """

    options: Mapping[str, Any]
    step: int
    epoch: int
    batch: int
    """Batches that each process has read of the epoch."""
    encoder: Mapping[str, Any]
    objective: Mapping[str, Any]
    optimiser: Mapping[str, Any]
    average: Mapping[str, Any] | None
    """The moving average of the encoder, where one is kept."""
    watch: Mapping[str, Any]
    """Sums that the next row of the log begins with, and what the watch on collapse has seen."""


@dataclass(frozen=True)
class PretrainFolder:
    """The files of one run.

    Example:
        >>> PretrainFolder(Path("run")).encoder.name
        'encoder'
    """

    path: Path

    @property
    def last(self) -> Path:
        """The state after the last checkpoint."""
        return self.path / "last.ckpt"

    @property
    def log(self) -> Path:
        """One JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def images(self) -> Path:
        """Pictures that the objective made, by step."""
        return self.path / "images"

    @property
    def report(self) -> Path:
        """Curves and tables of the whole run."""
        return self.path / "report"

    @property
    def encoder(self) -> Path:
        """The encoder at the end, as `save_pretrained` writes it."""
        return self.path / "encoder"

    def read(self) -> PretrainState | None:
        """The state to go on from; `None` where no run has begun.

        Raises:
            CheckpointError: the file is damaged or of another version.
        """
        stored = read_state(self.last, FORMAT_VERSION)
        return None if stored is None else PretrainState(**stored)

    def write(self, state: PretrainState) -> None:
        """Replace `last.ckpt`.

        Raises:
            TrainingError: it cannot be written, as on a full disk.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_state(self.last, FORMAT_VERSION, _shallow(state))
        except OSError as error:
            raise TrainingError(
                f"after step {state.step} {self.last} could not be written: {error}. What was there "
                "before is untouched. Make room (or make the folder writable) and repeat the call: "
                "it goes on from the last checkpoint."
            ) from error

    def add(self, row: LogRow) -> None:
        """One row more of the log."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row), allow_nan=False) + "\n")

    def rows(self) -> list[LogRow]:
        """The log so far; a last line that a kill cut off is left out."""
        if not self.log.exists():
            return []
        *lines, _ = self.log.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines]

    def rewind(self, step: int) -> None:
        """Cut off what the log says of later steps."""
        if self.log.exists():
            kept = [row for row in self.rows() if float(row["step"] or 0) <= step]
            text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept)
            replace_file(self.log, lambda p: p.write_text(text, encoding="utf-8"))

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else."""
        for file in (self.last, self.log):
            file.unlink(missing_ok=True)
        for folder in (self.images, self.report, self.encoder):
            if folder.exists():
                shutil.rmtree(folder)


def _shallow(state: PretrainState) -> dict[str, Any]:
    """The fields as they are: `asdict` would copy every tensor."""
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def _finite(row: LogRow) -> LogRow:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
