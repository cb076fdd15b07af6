"""Folders of source files, one module a kind: which patches they hold and how to read one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from deepsentinel.corpus.catalogue import named
from deepsentinel.corpus.sources.base import Source, SourceOptions
from deepsentinel.corpus.sources.bigearthnet import BigEarthNet
from deepsentinel.corpus.sources.bigearthnet_npz import BigEarthNetNpz
from deepsentinel.corpus.sources.deepsentinel import DeepSentinelLayout
from deepsentinel.corpus.sources.majortom import MajorTom
from deepsentinel.corpus.sources.otbtf import Otbtf
from deepsentinel.corpus.sources.ssl4eo import Ssl4eo
from deepsentinel.corpus.sources.terramesh import TerraMesh
from deepsentinel.corpus.sources.worldcereal import WorldCereal
from deepsentinel.errors import SourceError, UnknownNameError, nearest
from deepsentinel.store import LocalStore, open_store
from deepsentinel.store.path import StorePath

_KINDS: tuple[type[Source], ...] = (
    TerraMesh,
    BigEarthNet,
    BigEarthNetNpz,
    Ssl4eo,
    DeepSentinelLayout,
    WorldCereal,
    Otbtf,
    MajorTom,
)
SOURCES: dict[str, type[Source]] = {kind.KIND: kind for kind in _KINDS}
"""Every kind of source by its name, in the order in which a folder is tried."""


def detect_kind(path: Path) -> str:
    """Which kind of source a folder is.

    Raises:
        SourceError: it does not exist, or looks like none or several of the kinds; each kind and
            what it looks for are listed.
    """
    if not path.exists():
        raise SourceError(f"there is no source at {path}.")
    kinds = [name for name, source in SOURCES.items() if source.detect(path)]
    if len(kinds) == 1:
        return kinds[0]
    listed = "\n".join(f"  {name}: {source.LOOKS_FOR}" for name, source in SOURCES.items())
    found = f"looks like {' and '.join(kinds)}" if kinds else "looks like no kind of source"
    raise SourceError(f"{path} {found}. Name it with kind=... (--kind):\n{listed}")


def source_path(
    root: str | Path,
    *,
    requester_pays: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """The folder of a source: a path, or a folder of a bucket that reads like one.

    Args:
        root: a path, a URL, or a name of the catalogue.
        requester_pays: who pays where a bucket asks that of its readers.
        storage_options: arguments of the storage client.

    Raises:
        StoreError: an argument that this place cannot serve.
    """
    place = named(root)
    store = open_store(place, requester_pays=requester_pays, storage_options=storage_options)
    if isinstance(store, LocalStore):
        return store.root if "://" in str(root) else Path(place)
    return cast("Path", StorePath(store))  # it has what the original layout's reader asks of one


def open_source(path: Path, *, kind: str | None, options: SourceOptions) -> Source:
    """The source at a path, of the given kind or the one detected.

    Raises:
        SourceError: nothing is there, or not what the kind looks for.
        UnknownNameError: no such kind.
    """
    if kind is not None and kind not in SOURCES:
        raise UnknownNameError(f"unknown kind of source {kind!r}. {nearest(kind, SOURCES)}")
    if _is_remote(path):
        kind = kind or DeepSentinelLayout.KIND
        if kind != DeepSentinelLayout.KIND:
            raise SourceError(
                f"{path} is not on this machine, and only kind={DeepSentinelLayout.KIND!r} is read "
                "from where it lies. Copy the folder here first, and convert the copy."
            )
    source = SOURCES[kind or detect_kind(path)]
    if not path.exists():
        raise SourceError(f"there is no source at {path}.")
    if not source.detect(path):
        raise SourceError(f"{path} is no {source.KIND} source: expected {source.LOOKS_FOR}.")
    return source(path, options)


def _is_remote(path: object) -> bool:
    return isinstance(path, StorePath)
