"""Reading ahead: bytes of the patches of a plan, fetched by threads before their turn comes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from deepsentinel.corpus.fetch import FetchedPatch

RUN_BYTES = 4 * 2**20
"""Size that a request grows to: from here on 20 ms of latency are less than the transfer."""
RUN_PATCHES = 16
"""Most patches of one request, so that reading ahead means several requests at once."""
THREADS = 16
"""Requests in flight; a Python client gains nothing from more."""
LOCAL_THREADS = 2
"""Reads of local files in flight: they wait for no answer, and each thread keeps freed memory."""

Fetch = Callable[[Sequence[int]], list[FetchedPatch]]
Run = tuple[int, ...]
"""Steps of a plan whose patches are fetched together."""


def plan_runs(
    plan: NDArray[np.int64], shards: NDArray[np.int64], sizes: NDArray[np.int64]
) -> list[Run]:
    """Steps of a plan in runs of neighbouring patches, the run that is needed first in front.

    Args:
        plan: number of the patch at each step.
        shards: its shard.
        sizes: its bytes.

    Example:
        >>> small = np.ones(5, dtype=np.int64)
        >>> plan_runs(np.array([7, 0, 8, 1, 2]), np.array([1, 0, 1, 0, 0]), small)
        [(0, 2), (1, 3, 4)]
    """
    runs: list[list[int]] = []
    end: tuple[int, int] | None = None
    total = 0
    by_number = np.argsort(plan, kind="stable")
    columns = (column[by_number].tolist() for column in (plan, shards, sizes))
    for step, number, shard, size in zip(by_number.tolist(), *columns, strict=True):
        total += size
        if end == (number, shard) and total <= RUN_BYTES and len(runs[-1]) < RUN_PATCHES:
            runs[-1].append(step)
        else:
            runs.append([step])
            total = size
        end = (number + 1, shard)
    return sorted((tuple(run) for run in runs), key=min)


def prefetched(
    fetch: Fetch,
    plan: NDArray[np.int64],
    runs: Sequence[Run],
    *,
    ahead: int,
    threads: int = THREADS,
) -> Iterator[FetchedPatch]:
    """The patches of a plan in its order, fetched in runs up to `ahead` steps before their turn.

    Threads live as long as the iterator does. An error of a fetch is raised when the turn of one
    of its patches comes.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="deepsentinel-prefetch")
    asked: deque[tuple[Run, Future[list[FetchedPatch]]]] = deque()
    here: dict[int, FetchedPatch] = {}
    following = iter(runs)
    run = next(following, None)
    try:
        for step in range(len(plan)):
            while run is not None and min(run) <= step + ahead:
                asked.append((run, pool.submit(fetch, [int(plan[k]) for k in run])))
                run = next(following, None)
            while step not in here:
                steps, patches = asked.popleft()
                here.update(zip(steps, patches.result(), strict=True))
            yield here.pop(step)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
