"""The rows of the zoo as a table for scripts and for the docs; needs no torch."""

from collections.abc import Sequence
from typing import Any

from deepsentinel.encoders.card import Card

PINS = ("repository", "revision", "sha256", "sha256_prefix")


def facts(card: Card) -> dict[str, Any]:
    """A card for scripts: what is not known is `None`, and what pins the weights stands in front.

    `repository`, `revision`, `sha256` and `sha256_prefix` are objects with `s1` and `s2` where the
    encoder has a file for each of two towers.

    Example:
        >>> from deepsentinel.encoders.presto_card import CARD
        >>> facts(CARD)["params"], facts(CARD)["sha256"][:8], facts(CARD)["sha256_prefix"]
        (400096, '559c9d76', None)
    """
    first = {
        "name": card.name,
        "sensors": list(card.sensors),
        "embed_dim": card.embed_dim,
        "params": card.parameters,
        "licence": card.licence or None,
        **{pin: _pin(card, pin) for pin in PINS},
    }
    rest = {k: None if v == "" else v for k, v in card.to_json().items() if k not in first}
    return {**first, **rest}


def _pin(card: Card, pin: str) -> Any:
    if not card.sources:
        return getattr(card, pin, None) or None
    values = {key: getattr(source, pin) for key, source in card.sources.items()}
    return values.get("both", values)


def markdown(cards: Sequence[Card]) -> str:
    """The table of the docs, one line an encoder."""
    head = (
        "name",
        "sensors",
        "embedding",
        "strides",
        "parameters",
        "licence",
        "what pins it",
        "proved on",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for card in cards:
        cells = (
            f"`{card.name}`",
            ", ".join(card.sensors),
            str(card.embed_dim or ""),
            ", ".join(map(str, card.strides)),
            f"{card.parameters:,}" if card.parameters else "",
            card.licence,
            _pinned(card),
            card.proved_on,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pinned(card: Card) -> str:
    sources = list(card.sources.values())
    if not sources:
        return "in the wheel, sha256"
    known = {
        "revision": all(s.revision for s in sources),
        "sha256": all(s.sha256 for s in sources),
        "sha256 prefix": all(s.sha256_prefix for s in sources),
    }
    return ", ".join(name for name, has in known.items() if has)
