"""One public encoder as facts: its card, the class that reads it, and how that is built; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.encoders.card import Card, Source
from deepsentinel.encoders.config import KINDS
from deepsentinel.encoders.scaling import scaling

if TYPE_CHECKING:
    from deepsentinel.encoders.door import Check, Empty
    from deepsentinel.encoders.public import PublicEncoder


FUSION = {
    "concat": "late: both vectors side by side, zeros for a sensor that saw nothing, then one flag a "
    "sensor that is 1 where it saw something",
    "mean": "late: mean of the sensors that saw something",
}
LEVELS: dict[str, Mapping[Sensor, tuple[str, ...]]] = {
    "L1C": {"s1": ("GRD",), "s2": ("L1C",)},
    "L2A": {"s1": ("GRD",), "s2": ("L2A",)},
    "both": {"s1": ("GRD",), "s2": ("L1C", "L2A")},
}
SSL4EO_DATA = "CC-BY-4.0 (SSL4EO-S12)"
B10 = "B10, which Level-2A lacks, and whatever else was not observed enter as the training mean. "
DARKER = "It saw Level-1C before baseline 04.00: Level-2A is darker in the visible bands. "


@dataclass(frozen=True, kw_only=True)
class PublicRow:
    """One public encoder: its card, the class that reads it, and how that is built."""

    card: Card
    kind: str
    """Class name in `encoders.config.KINDS`."""
    arguments: Mapping[str, Any]
    """Of the class; `fusion`, where it is among them, is an option of `load_encoder`."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that a caller may choose, with their defaults."""
        return {k: v for k, v in self.arguments.items() if k == "fusion"}

    def build(
        self,
        files: Mapping[str, Path],
        options: Mapping[str, Any],
        *,
        check: "Check" = "first",
        empty: "Empty" = "error",
    ) -> "PublicEncoder":
        """The encoder on its files, which have been verified; every key accounted for.

        Raises:
            WeightsError: a file holds more than tensors, or others than the network has.
        """
        # Only here: listing encoders needs no torch.
        from deepsentinel.encoders.public import read_tensors

        made: type[PublicEncoder] = getattr(import_module(KINDS[self.kind]), self.kind)
        arguments = {**self.arguments, **options}
        card = self.card
        if arguments != self.arguments:
            card = replace(card, fusion=FUSION[arguments["fusion"]], macs_per_px=None)
        encoder = made(**arguments, check=check, empty=empty, card=card)
        published = {key: read_tensors(file) for key, file in files.items()}
        return encoder.load_published(published, origin=self.card.name)


def _source(url: str) -> Source:
    """A file by its address: repository, commit, path, and the hash prefix that its name may end in."""
    repository, _, rest = url.removeprefix("hf://").partition("@")
    revision, _, path = rest.partition("/")
    prefix = path.rpartition(".")[0].rpartition("-")[2]
    known = len(prefix) == 8 and set(prefix) <= set("0123456789abcdef")
    return Source(
        repository=repository,
        path=path,
        revision=revision,
        sha256_prefix=prefix if known else None,
    )


def _normalisation(name: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each band, as the card shows them."""
    return {
        band: pair
        for facts in scaling(name).values()
        for band, pair in zip(facts.bands, facts.statistics, strict=True)
    }


def public_card(*, name: str, scaled: str, sources: Mapping[str, str], **facts: Any) -> Card:
    """The card of a public encoder, with what its scaling and the addresses of its files tell.

    Args:
        name: what `load_encoder` calls it.
        scaled: of `encoders.scaling`.
        sources: `hf://` addresses of its files, `s1` and `s2` of two towers, else `both`.
        facts: of `Card`.
    """
    known = scaling(scaled)
    return Card(
        name=name,
        sensors=tuple(s for s in SENSORS if s in known),
        bands={s: facts_.bands for s, facts_ in known.items()},
        normalisation=_normalisation(scaled),
        sources={key: _source(url) for key, url in sources.items()},
        resolution_m=10,
        min_size=16,
        proved_on="shapes only",
        **facts,
    )
