"""Processes that are started together, as torchrun starts them; for scripts that tests run."""

import os
import sys
import traceback
from collections.abc import Callable

from torch.distributed import TCPStore

PROCESSES = 2


def forked(run: Callable[[], object]) -> int:
    """Number of a child that runs this, and ends with 1 where it raises."""
    child = os.fork()
    if child:
        return child
    try:
        run()
    except BaseException:  # noqa: BLE001 - told to the test
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def status(child: int) -> int:
    """How it ended: 0 well, below 0 by which signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ranks(run: Callable[[int], object]) -> list[int]:
    """How two children ended that run this with their ranks, and find each other.

    The store in which they meet is kept by this process, as by torchrun. To choose a free port
    first and let rank 0 open it later is a race that is lost now and then where many test.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": "lo",  # not where the name of the machine may lead to
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
    }

    def one(rank: int) -> None:
        os.environ.update(meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        run(rank)

    return [status(child) for child in [forked(lambda r=r: one(r)) for r in range(PROCESSES)]]
