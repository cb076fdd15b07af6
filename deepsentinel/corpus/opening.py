"""Opening what a path, a URL or a name of the catalogue stands for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepsentinel.corpus.catalogue import named
from deepsentinel.corpus.format import INFO_PATH
from deepsentinel.corpus.protocol import PatchSource
from deepsentinel.corpus.read import Corpus
from deepsentinel.errors import CorpusNotFoundError, StoreError


def open_corpus(
    root: str | Path,
    *,
    checksum: bool = False,
    requester_pays: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
) -> PatchSource:
    """Open a corpus for reading, or a folder in the original DeepSentinel layout as it is.

    Arguments as for `Corpus`; `root` may also be a name of `deepsentinel.corpus.catalogue`.

    Returns:
        A `Corpus`; a `SourceCorpus`, which reads alike, where `root` is a folder of the layout.

    Raises:
        CorpusNotFoundError: there is neither.
        CorpusError: it has a format that this version cannot read.
        StoreError: it cannot be reached; or `cache_dir` for a folder of the layout.
    """
    place = named(root)
    if _may_be_layout(place):
        layout = _layout(place, requester_pays, storage_options, cache_dir)
        if layout is not None:
            return layout
    try:
        return Corpus(
            place,
            checksum=checksum,
            requester_pays=requester_pays,
            storage_options=storage_options,
            cache_dir=cache_dir,
        )
    except CorpusNotFoundError:
        is_url = "://" in str(place)
        layout = _layout(place, requester_pays, storage_options, cache_dir) if is_url else None
        if layout is None:
            raise
        return layout


def _layout(
    root: str | Path,
    requester_pays: bool | str | None,  # noqa: FBT001 - the two ways in which buckets bill
    storage_options: Mapping[str, Any] | None,
    cache_dir: str | Path | None,
) -> PatchSource | None:
    """The samples at a place, if it holds some in the original DeepSentinel layout.

    Raises:
        StoreError: a cache is asked for, which only a corpus can fill.
    """
    from deepsentinel.corpus.source_corpus import SourceCorpus
    from deepsentinel.corpus.sources import source_path
    from deepsentinel.corpus.sources.deepsentinel import DeepSentinelLayout

    path = source_path(root, requester_pays=requester_pays, storage_options=storage_options)
    if not DeepSentinelLayout.detect(path):
        return None
    if cache_dir is not None:
        raise StoreError(
            f"cache_dir={str(cache_dir)!r} cannot serve {root}, which is in the original DeepSentinel "
            "layout and has no checksums that a cache could be held to. Leave cache_dir out, or "
            "make a corpus of it first: `deepsentinel convert`."
        )
    return SourceCorpus(path, kind=DeepSentinelLayout.KIND)


def _may_be_layout(root: str | Path) -> bool:
    """Whether a local folder that is no corpus is there."""
    path = Path(root)
    return path.is_dir() and not (path / INFO_PATH).exists()
