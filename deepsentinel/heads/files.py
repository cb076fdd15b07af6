"""A model's two files: `config.json` and `model.safetensors`, written so that none is ever torn."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepsentinel.errors import WeightsError


def write_model(
    folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> Path:
    """Write both files, each complete or not at all.

    Raises:
        OSError: a file could not be written, as on a full disk; it is as it was.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    plain = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    replace_file(path / "config.json", lambda p: p.write_text(text, encoding="utf-8"))
    replace_file(path / "model.safetensors", lambda p: _save(plain, p))
    return path


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
    path = folder / "config.json"
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


def read_weights(folder: Path) -> dict[str, Tensor]:
    """`model.safetensors` of a folder.

    Raises:
        WeightsError: it is missing or damaged.
    """
    path = folder / "model.safetensors"
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {error}. Save the model again.") from error
    return weights
