"""One row of facts for every encoder that `load_encoder` knows by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deepsentinel.encoders.card import Card
from deepsentinel.encoders.galileo_card import BASE, HEADS, NANO, TINY
from deepsentinel.encoders.presto_card import CARD as PRESTO
from deepsentinel.zoo.torchgeo_rows import TORCHGEO

if TYPE_CHECKING:
    from deepsentinel.encoders.door import Check, Empty
    from deepsentinel.encoders.pretrained import Pretrained

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """An encoder that comes with the library."""

    name: str
    folder: Path
    """With `config.json` (architecture and card) and `model.safetensors`."""
    sha256: str
    """Of `model.safetensors`."""


class Build(Protocol):
    """Makes the encoder of a row from its files, which have been verified."""

    def __call__(
        self,
        files: Mapping[str, Path],
        options: Mapping[str, Any],
        *,
        check: "Check",
        empty: "Empty",
    ) -> "Pretrained":
        """The encoder in eval mode and float32, loaded strictly, with the row's card.

        Args:
            files: by the keys of `card.sources`.
            options: every option of the row, given or default.
            check: when units are checked.
            empty: what a patch without an observed value gives.
        """


@dataclass(frozen=True, kw_only=True)
class Row:
    """An encoder of others, on the Hub.

    Its name, its files and what pins them stand in the card.
    """

    card: Card
    """`sources`: `s1` and `s2` of two towers, else `both`."""
    build: Build
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `load_encoder` that the row knows beside the common ones, with their defaults."""

    @property
    def name(self) -> str:
        """What `load_encoder` calls it."""
        return self.card.name


def _galileo(card: Card) -> Row:
    def build(
        files: Mapping[str, Path], options: Mapping[str, Any], *, check: "Check", empty: "Empty"
    ) -> "Pretrained":
        from deepsentinel.encoders.galileo import GalileoEncoder

        return GalileoEncoder.from_weights(
            files["both"],
            sha256=card.sources["both"].sha256,
            heads=HEADS[card.name],
            patch_size=options["patch_size"],
            window=options["window"],
            check=check,
            empty=empty,
            card=card,
        )

    return Row(card=card, build=build, options={"patch_size": 8, "window": None})


def _presto(
    files: Mapping[str, Path], options: Mapping[str, Any], *, check: "Check", empty: "Empty"
) -> "Pretrained":
    from deepsentinel.encoders.presto import PrestoEncoder

    return PrestoEncoder.from_weights(
        files["both"], stride=options["stride"], check=check, empty=empty
    )


ROWS: tuple[Shipped | Row, ...] = (
    Shipped(
        name="deepsentinel-nano",
        folder=_WEIGHTS / "deepsentinel-nano",
        sha256="458677ec6a20c2e66d24a6fbf30d12b195af6ce264239be0a27de8653c9e9021",
    ),
    *(_galileo(card) for card in (NANO, TINY, BASE)),
    Row(card=PRESTO, build=_presto, options={"stride": 1}),
    *(Row(card=row.card, build=row.build, options=row.options) for row in TORCHGEO),
)
