"""A model's two files: `config.json` and `model.safetensors`, written so that none is ever torn."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepsentinel.encoders.config import CONFIG_FILE, WEIGHTS_FILE
from deepsentinel.errors import WeightsError


def write_model(
    folder: str | Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    sealed: bool = False,
) -> Path:
    """Write both files, each complete or not at all.

    Args:
        folder: made if need be.
        config: plain values.
        weights: by name.
        sealed: let the config state the sha256 of the weights, so that a pair is opened as it was
            written or not at all. A checkpoint that is replaced while it is read goes without.

    Raises:
        OSError: a file could not be written, as on a full disk; it is as it was.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    plain = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    replace_file(path / WEIGHTS_FILE, lambda p: _save(plain, p))
    facts = dict(config) | ({"sha256": file_sha256(path / WEIGHTS_FILE)} if sealed else {})
    text = json.dumps(facts, indent=2, allow_nan=False) + "\n"
    replace_file(path / CONFIG_FILE, lambda p: p.write_text(text, encoding="utf-8"))
    return path


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it there in one step.

    Raises:
        OSError: it could not be written; `path` is as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _save(weights: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(weights, path, {"format": "pt"})
    except SafetensorError as error:  # its own name for what the system says
        raise OSError(str(error)) from error


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder.

    Raises:
        WeightsError: there is none, or it is not JSON.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise WeightsError(
            f"{folder} holds no model: there is no config.json. Give the folder that "
            "save_pretrained wrote, or the out_dir of a fine-tuning that finished an epoch."
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}. Save the model again.") from error
    return config


def read_weights(folder: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """`model.safetensors` of a folder.

    Args:
        folder: of a model.
        sha256: that the file must have.

    Raises:
        WeightsError: it is missing or damaged, or another than it should be.
    """
    path = folder / WEIGHTS_FILE
    try:
        if sha256 is not None and (found := file_sha256(path)) != sha256:
            raise WeightsError(
                f"{path} has sha256 {found}; {sha256} is expected. One of the two files was "
                "replaced or damaged: get both again, or save the model again."
            )
        weights: dict[str, Tensor] = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {error}. Save the model again.") from error
    return weights
