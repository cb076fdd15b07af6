"""States of runs on disk: tensors and plain values only, so that a file from elsewhere runs no code."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from deepsentinel.errors import CheckpointError
from deepsentinel.heads.files import replace_file

VERSION_KEY = "format_version"


def read_state(path: Path, version: int) -> dict[str, Any] | None:
    """What `write_state` wrote; `None` where there is nothing.

    Args:
        path: of the file.
        version: of the format that is understood.

    Raises:
        CheckpointError: the file is damaged, of another version, or holds more than plain values.
    """
    if not path.exists():
        return None
    try:
        if not is_zipfile(path):  # what torch.save writes
            raise EOFError("it is cut off, or no checkpoint at all")  # noqa: TRY301
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose words propose to run the code
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors and plain values, such as code, which is "
            "never run. If this run did not write it, do not trust it. Start over with resume=False."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. It is damaged. Start over with resume=False."
        ) from error
    found = stored.pop(VERSION_KEY, None) if isinstance(stored, dict) else None
    if found != version:
        raise CheckpointError(
            f"{path} has format {found!r}; this version continues runs of format {version}. Start "
            "over with resume=False, or in another out_dir."
        )
    return dict(stored)


def write_state(path: Path, version: int, state: Mapping[str, Any]) -> None:
    """Replace a file in one step.

    Args:
        path: of the file, in a folder that exists.
        version: of the format.
        state: tensors and plain values by name.

    Raises:
        OSError: it cannot be written, as on a full disk.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "last.ckpt"
        ...     write_state(file, 1, {"step": 3})
        ...     read_state(file, 1), read_state(Path(folder) / "other.ckpt", 1)
        ({'step': 3}, None)
    """
    replace_file(path, lambda part: _save({VERSION_KEY: version, **state}, part))


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
