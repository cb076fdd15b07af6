"""What a pretraining came to."""

from dataclasses import dataclass
from pathlib import Path

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import TrainingError
from deepsentinel.training.pretraining.state import LogRow


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a pretraining came to."""

    encoder: FusionEncoder
    """As it was saved, in evaluation mode."""
    path: Path
    """Folder of the encoder; `deepsentinel.load_encoder` opens it."""
    out_dir: Path
    steps: int
    log: tuple[LogRow, ...]
    """Rows of `log.jsonl`: losses, speed and use, spread of embeddings, probes, warnings."""

    @property
    def collapsed(self) -> bool:
        """Whether the embeddings stopped telling patches apart at any time."""
        return any("warning" in row for row in self.log)

    def curve(self, name: str) -> tuple[tuple[int, float], ...]:
        """Step and value of one measure, where it was taken.

        Raises:
            TrainingError: it never was.
        """
        points = [(row["step"], row[name]) for row in self.log if row.get(name) is not None]
        if not points:
            known = dict.fromkeys(key for row in self.log for key in row)
            raise TrainingError(f"the log has no {name!r}; it has {' '.join(known)}.")
        return tuple((int(step), float(value)) for step, value in points)  # type: ignore[arg-type]

    def __str__(self) -> str:
        loss = self.curve("loss")[-1][1]
        probes = [value for row in self.log if isinstance(value := row.get("knn"), float)]
        probe = f"; kNN {probes[0]:.3f} untrained, {probes[-1]:.3f} now" if probes else ""
        warning = "; THE EMBEDDINGS COLLAPSED, see the log" if self.collapsed else ""
        return f"loss {loss:.4f} after {self.steps} steps{probe}{warning}; encoder in {self.path}"
