"""Bytes of several patches in few requests: spans that lie side by side are read as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepsentinel.store import Span, Store

Stored = bytes | memoryview
"""Bytes as they are stored; a view where several patches came in one request."""


@dataclass(frozen=True)
class FetchedPatch:
    """One patch as it came from the store, still encoded."""

    number: int
    data: Mapping[str, Stored | None]
    """Bytes by array; `None` where the patch has no such array."""


def fetch_spans(
    store: Store, spans: Sequence[Span | None], *, fresh: bool = False
) -> list[Stored | None]:
    """The bytes of each span, in the order given; `None` for `None`.

    Spans that touch in a file are one request, no byte outside of a span is read, and all requests
    are made together; `fresh` passes over what a cache holds.

    Raises:
        StoreError: a span cannot be read in full.

    Example:
        >>> import tempfile
        >>> from deepsentinel.store import LocalStore
        >>> store = LocalStore(tempfile.mkdtemp())
        >>> store.write("a", b"0123456789")
        >>> one, none, other = fetch_spans(store, [("a", 4, 2), None, ("a", 2, 2)])
        >>> bytes(one), none, bytes(other)
        (b'45', None, b'23')
    """
    known = {place: span for place, span in enumerate(spans) if span is not None}
    groups = _touching(known)
    wholes = [(*known[group[0]][:2], sum(known[place][2] for place in group)) for group in groups]
    found: list[Stored | None] = [None] * len(spans)
    for group, data in zip(groups, store.read_spans(wholes, fresh=fresh), strict=True):
        first = known[group[0]][1]
        view = data if len(group) == 1 else memoryview(data)
        for place in group:
            _, start, size = known[place]
            found[place] = view[start - first : start - first + size]
    return found


def _touching(known: Mapping[int, Span]) -> list[list[int]]:
    """Places of spans in groups that are without a gap, in the order of their bytes."""
    groups: list[list[int]] = []
    end: tuple[str, int] | None = None
    for place, (path, start, size) in sorted(known.items(), key=lambda item: item[1]):
        if (path, start) == end:
            groups[-1].append(place)
        else:
            groups.append([place])
        end = (path, start + size)
    return groups
