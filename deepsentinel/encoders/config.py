"""`config.json` beside the weights: constructor arguments and card, readable without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepsentinel.encoders.card import Card
from deepsentinel.errors import EncoderNotFoundError, WeightsError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1
"""Version of the layout of `config.json`."""
KINDS: dict[str, str] = {
    "FusionEncoder": "deepsentinel.encoders.fusion",
    "GalileoEncoder": "deepsentinel.encoders.galileo",
    "PrestoEncoder": "deepsentinel.encoders.presto",
    "TwoTowerEncoder": "deepsentinel.encoders.two_tower",
    "CROMAEncoder": "deepsentinel.encoders.croma",
    "DOFAEncoder": "deepsentinel.encoders.hyper",
    "CopernicusFMEncoder": "deepsentinel.encoders.hyper",
    "PanopticonEncoder": "deepsentinel.encoders.panopticon",
}
"""Module of each class of encoder that can be saved and opened."""
DEFAULT_KIND = "FusionEncoder"
"""Class of a config that names none."""


def write_config(
    folder: Path, arguments: Mapping[str, Any], card: Card, *, kind: str = DEFAULT_KIND
) -> None:
    """Write the encoder's class, constructor arguments and card to `config.json` in a folder."""
    content = {
        "format": FORMAT,
        "kind": kind,
        "encoder": dict(arguments),
        "card": card.to_json(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    replace_file(folder / CONFIG_FILE, text.encode())


def read_config(folder: Path) -> tuple[dict[str, Any], Card]:
    """Constructor arguments and card from a folder that `save_pretrained` wrote.

    Raises:
        EncoderNotFoundError: there is no such folder.
        WeightsError: `config.json` is absent, unreadable or of another format.
    """
    _, arguments, card = read_encoder(folder)
    return arguments, card


def read_encoder(folder: Path) -> tuple[str, dict[str, Any], Card]:
    """Class name, constructor arguments and card from a folder that `save_pretrained` wrote.

    Raises:
        EncoderNotFoundError: there is no such folder.
        WeightsError: `config.json` is absent, unreadable or of another format.
    """
    if not folder.is_dir():
        raise EncoderNotFoundError(
            f"no encoder at {str(folder)!r}: there is no such folder. Give a folder that "
            "save_pretrained wrote or <user>/<repo> on the Hub; names from "
            "deepsentinel.list_encoders() are for deepsentinel.load_encoder."
        )
    content = _parsed(read_file(folder / CONFIG_FILE), folder)
    if "task" in content:
        raise WeightsError(
            f"{str(folder)!r} holds a whole model for {content['task']}, not an encoder alone. Open "
            "it with deepsentinel.load_model; its encoder is model.encoder."
        )
    if content.get("format") != FORMAT:
        raise WeightsError(
            f"{CONFIG_FILE} in {str(folder)!r} has format {content.get('format')!r}; this version "
            f"of deepsentinel reads format {FORMAT}. Update deepsentinel, or save the encoder anew."
        )
    arguments, card = content.get("encoder"), content.get("card")
    if not isinstance(arguments, dict) or not isinstance(card, dict):
        raise WeightsError(
            f"{CONFIG_FILE} in {str(folder)!r} lacks 'encoder' or 'card'; it holds "
            f"{sorted(content)}. Save the encoder anew."
        )
    return str(content.get("kind", DEFAULT_KIND)), arguments, Card.from_json(card)


def _parsed(data: bytes, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise WeightsError(
            f"{CONFIG_FILE} in {str(folder)!r} is not JSON ({error}). Get the folder anew."
        ) from error
    return content if isinstance(content, dict) else {}


def read_file(path: Path) -> bytes:
    """Bytes of one file of an encoder's folder.

    Raises:
        WeightsError: it is absent or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path.name} in {str(path.parent)!r} cannot be read ({error.strerror}). An encoder is "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}: get both anew; for an encoder that ships with "
            "deepsentinel, reinstall deepsentinel."
        ) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
