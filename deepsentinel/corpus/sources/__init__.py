"""Folders of source files, one module a kind: which patches they hold and how to read one."""

from pathlib import Path

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


def open_source(path: Path, *, kind: str | None, options: SourceOptions) -> Source:
    """The source at a path, of the given kind or the one detected.

    Raises:
        SourceError: nothing is there, or not what the kind looks for.
        UnknownNameError: no such kind.
    """
    if kind is not None and kind not in SOURCES:
        raise UnknownNameError(f"unknown kind of source {kind!r}. {nearest(kind, SOURCES)}")
    source = SOURCES[kind or detect_kind(path)]
    if not path.exists():
        raise SourceError(f"there is no source at {path}.")
    if not source.detect(path):
        raise SourceError(f"{path} is no {source.KIND} source: expected {source.LOOKS_FOR}.")
    return source(path, options)
