"""From the tags of an OpenStreetMap feature to its class: no geometry here.

Tags are looked for where the usual tools put them: as properties of their own (osm2pgsql columns,
osmtogeojson), or under `tags`, as an object, as a JSON string, or as an hstore string such as
`"power"=>"line"`, which is what the files of the original DeepSentinel hold.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from deepsentinel.errors import LabelError
from deepsentinel.labels.osm_table import ANY, OSM_CLASSES

_HSTORE_TEXT = r'"((?:[^"\\]|\\.)*)"'
_HSTORE_PAIR = re.compile(rf"{_HSTORE_TEXT}\s*=>\s*(?:{_HSTORE_TEXT}|NULL)")
_HIDDEN = {"underground", "underwater"}


def osm_tags(properties: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a feature from its GeoJSON properties; what is not text is left out.

    Raises:
        LabelError: `tags` is text that is neither JSON nor hstore, or of another type.

    Example:
        >>> osm_tags({"osm_id": 7, "landuse": "forest", "tags": '"leaf_type"=>"mixed"'})
        {'landuse': 'forest', 'leaf_type': 'mixed'}
    """
    nested = properties.get("tags")
    flat = {key: value for key, value in properties.items() if key != "tags"}
    merged = {**flat, **_nested_tags(nested)}
    return {str(key): value.strip() for key, value in merged.items() if isinstance(value, str)}


def osm_class(tags: Mapping[str, str]) -> int | None:
    """Id of the class that tags belong to in the scheme `osm`; `None` if to none.

    The first class in the order of precedence wins. Features in tunnels, underground or under
    water belong to none, for a satellite does not see them.

    Example:
        >>> from deepsentinel.labels import scheme
        >>> scheme("osm").names[osm_class({"building": "yes", "power": "substation"})]
        'energy'
        >>> osm_class({"highway": "primary", "tunnel": "yes"}) is None
        True
    """
    if tags.get("tunnel", "no") != "no" or tags.get("location") in _HIDDEN:
        return None
    for class_id, row in enumerate(OSM_CLASSES):
        if any(_matches(tags.get(key), values) for key, values in row.tags):
            return class_id
    return None


def _matches(value: str | None, wanted: tuple[str, ...]) -> bool:
    if not value:
        return False
    found = {part.strip().lower() for part in value.split(";")}  # key=a;b names two values
    return bool(found - {"no"}) if wanted == (ANY,) else not found.isdisjoint(wanted)


def _nested_tags(nested: object) -> Mapping[str, Any]:
    if isinstance(nested, Mapping):
        return nested
    if isinstance(nested, str):
        return _tags_from_text(nested.strip())
    if nested is None or nested != nested:  # noqa: PLR0124 - NaN, as GeoPandas fills columns
        return {}
    raise LabelError(
        f"the tags of an OpenStreetMap feature are of type {type(nested).__name__}: {nested!r}. "
        "They must be an object, or a string that holds JSON or hstore."
    )


def _tags_from_text(text: str) -> Mapping[str, Any]:
    if not text:
        return {}
    if text.startswith("{"):
        try:
            decoded = json.loads(text)
        except json.JSONDecodeError as error:
            raise _unreadable(text) from error
        if isinstance(decoded, dict):
            return decoded
    pairs = list(_HSTORE_PAIR.finditer(text))
    if not pairs:
        raise _unreadable(text)
    return {_unescape(p[1]): _unescape(p[2]) for p in pairs if p[2] is not None}


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _unreadable(text: str) -> LabelError:
    return LabelError(
        f"the tags of an OpenStreetMap feature are neither JSON nor hstore: {text[:80]!r}. "
        'Write them as {"power": "line"} or "power"=>"line".'
    )
