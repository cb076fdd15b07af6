"""Objectives by name: what a config or a command line calls them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from inspect import Parameter, signature
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from deepsentinel.errors import ConfigError, UnknownNameError, nearest

if TYPE_CHECKING:
    from deepsentinel.encoders.fusion import FusionEncoder
    from deepsentinel.objectives.objective import Objective


@dataclass(frozen=True, kw_only=True)
class Row:
    """One objective."""

    name: str
    title: str
    module: str
    """In `deepsentinel.objectives`; imported when it is built."""
    kind: str
    """Its class there."""


ROWS: tuple[Row, ...] = (
    Row(
        name="simclr",
        title="contrastive between views or sensors of a patch (NT-Xent)",
        module="contrastive",
        kind="SimCLR",
    ),
    Row(
        name="moco",
        title="contrastive with a momentum encoder and a queue",
        module="contrastive",
        kind="MoCo",
    ),
    Row(
        name="byol",
        title="predict a momentum teacher's embedding of the other look; no negatives",
        module="regularised",
        kind="BYOL",
    ),
    Row(
        name="vicreg",
        title="agreement with variance and covariance held up; no negatives",
        module="regularised",
        kind="VICReg",
    ),
    Row(
        name="tile2vec",
        title="triplets of anchor, neighbour on the ground and distant patch",
        module="tile2vec",
        kind="Tile2Vec",
    ),
    Row(
        name="masked",
        title="masked reconstruction, of one sensor from the other too",
        module="masked",
        kind="Masked",
    ),
    Row(
        name="vae",
        title="variational auto-encoder",
        module="variational",
        kind="Variational",
    ),
    Row(
        name="pix2pix",
        title="conditional GAN from Sentinel-1 to true colour or EVI",
        module="translation",
        kind="Translation",
    ),
    Row(
        name="alae",
        title="adversarial latent auto-encoder",
        module="latent",
        kind="AdversarialLatent",
    ),
    Row(
        name="distillation",
        title="features of one or more teachers of the zoo, from less than they see",
        module="teachers",
        kind="Teachers",
    ),
)

OBJECTIVES: tuple[str, ...] = tuple(row.name for row in ROWS)
"""Names that `make_objective` knows."""


def make_objective(
    name: str, encoder: "FusionEncoder", options: Mapping[str, Any] | None = None
) -> "Objective":
    """The objective of that name for an encoder.

    Args:
        name: one of `OBJECTIVES`.
        encoder: that it will train.
        options: keyword arguments of its class by name, as YAML gives them: a mapping stands for a
            value such as `View`, a list for a tuple.

    Raises:
        UnknownNameError: no objective of that name.
        ConfigError: an option that the objective does not know, or of another type.

    Example:
        >>> from deepsentinel.encoders.fusion import FusionEncoder
        >>> options = {"temperature": 0.2, "view": {"crop": 0.5}}
        >>> make_objective("simclr", FusionEncoder("resnet10t"), options).pairs.view.crop
        0.5
    """
    kind = _kind(name)
    hints = option_types(name)
    given: dict[str, Any] = {}
    for option, value in (options or {}).items():
        if option not in hints:
            raise ConfigError(
                f"objective {name!r} has no option {option!r}. {nearest(option, hints)}"
            )
        given[option] = _converted(value, hints[option], f"{name}.{option}")
    built: Objective = kind(encoder, **given)
    return built


def option_types(name: str) -> dict[str, Any]:
    """Options of an objective and their types.

    Raises:
        UnknownNameError: no objective of that name.

    Example:
        >>> option_types("simclr")["temperature"]
        <class 'float'>
    """
    kind = _kind(name)
    hints = get_type_hints(kind.__init__)
    parameters = signature(kind).parameters.values()
    return {p.name: hints[p.name] for p in parameters if p.kind is Parameter.KEYWORD_ONLY}


def _kind(name: str) -> Any:
    row = next((row for row in ROWS if row.name == name), None)
    if row is None:
        raise UnknownNameError(f"no objective {name!r}. {nearest(name, OBJECTIVES)}")
    return getattr(import_module(f"deepsentinel.objectives.{row.module}"), row.kind)


def _converted(value: Any, hint: Any, where: str) -> Any:  # noqa: PLR0911 - one return a kind
    """A value as YAML gives it in the type of an option."""
    if get_origin(hint) in {Union, UnionType}:
        kinds = get_args(hint)
        if any(isinstance(value, kind) for kind in kinds if isinstance(kind, type)):
            return value
        return _converted(value, kinds[0], where)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where}={value!r}. {nearest(str(value), map(str, get_args(hint)))}")
        return value
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        return tuple(_converted(v, get_args(hint)[0], where) for v in value)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _value(value, hint, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, get_origin(hint) or hint) or (hint is int and value is True):
        expected = getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{where}={value!r} is a {type(value).__name__}; expected {expected}.")
    return value


def _value(given: Mapping[str, Any], kind: Any, where: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    hints = get_type_hints(kind)
    for name in given:
        if name not in known:
            raise ConfigError(f"{where} has no {name!r}. {nearest(name, known)}")
    return kind(**{k: _converted(v, hints[k], f"{where}.{k}") for k, v in given.items()})
