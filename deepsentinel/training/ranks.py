"""Several processes that train one model: who is who, and how they agree.

Processes are started from outside, one a GPU or a share of the cores, as by `torchrun
--nproc-per-node 4`; they find each other by the variables that it sets. With one process
everything here does nothing.
"""

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from deepsentinel.errors import DeepSentinelError, TrainingError

T = TypeVar("T")
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join(accelerator: str) -> None:
    """Find the other processes, if this one was started with others and has not found them yet.

    Args:
        accelerator: `"cpu"` talks through gloo alone; else NCCL where there are GPUs.

    Raises:
        TrainingError: it was started with others, but not told enough to find them.
    """
    if distributed.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise TrainingError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that several processes train together, but "
            f"{' '.join(missing)} are not set. Start them with torchrun, or unset WORLD_SIZE."
        )
    cuda = accelerator != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world_size() -> int:
    """How many processes train together.

    Example:
        >>> world_size(), rank()
        (1, 0)
    """
    return int(distributed.get_world_size()) if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; 0 writes files and talks to the user."""
    return int(distributed.get_rank()) if distributed.is_initialized() else 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns or raises in process 0, in all of them.

    Raises:
        DeepSentinelError: raised by `make`.

    Example:
        >>> from_first(lambda: 3)
        3
    """
    if world_size() == 1:
        return make()
    told: list[tuple[T | None, DeepSentinelError | None]] = [(None, None)]
    if rank() == 0:
        try:
            told = [(make(), None)]
        except DeepSentinelError as error:
            told = [(None, error)]
    distributed.broadcast_object_list(told, src=0)
    value, problem = told[0]
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]  # None is a T too


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def like_first(module: nn.Module) -> None:
    """Give the buffers of a module, such as running statistics, the values of process 0."""
    if world_size() > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def together() -> dict[str, Any]:
    """Arguments of Lightning's `Trainer` for the processes there are."""
    if world_size() == 1:
        return {"devices": 1}
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    return {
        "devices": here,
        "num_nodes": world_size() // here,
        "plugins": [TorchElasticEnvironment()],
        # A head may use some of the encoder only, and a frozen encoder learns later.
        "strategy": DDPStrategy(find_unused_parameters=True),
    }
