"""`load_encoder` and `list_encoders`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepsentinel.encoders.card import Card
from deepsentinel.encoders.config import read_config
from deepsentinel.errors import EncoderNotFoundError, WeightsError, nearest
from deepsentinel.zoo.rows import ROWS, Row

if TYPE_CHECKING:
    from deepsentinel.encoders.door import Check, Empty
    from deepsentinel.encoders.fusion import FusionEncoder


def load_encoder(
    name: str | Path = "deepsentinel-nano", *, check: "Check" = "first", empty: "Empty" = "error"
) -> "FusionEncoder":
    """A pretrained encoder, in eval mode and float32.

    The weights must have the sha256 of their row, or of their card for a folder, and fit the
    architecture exactly; nothing is ever loaded in part or replaced by random weights.

    Args:
        name: a row of `list_encoders()`, or a folder that `save_pretrained` wrote.
        check: when units are checked: `"first"` (every call on CPU, the first per device
            elsewhere), `"always"` or `"never"`.
        empty: a patch that was observed nowhere is an `"error"` or a `"nan"` embedding.

    Raises:
        EncoderNotFoundError: no encoder of that name, and no such folder.
        WeightsError: a file is absent or damaged, or weights and config disagree.

    Example:
        >>> import tempfile
        >>> from deepsentinel import FusionEncoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     FusionEncoder("mobilenetv4_conv_small_050").save_pretrained(folder)
        ...     load_encoder(folder).embed_dim
        480
    """
    # Only here: listing encoders needs no torch.
    from deepsentinel.encoders.fusion import FusionEncoder

    row = _row(name, ROWS)
    if row is None:
        return FusionEncoder.from_pretrained(name, check=check, empty=empty)
    return FusionEncoder.from_pretrained(_shipped(row), sha256=row.sha256, check=check, empty=empty)


def list_encoders() -> list[Card]:
    """Cards of the encoders that `load_encoder` knows by name; imports no torch.

    Raises:
        WeightsError: the card of a row is absent or damaged.
    """
    return [read_config(_shipped(row))[1] for row in ROWS]


def _shipped(row: Row) -> Path:
    if not row.folder.is_dir():
        raise WeightsError(
            f"the weights of {row.name!r} are not in this installation ({str(row.folder)!r} is "
            "absent). Reinstall deepsentinel from its wheel or a whole checkout."
        )
    return row.folder


def _row(name: str | Path, rows: Sequence[Row]) -> Row | None:
    """The row of that name; `None` where the name is a folder."""
    found = next((row for row in rows if row.name == name), None)
    if found is not None or isinstance(name, Path) or Path(name).is_dir():
        return found
    if os.sep in name:
        raise EncoderNotFoundError(
            f"no encoder at {name!r}: there is no such folder. Give a folder that save_pretrained "
            "wrote, or a name from deepsentinel.list_encoders()."
        )
    raise EncoderNotFoundError(
        f"no encoder {name!r}. {nearest(name, [row.name for row in rows])} A folder that "
        "save_pretrained wrote is accepted too."
    )
