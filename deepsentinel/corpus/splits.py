"""Train, validation and test by geographic block, so that neighbours never face each other.

Blocks are cells of one global sinusoidal grid (Snyder 1987, p. 243: equal area): rows of equal
height in latitude, cut into columns of equal length along the parallel at the row's centre. They
depend on longitude and latitude only, so that patches of any source, zone or projection that lie
together fall together. A patch without a position is a block of its own.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from deepsentinel.errors import SplitError

METRES_PER_DEGREE: Final = 111_194.93
"""Along a meridian of the sphere of radius 6371 km."""
DEFAULT_BLOCK_M: Final = 10_000.0
DEFAULT_SPLITS: Final[dict[str, float]] = {"train": 0.7, "val": 0.15, "test": 0.15}


def block_of(
    lon: float | None, lat: float | None, *, patch_id: str, block_m: float = DEFAULT_BLOCK_M
) -> str:
    """Name of the block that holds a position; the patch's own where no position is known.

    Example:
        >>> block_of(13.40, 52.52, patch_id="a") == block_of(13.41, 52.52, patch_id="b")
        True
        >>> block_of(None, None, patch_id="a")
        'patch a'
    """
    if lon is None or lat is None:
        return f"patch {patch_id}"
    row = math.floor(lat * METRES_PER_DEGREE / block_m)
    middle = math.radians((row + 0.5) * block_m / METRES_PER_DEGREE)
    column = math.floor(lon * METRES_PER_DEGREE * max(math.cos(middle), 1e-6) / block_m)
    return f"block {row} {column}"


def check_splits(splits: Mapping[str, float]) -> dict[str, float]:
    """The shares, made to sum to 1.

    Raises:
        SplitError: none is given, or one is negative, or all are 0.

    Example:
        >>> check_splits({"train": 3, "test": 1})
        {'train': 0.75, 'test': 0.25}
    """
    total = sum(splits.values())
    if not splits or total <= 0 or min(splits.values()) < 0:
        raise SplitError(
            f"splits={dict(splits)!r}: give each split a share of 0 or more, such as "
            f"{DEFAULT_SPLITS!r}."
        )
    return {name: share / total for name, share in splits.items()}


def assign_splits(
    blocks: Sequence[str],
    splits: Mapping[str, float],
    *,
    seed: int = 0,
    existing: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Split of each block: seeded, whole blocks, as near to the shares as blocks allow.

    Blocks are visited in an order that depends on the seed and their names alone; each goes to
    the split that lacks most patches. A split with a share gets a block as long as there are
    enough new ones.

    Args:
        blocks: the block of each patch; a block of n patches occurs n times.
        splits: share of each split.
        seed: another seed, another assignment.
        existing: blocks that already have a split keep it.

    Example:
        >>> split = assign_splits(["a", "a", "b", "c"], {"train": 0.5, "test": 0.5})
        >>> sorted(set(split.values())), len(split)
        (['test', 'train'], 3)
    """
    shares = {name: share for name, share in check_splits(splits).items() if share > 0}
    assigned = dict(existing or {})
    sizes = Counter(blocks)
    patches = Counter(dict.fromkeys(shares, 0))
    for block, split in assigned.items():
        patches[split] += sizes[block]
    new = sorted((b for b in sizes if b not in assigned), key=lambda b: _rank(seed, b))
    for block in new:
        done = sum(patches.values()) + sizes[block]
        split = max(shares, key=lambda s: (shares[s] * done - patches[s], shares[s]))
        assigned[block] = split
        patches[split] += sizes[block]
    _fill_empty(assigned, new, shares)
    return assigned


def _fill_empty(assigned: dict[str, str], new: Sequence[str], shares: Mapping[str, float]) -> None:
    """Give each split without a block the last new block of the split that has most."""
    for empty in shares:
        if empty in assigned.values():
            continue
        counts = Counter(assigned[b] for b in assigned)
        movable = [b for b in new if counts[assigned[b]] > 1]
        if movable:
            richest = max(counts[assigned[b]] for b in movable)
            assigned[[b for b in movable if counts[assigned[b]] == richest][-1]] = empty


def _rank(seed: int, block: str) -> bytes:
    return hashlib.sha256(f"{seed}:{block}".encode()).digest()
