"""Configs: frozen dataclasses that a YAML file and `key=value` words fill, checked and documented.

A config is a frozen, keyword-only dataclass whose fields are `Annotated[type, "what it means"]`.
The dataclass is the only place where a key, its type, its default and its words stand: the file,
the help and the docs are made from it. A field may be a config itself: a section of the file.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from deepsentinel.errors import ConfigError, nearest

C = TypeVar("C")

_WORDS: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    NoneType: "null",
    Any: "any value",
}


@dataclass(frozen=True)
class Key:
    """One key of a config, as help and docs show it."""

    name: str
    """Dotted where it lies in a section."""
    type: str
    """Words for what is accepted."""
    default: str
    """As YAML; empty where the key must be given."""
    doc: str


def read_config(kind: type[C], path: str | Path | None, *, sets: Sequence[str] = ()) -> C:
    """A config from a YAML file, if any, and words such as `lr=3e-4` that go before it.

    Args:
        kind: the config's dataclass.
        path: of the YAML file; `None` takes defaults and `sets` alone.
        sets: `key=value` each, the value as YAML; `section.key=value` within a section.

    Returns:
        A checked `kind`. Paths in it stay as they are written, relative to where the program runs.

    Raises:
        ConfigError: no such file, not YAML, an unknown or repeated key, a value of another type, or
            a key that is missing; all that is wrong is said at once.

    Example:
        >>> from typing import Annotated
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Run:
        ...     lr: Annotated[float, "Learning rate."] = 1e-3
        ...     epochs: Annotated[int, "Passes over the data."] = 20
        >>> read_config(Run, None, sets=["lr=3e-4"])
        Run(lr=0.0003, epochs=20)
        >>> read_config(Run, None, sets=["epoch=3"])
        Traceback (most recent call last):
        deepsentinel.errors.ConfigError: unknown key 'epoch' in --set epoch=3. Did you mean
        'epochs'? Known: lr epochs.
    """
    given: dict[str, Any] = {} if path is None else _load(Path(path))
    where = "the options" if path is None else str(path)
    problems: list[str] = []
    for text in sets:
        _put(kind, given, text, problems)
    config = _build(kind, given, "", where, problems)
    if problems:
        also = f" (Words that were set: {' '.join(sets)}.)" if sets and path is not None else ""
        raise ConfigError(" ".join(problems) + also)
    assert isinstance(config, kind)  # noqa: S101 - else there were problems
    return config


def write_config(config: Any, path: str | Path) -> Path:
    """Write a config as YAML, every key with its words as a comment; `read_config` reads it.

    Args:
        config: any config.
        path: of the file, which is replaced in one step; its folder is made if need be.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(_lines(config, "")) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def describe_config(kind: type[Any]) -> str:
    """The keys of a config as a Markdown table.

    Example:
        >>> from typing import Annotated
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Run:
        ...     lr: Annotated[float | None, "Learning rate."] = None
        >>> print(describe_config(Run))
        | key | value | default | meaning |
        |---|---|---|---|
        | `lr` | number or null | `null` | Learning rate. |
    """
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key in config_keys(kind):
        default = f"`{key.default}`" if key.default else "must be given"
        rows.append(f"| `{key.name}` | {key.type} | {default} | {key.doc} |")
    return "\n".join(rows)


def config_keys(kind: type[Any], *, section: str = "") -> tuple[Key, ...]:
    """The keys of a config, those of its sections after their dotted names.

    Args:
        kind: the config's dataclass.
        section: what goes before each name.
    """
    found: list[Key] = []
    hints = _hints(kind)
    for field in fields(kind):
        hint, doc = hints[field.name]
        inner = _section(hint)
        if inner is not None and hint is inner:
            found += config_keys(inner, section=f"{section}{field.name}.")
            continue
        missing = field.default is MISSING and field.default_factory is MISSING
        default = "" if missing else _inline(_default(field))
        found.append(Key(section + field.name, _words(hint), default, doc))
        if inner is not None:
            found += config_keys(inner, section=f"{section}{field.name}.")
    return tuple(found)


def plain(config: Any) -> Any:
    """A config as plain values: mappings, lists, numbers, text.

    Example:
        >>> plain({"a": (1, Path("b"))})
        {'a': [1, 'b']}
    """
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: plain(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml is untyped to mypy
    """YAML that refuses a key that stands twice; PyYAML would take the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def _load(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML that can be understood: {error}") from error
    if found is not None and not isinstance(found, dict):
        raise ConfigError(
            f"{path} holds {_found(found)}; expected keys and values, such as `lr: 0.001`."
        )
    return found or {}


def _put(kind: type[Any], given: dict[str, Any], text: str, problems: list[str]) -> None:
    """Put one `key=value` into what the file gave."""
    name, equals, value = text.partition("=")
    names = name.strip().split(".")
    if not equals or not all(names):
        problems.append(f"--set {text!r} is not understood; give key=value, such as lr=3e-4.")
        return
    hint: Any = kind
    for depth, part in enumerate(names):
        section = _section(hint)
        if section is None and dict in {get_origin(m) for m in (hint, *_members(hint))}:
            names = [*names[:depth], ".".join(names[depth:])]
            hint = Any
            break
        if section is None:
            problems.append(f"--set {text}: {'.'.join(names[:depth])!r} has no keys of its own.")
            return
        hints = _hints(section)
        if part not in hints:
            problems.append(f"unknown key {part!r} in --set {text}. {nearest(part, hints)}")
            return
        hint = hints[part][0]
    for part in names[:-1]:
        inner = given.get(part)
        given[part] = inner = dict(inner) if isinstance(inner, dict) else {}
        given = inner
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    takes_text = {str, Path} & {hint, *_members(hint)}
    keeps_type = parsed is None or isinstance(parsed, list | dict)
    given[names[-1]] = value.strip() if takes_text and not keeps_type else parsed


def _build(kind: type[Any], given: Any, prefix: str, where: str, problems: list[str]) -> Any:
    """A config from plain values; `None` where something is wrong."""
    if not isinstance(given, Mapping):
        name = prefix.removesuffix(".")
        problems.append(f"{where}: {name} is {_found(given)}; expected keys and values.")
        return None
    hints, before = _hints(kind), len(problems)
    for key in given:
        if key not in hints:
            said = nearest(str(key), hints)
            problems.append(f"unknown key {prefix + str(key)!r} in {where}. {said}")
    missing = [
        f.name
        for f in fields(kind)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in given
    ]
    problems += [f"{prefix + name!r} is not given in {where}: {hints[name][1]}" for name in missing]
    values = {
        name: _convert(hint, given[name], prefix + name, where, problems)
        for name, (hint, _) in hints.items()
        if name in given
    }
    return None if len(problems) > before else kind(**values)


_WRONG: Final = object()


def _convert(hint: Any, value: Any, name: str, where: str, problems: list[str]) -> Any:
    section = _section(hint)
    if section is not None and isinstance(value, Mapping):
        return _build(section, value, f"{name}.", where, problems)
    found = _fit(hint, value)
    if found is _WRONG:
        problems.append(f"{where}: {name} is {_found(value)}; expected {_words(hint)}.")
        return None
    return found


def _fit(hint: Any, value: Any) -> Any:  # noqa: PLR0911 - one line a type
    """The value as that type, or `_WRONG`."""
    if hint is Any:
        return value
    if _members(hint):
        fits = [fit for m in _members(hint) if (fit := _fit(m, value)) is not _WRONG]
        same = [fit for fit in fits if type(fit) is type(value)]
        return (same or fits or [_WRONG])[0]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value if any(value == a and type(value) is type(a) for a in args) else _WRONG
    if origin is tuple:
        return _fit_each(args, value)
    if origin in (dict, Mapping):
        return _fit_mapping(args[1], value)
    if hint is float:
        return _number(value)
    if hint is Path:
        return Path(value) if isinstance(value, str | Path) else _WRONG
    if isinstance(value, bool) and hint is not bool:
        return _WRONG
    return value if isinstance(value, hint) else _WRONG


def _fit_each(hints: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _WRONG
    wanted = [hints[0]] * len(value) if hints[-1] is Ellipsis else list(hints)
    if len(wanted) != len(value):
        return _WRONG
    items = tuple(_fit(hint, item) for hint, item in zip(wanted, value, strict=True))
    return _WRONG if any(item is _WRONG for item in items) else items


def _fit_mapping(hint: Any, value: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return _WRONG
    items = {key: _fit(hint, item) for key, item in value.items()}
    return _WRONG if any(item is _WRONG for item in items.values()) else items


def _number(value: Any) -> Any:
    """YAML 1.1 reads `3e-4`, without a point, as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _WRONG
    try:
        number = float(value)
    except ValueError:
        return _WRONG
    return number if math.isfinite(number) else _WRONG


def _hints(kind: type[Any]) -> dict[str, tuple[Any, str]]:
    """Type and words of each field."""
    found = {}
    annotated = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        metadata = getattr(annotated[field.name], "__metadata__", ())
        words = [m for m in metadata if isinstance(m, str)]
        hint = get_args(annotated[field.name])[0] if metadata else annotated[field.name]
        found[field.name] = (hint, " ".join(words))
    return found


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else ()


def _section(hint: Any) -> type[Any] | None:
    """The config that a type is, or may be."""
    for member in (hint, *_members(hint)):
        if isinstance(member, type) and is_dataclass(member):
            return member
    return None


def _words(hint: Any) -> str:
    """What a type accepts, in words."""
    if _members(hint):
        return " or ".join(_words(member) for member in _members(hint))
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, args[:-1])), str(args[-1]))))
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"list of {count}{_words(args[0])}"
    if origin in (dict, Mapping):
        return f"keys with {_words(args[1])}"
    if _section(hint) is not None:
        return "section"
    return _WORDS.get(hint, str(hint))


def _found(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a section"
    kind = next((w for t, w in _WORDS.items() if t is type(value)), type(value).__name__)
    kind = "true or false" if isinstance(value, bool) else kind
    return f"{value!r} ({kind})" if value is not None else "null"


def _default(field: Any) -> Any:
    return field.default if field.default is not MISSING else field.default_factory()


def _inline(value: Any) -> str:
    """A value as YAML in one line."""
    if is_dataclass(value):
        return "see below"
    text: str = yaml.safe_dump(plain(value), default_flow_style=True, width=math.inf)
    return text.removesuffix("\n...\n").strip()


def _lines(config: Any, indent: str) -> list[str]:
    lines: list[str] = []
    hints = _hints(type(config))
    for field in fields(config):
        hint, doc = hints[field.name]
        value = getattr(config, field.name)
        comment = f"{doc} ({_words(hint)})" if doc else _words(hint)
        lines += textwrap.wrap(
            comment, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        if is_dataclass(value):
            lines += [f"{indent}{field.name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{field.name}: {_inline(value)}")
    return lines
