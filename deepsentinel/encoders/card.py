"""The card of an encoder: every fact that a user needs before trusting it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from deepsentinel.bands import SENSOR_TITLES, Sensor
from deepsentinel.errors import WeightsError, nearest

PROOFS = {
    "published weights": "on the published file it gives what its authors' code gives, within 1e-4",
    "smaller sister": "the same code gives what the authors' code gives on the published file of a "
    "smaller sister; this file was never run by this project, so look at its embeddings first",
    "shapes only": "files of the published names and shapes load, what enters is what the authors "
    "document, the network is timm's or torchgeo's; the published file was never run by this project, "
    "so look at its embeddings first",
    "another mode": "the row is proved as its authors use it, and this mode is not theirs",
    "own weights": "trained, measured and tested by this project",
}
"""What each word of `Card.proved_on` means."""


FREE_USE = {
    "MIT": "none; keep its licence text",
    "Apache-2.0": "none; keep its licence and notices",
    "CC-BY-4.0": "none but attribution: cite as below",
}
"""`Card.restrictions` under licences that forbid no use."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measured score, with what it must be compared to."""

    task: str
    """What was measured, such as `BigEarthNet-S2 linear probe, 60 labels`."""
    metric: str
    """Such as `micro mAP`."""
    value: float
    sensors: str = "both"
    """What the encoder was shown: `s1`, `s2` or `both`."""
    controls: Mapping[str, float] = field(default_factory=dict)
    """The same measurement of controls, such as `band_stats` and `random`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One published file of weights on the Hub, and what pins it; `None` where nothing is published."""

    repository: str
    """`<user>/<name>` on the Hugging Face Hub."""
    path: str
    """Of the file in the repository."""
    revision: str | None = None
    """40 hex digits of the Hub's commit; `None`: not known to us, the hash pins the file."""
    sha256: str | None = None
    """64 hex digits; `None`: not published, the Hub's own hash is verified."""
    sha256_prefix: str | None = None
    """Its first hex digits, where only they are published."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Facts of one encoder. What is not known is empty; nothing is estimated.

    Example:
        >>> card = Card(name="tiny", limits="Use this when testing.", embed_dim=8)
        >>> Card.from_json(card.to_json()) == card
        True
    """

    name: str = ""
    title: str = ""
    sensors: tuple[Sensor, ...] = ()
    bands: Mapping[Sensor, tuple[str, ...]] = field(default_factory=dict)
    units: Mapping[Sensor, str] = field(
        default_factory=lambda: {"s1": "dB", "s2": "surface reflectance, 0-1"}
    )
    normalisation: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Mean and standard deviation of each band, in `units`."""
    normalisation_source: str = ""
    levels: Mapping[Sensor, tuple[str, ...]] = field(default_factory=dict)
    """Processing levels it was trained on: GRD or RTC, L1C or L2A."""
    resolution_m: float | None = None
    """Pixel spacing it was trained on."""
    min_size: int | None = None
    """Least height and width in pixels."""
    input_px: int | None = None
    """Side that the weights want; patches are resized to it inside, maps come at the caller's size."""
    preprocessing: str = ""
    """How our units become those of the weights, and what stands for what was not observed."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Extra inputs that it knows, `month` or `lonlat`, and what is used where they are not given."""
    backbone: str = ""
    fusion: str = ""
    embed_dim: int | None = None
    out_channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    parameters: int | None = None
    macs_per_px: float | None = None
    """Multiply-accumulates a pixel of input, measured at 64 x 64 px."""
    licence: str = ""
    """Of the weights."""
    data_licence: str = ""
    """Of the data they were trained on."""
    restrictions: str = ""
    """What the licence forbids or asks; empty: not known."""
    citation: str = ""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Published files that the weights came from: `s1` and `s2` of two towers, else `both`."""
    repository: str = ""
    revision: str = ""
    sha256: str = ""
    """Of `model.safetensors`."""
    proved_on: str = ""
    """What this project tested the row on: a key of `PROOFS`, or empty for encoders of others."""
    scores: tuple[Score, ...] = ()
    training: Mapping[str, str] = field(default_factory=dict)
    """Such as data, recipe, seed, commit."""
    limits: str = ""
    """Use this when, and when not."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The card that `to_json` wrote.

        Raises:
            WeightsError: a key or a proof is unknown, as in a file of a later version.
        """
        unknown = sorted(set(plain) - {f.name for f in fields(cls)})
        if unknown:
            raise WeightsError(
                f"the card holds {unknown}, which this version of deepsentinel does not know. "
                "Update deepsentinel."
            )
        if plain.get("proved_on", "") not in {"", *PROOFS}:
            raise WeightsError(
                f"the card is proved on {plain['proved_on']!r}. "
                f"{nearest(str(plain['proved_on']), PROOFS)} Update deepsentinel."
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()
        }
        for key in ("bands", "levels", "normalisation"):
            values[key] = {k: tuple(v) for k, v in plain.get(key, {}).items()}
        values["sources"] = {k: Source(**v) for k, v in plain.get("sources", {}).items()}
        values["scores"] = tuple(Score(**score) for score in plain.get("scores", ()))
        return cls(**values)

    def to_markdown(self) -> str:
        """A model card for the Hub: YAML front matter, then the facts as tables."""
        parts = [_front_matter(self), f"# {self.title or self.name}", self.limits]
        parts += [_usage(self), _facts(self), _source_table(self), _band_table(self)]
        parts += [_score_table(self)]
        parts += [_section("Training", self.training), _citation(self)]
        return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(card: Card) -> str:
    lines = ["---", "library_name: deepsentinel"]
    if card.licence:
        lines.append(f"license: {card.licence.lower()}")
    lines += ["tags:", "- remote-sensing", "- sentinel-1", "- sentinel-2", "---"]
    return "\n".join(lines)


def _usage(card: Card) -> str:
    name = card.repository or card.name
    if not name or not card.sensors:
        return ""
    calls = {
        "s1": f"s1 = torch.full((1, {len(card.bands.get('s1', ()))}, 64, 64), -12.0)  # dB",
        "s2": f"s2 = torch.full((1, {len(card.bands.get('s2', ()))}, 64, 64), 0.05)  # reflectance",
    }
    given = [f'{s}={s}, {s}_bands=encoder.bands["{s}"]' for s in card.sensors]
    lines = ["import torch", "import deepsentinel", ""]
    lines += [f'encoder = deepsentinel.load_encoder("{name}")']
    lines += [calls[s] for s in card.sensors]
    lines += ["with torch.inference_mode():", f"    features = encoder({', '.join(given)})"]
    lines += ["print(features.embedding.shape, [tuple(m.shape) for m in features.maps])"]
    return "\n".join(["## Use", "", "```python", *lines, "```"])


def _source_table(card: Card) -> str:
    if not card.sources:
        return ""
    lines = ["## Files", "", "| | repository | file | revision | sha256 |", "|" + "---|" * 5]
    for key, source in card.sources.items():
        digest = source.sha256 or (f"{source.sha256_prefix}..." if source.sha256_prefix else "")
        cells = [key, source.repository, source.path, source.revision or "not known"]
        lines.append(f"| {' | '.join([*cells, digest or 'not published'])} |")
    return "\n".join(lines)


def _facts(card: Card) -> str:
    rows = {
        "sensors": ", ".join(SENSOR_TITLES[s] for s in card.sensors),
        "units": "; ".join(f"{SENSOR_TITLES[s]}: {card.units[s]}" for s in card.sensors),
        "levels": "; ".join(f"{SENSOR_TITLES[s]}: {', '.join(v)}" for s, v in card.levels.items()),
        "resolution": f"{card.resolution_m:g} m" if card.resolution_m else "",
        "input size": _input_size(card),
        "preprocessing": card.preprocessing,
        "extra inputs": "; ".join(f"{k} (absent: {v})" for k, v in card.inputs.items()),
        "backbone": card.backbone,
        "fusion": card.fusion,
        "embedding": str(card.embed_dim or ""),
        "maps": ", ".join(
            f"{c} channels at stride {s}"
            for c, s in zip(card.out_channels, card.strides, strict=True)
        ),
        "parameters": f"{card.parameters:,}" if card.parameters else "",
        "cost": f"{card.macs_per_px:,.0f} multiply-accumulates a pixel" if card.macs_per_px else "",
        "licence of the weights": card.licence,
        "licence of the data": card.data_licence,
        "restrictions of use": card.restrictions,
        "repository": card.repository,
        "revision": card.revision,
        "sha256": card.sha256,
        "proved on": f"{card.proved_on}: {PROOFS[card.proved_on]}" if card.proved_on else "",
    }
    return _section("Facts", rows)


def _input_size(card: Card) -> str:
    least = f"any from {card.min_size} px" if card.min_size else ""
    if not card.input_px:
        return least
    size = f"{card.input_px} x {card.input_px} px"
    return f"{least}; resized to {size} inside, maps come back at the caller's size".lstrip("; ")


def _section(title: str, rows: Mapping[str, str]) -> str:
    known = [f"| {key} | {value} |" for key, value in rows.items() if value]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *known]) if known else ""


def _band_table(card: Card) -> str:
    lines = [
        f"| {SENSOR_TITLES[sensor]} | {name} | {mean:g} | {std:g} |"
        for sensor in card.sensors
        for name in card.bands[sensor]
        for mean, std in [card.normalisation[name]]
    ]
    if not lines:
        return ""
    note = f"\n\nStatistics: {card.normalisation_source}" if card.normalisation_source else ""
    head = [
        "## Bands, in the order of the weights",
        "",
        "| sensor | band | mean | std |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + note


def _score_table(card: Card) -> str:
    if not card.scores:
        return ""
    names = sorted({name for score in card.scores for name in score.controls})
    head = ["task", "metric", "sensors", "this encoder", *names]
    lines = ["## Measured scores", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for score in card.scores:
        controls = [f"{score.controls[n]:.3f}" if n in score.controls else "" for n in names]
        cells = [score.task, score.metric, score.sensors, f"{score.value:.3f}", *controls]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _citation(card: Card) -> str:
    return f"## Citation\n\n{card.citation}" if card.citation else ""
