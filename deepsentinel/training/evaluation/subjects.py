"""Who is evaluated: the given encoders, and always the two controls beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from deepsentinel.encoders.pretrained import Pretrained
from deepsentinel.errors import TrainingError
from deepsentinel.features import Encoder

Encoders = Encoder | str | Path | Sequence[str | Path] | Mapping[str, Encoder]
"""An encoder, a name or folder that `load_encoder` knows, several of them, or encoders by name."""

BAND_STATISTICS: Final = "band statistics"
RANDOM: Final = "random weights"


@dataclass(frozen=True, eq=False)
class Subject:
    """One row of the tables: an encoder, or a control."""

    name: str
    role: Literal["encoder", "random", "statistics"]
    encoder: Any = None
    """The encoder; for `"random"` the one whose architecture is drawn anew."""
    twins: int = 1
    """How many random networks there are; seeds take turns."""

    def draw(self, seed: int) -> int:
        """Which of the networks a seed gets."""
        return seed % self.twins if self.role == "random" else 0

    def at(self, seed: int) -> Any:
        """The encoder of one seed; `None` for band statistics."""
        if self.role == "random":
            return self.encoder.reinitialised(self.draw(seed)).eval()
        return self.encoder


def subjects(encoders: Encoders, *, twins: int = 3) -> tuple[Subject, ...]:
    """The encoders with both controls: the same architectures with random weights, band statistics.

    An encoder of a class that cannot be drawn anew has the shipped architecture as its control.

    Args:
        encoders: what to evaluate.
        twins: random networks of each architecture.

    Raises:
        TrainingError: no encoder was given, or two of one name.
        EncoderNotFoundError: a name that is not known.

    Example:
        >>> from deepsentinel import FusionEncoder
        >>> [s.name for s in subjects({"mine": FusionEncoder("resnet10t")})]
        ['mine', 'mine, random weights', 'band statistics']
    """
    named = _named(encoders)
    if not named:
        raise TrainingError(
            "no encoder was given to evaluate; name one, such as deepsentinel-nano."
        )
    found = [Subject(name, "encoder", encoder) for name, encoder in named.items()]
    found += [
        Subject(f"{name}, {RANDOM}", "random", encoder, twins)
        for name, encoder in named.items()
        if isinstance(encoder, Pretrained)
    ]
    if not any(s.role == "random" for s in found):
        from deepsentinel.zoo.load import load_encoder

        shipped = load_encoder()
        found.append(Subject(f"{shipped.card.name}, {RANDOM}", "random", shipped, twins))
    return (*found, Subject(BAND_STATISTICS, "statistics"))


def _named(encoders: Encoders) -> dict[str, Any]:
    if isinstance(encoders, Mapping):
        return dict(encoders)
    if isinstance(encoders, str | Path):
        encoders = [encoders]
    if isinstance(encoders, Sequence):
        from deepsentinel.zoo.load import load_encoder

        names = [Path(e).name if Path(e).is_dir() else str(e) for e in encoders]
        double = sorted({n for n in names if names.count(n) > 1})
        if double:
            raise TrainingError(f"several encoders are called {double}; give a mapping with names.")
        return {n: load_encoder(e) for n, e in zip(names, encoders, strict=True)}
    card = getattr(encoders, "card", None)
    return {getattr(card, "name", "") or type(encoders).__name__: encoders}
