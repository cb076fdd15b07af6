"""The model card of a whole model: what it predicts, from what, and how to use it."""

from collections.abc import Mapping
from typing import Any, Final

from deepsentinel.encoders.card import Card
from deepsentinel.heads.classes import MATCHES

_TASKS: Final = {
    "classification": ("classes of whole patches", "prediction.classes.shape"),
    "detection": ("classes of objects, with their boxes,", "prediction.boxes[0].shape"),
    "matching": ("answers, whether a pair shows one place,", "prediction.probabilities"),
    "regression": ("quantities", "prediction.values.shape"),
    "segmentation": ("classes of pixels", "prediction.classes.shape"),
}
"""Of each task what is predicted, and what the snippet prints of a prediction."""


def model_card(name: str, config: Mapping[str, Any]) -> str:
    """Markdown with YAML front matter for the Hub, from a model's `config()`.

    Args:
        name: `<user>/<repo>`.
        config: of the model; the card of an encoder that is not the library's own is not in it.

    Example:
        >>> config = {"task": "segmentation", "class_names": ["sea", "land"],
        ...     "class_colours": None, "encoder": {"kind": "Mine"}}
        >>> print(model_card("user/coast", config).splitlines()[9])
        # coast
    """
    stored = config["encoder"].get("card")
    card = Card.from_json(stored) if stored else Card(name=config["encoder"]["kind"])
    parts = [_front(card, config["task"]), f"# {name.rpartition('/')[2]}", _summary(card, config)]
    parts += [_usage(name, card, config["task"]), _classes(config), _encoder(card)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(card: Card, task: str) -> str:
    licence = [f"license: {card.licence.lower()}"] if card.licence else []
    tags = ["tags:", "- remote-sensing", "- sentinel-1", "- sentinel-2", f"- {task}"]
    return "\n".join(["---", "library_name: deepsentinel", *licence, *tags, "---"])


def _summary(card: Card, config: Mapping[str, Any]) -> str:
    what, _ = _TASKS[config["task"]]
    return (
        f"Predicts {len(_names(config))} {what} from Sentinel-1 and Sentinel-2 patches, with "
        f"the encoder {card.name or card.backbone or 'of its config'} and a head trained on it."
    )


def _usage(name: str, card: Card, task: str) -> str:
    if not card.sensors:
        return ""
    level = {"s1": "-12.0)  # dB", "s2": "0.05)  # reflectance"}
    lines = ["import torch", "import deepsentinel", ""]
    lines += [f'model = deepsentinel.load_model("{name}")']
    lines += [
        f"{s} = torch.full((1, {len(card.bands[s])}, 64, 64), {level[s]}" for s in card.sensors
    ]
    given = ", ".join(f'{s}={s}, {s}_bands=model.encoder.bands["{s}"]' for s in card.sensors)
    lines += ["with torch.inference_mode():", f"    prediction = model({given})"]
    lines += [f"print({_TASKS[task][1]}, model.class_names)"]
    return "\n".join(["## Use", "", "```python", *lines, "```"])


def _names(config: Mapping[str, Any]) -> list[str]:
    """Of classes, of quantities, or of the two answers of a matcher."""
    if config["task"] == "matching":
        return list(MATCHES)
    names: list[str] = config.get("class_names") or config["target_names"]
    return names


def _classes(config: Mapping[str, Any]) -> str:
    names = _names(config)
    if "class_names" not in config:
        title = "Quantities" if config["task"] == "regression" else "Answers"
        return "\n".join([f"## {title}", "", *(f"{i}. {n}" for i, n in enumerate(names))])
    colours = config["class_colours"] or [""] * len(names)
    rows = [f"| {i} | {n} | {c} |" for i, (n, c) in enumerate(zip(names, colours, strict=True))]
    return "\n".join(["## Classes", "", "| id | class | colour |", "|---|---|---|", *rows])


def _encoder(card: Card) -> str:
    """The encoder's own card below a heading; its weights may have been trained further here."""
    body = card.to_markdown().partition("---\n")[2].partition("---\n")[2]
    facts = body[body.index("## Facts") :] if "## Facts" in body else ""
    if not facts:
        return ""
    note = "Facts of the encoder that training began with; its scores are not those of this model."
    return f"## Encoder\n\n{card.limits}\n\n{note}\n\n{facts.replace('## ', '### ').strip()}"
