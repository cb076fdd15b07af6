"""One row of facts for every encoder that `load_encoder` knows by name."""

from dataclasses import dataclass
from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Where an encoder's weights are and what they must be."""

    name: str
    folder: Path
    """With `config.json` (architecture and card) and `model.safetensors`."""
    sha256: str
    """Of `model.safetensors`."""


ROWS: tuple[Row, ...] = (
    Row(
        name="deepsentinel-nano",
        folder=_WEIGHTS / "deepsentinel-nano",
        sha256="0" * 64,
    ),
)
