"""The order of an epoch, as a plan: which patch comes when, before a byte is read.

Everything here follows from seed, epoch and place alone, so that a resumed run finds the plan that
it left, and ranks and workers agree on who reads what without talking to each other.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Remainder = Literal["keep", "drop", "pad"]
REMAINDERS: tuple[Remainder, ...] = ("keep", "drop", "pad")
Numbers = NDArray[np.int64]


def shuffled_shards(shards: Numbers, generator: np.random.Generator) -> Numbers:
    """Places of patches in an order that keeps each shard together and shuffles the shards.

    Args:
        shards: the shard of each patch.
        generator: decides the order of the shards.

    Example:
        >>> shuffled_shards(np.array([0, 0, 1, 2, 2]), np.random.default_rng(0)).tolist()
        [2, 3, 4, 0, 1]
    """
    names, shard = np.unique(shards, return_inverse=True)
    return np.argsort(generator.permutation(len(names))[shard], kind="stable")


def share_size(count: int, part: int, parts: int, remainder: Remainder = "keep") -> int:
    """How many of `count` things one of `parts` gets; see `share`."""
    return len(share(np.arange(count), part, parts, remainder))


def share(order: Numbers, part: int, parts: int, remainder: Remainder = "keep") -> Numbers:
    """One of `parts` pieces of an order, side by side; they differ by one in length at most.

    Args:
        order: what is shared.
        part: which piece, from 0.
        parts: how many pieces.
        remainder: what happens where the length does not divide: `"keep"` gives some pieces one
            more, `"drop"` leaves the last ones out, `"pad"` repeats the first ones at the end.

    Example:
        >>> [share(np.arange(5), k, 2).tolist() for k in range(2)]
        [[0, 1], [2, 3, 4]]
        >>> [share(np.arange(5), k, 2, "pad").tolist() for k in range(2)]
        [[0, 1, 2], [3, 4, 0]]
    """
    count = len(order)
    if remainder == "keep":
        return order[count * part // parts : count * (part + 1) // parts]
    if remainder == "drop":
        each = count // parts
        return order[each * part : each * (part + 1)]
    each = -(-count // parts)
    return order[np.arange(each * part, each * (part + 1)) % max(count, 1)]


def through_buffer(count: int, buffer: int, generator: np.random.Generator) -> Numbers:
    """The order in which `count` things leave a shuffle buffer that they enter one by one.

    At every step one of those in the buffer leaves, each as likely, and the next one takes its
    place: what leaves at step k is one of the first k + `buffer`.

    Example:
        >>> through_buffer(4, 1, np.random.default_rng(0)).tolist()
        [0, 1, 2, 3]
        >>> sorted(through_buffer(6, 3, np.random.default_rng(0)).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    held = list(range(min(buffer, count)))
    left = np.empty(count, dtype=np.int64)
    for step, draw in enumerate(generator.random(count).tolist()):
        slot = int(draw * len(held))
        left[step] = held[slot]
        following = step + buffer
        if following < count:
            held[slot] = following
        else:
            held[slot] = held[-1]
            held.pop()
    return left
