"""Bytes of several patches in few requests: spans that lie side by side are read as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepsentinel.store import Store

Span = tuple[str, int, int]
"""File, start and size."""


@dataclass(frozen=True)
class FetchedPatch:
    """One patch as it came from the store, still encoded."""

    number: int
    data: Mapping[str, bytes | None]
    """Bytes by array; `None` where the patch has no such array."""


def fetch_spans(store: Store, spans: Sequence[Span | None]) -> list[bytes | None]:
    """The bytes of each span, in the order given; `None` for `None`.

    Spans that touch in a file are one request, and no byte outside of a span is read.

    Raises:
        StoreError: a span cannot be read in full.

    Example:
        >>> import tempfile
        >>> from deepsentinel.store import LocalStore
        >>> store = LocalStore(tempfile.mkdtemp())
        >>> store.write("a", b"0123456789")
        >>> fetch_spans(store, [("a", 4, 2), None, ("a", 2, 2)])
        [b'45', None, b'23']
    """
    found: list[bytes | None] = [None] * len(spans)
    for places in _touching(spans):
        parts = [span for place in places if (span := spans[place]) is not None]
        path, start, _ = parts[0]
        data = store.read_range(path, start, sum(size for _, _, size in parts))
        if len(parts) == 1:
            found[places[0]] = data
            continue
        for place, (_, first, size) in zip(places, parts, strict=True):
            found[place] = data[first - start : first - start + size]
    return found


def _touching(spans: Sequence[Span | None]) -> list[list[int]]:
    """Places of spans in groups that are without a gap, in the order of their bytes."""
    known = sorted((span, place) for place, span in enumerate(spans) if span is not None)
    groups: list[list[int]] = []
    end: tuple[str, int] | None = None
    for (path, start, size), place in known:
        if (path, start) == end:
            groups[-1].append(place)
        else:
            groups.append([place])
        end = (path, start + size)
    return groups
