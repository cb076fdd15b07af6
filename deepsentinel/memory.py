"""Memory of batches, filled again once nobody looks at it any more.

Writing to fresh memory costs about as much as decompressing what goes into it, and most of all
where processes share it. So a process keeps the memory of its batches, in large pages where the
system has them, and a worker of a `DataLoader` keeps slots that other processes see. Memory is in
use until the storage of the tensor on it is freed, so that views and arrays keep it too. For a slot
that is counted in the slot itself: it is free when the worker holds no tensor on it and as many
tensors came back as were sent. A process that forks while it holds some may pass them to its child
unseen: such slots are given up for good.
"""

import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

SLOTS = 32
"""Tensors of batches that one worker keeps memory for; those beyond get memory of their own. With two
sensors and a mask, and two batches ahead as torch has it, about fifteen are on their way."""
SMALLEST = 2**18
"""Bytes from which a slot is worth its while."""
KEPT = 2**28
"""Bytes that a process keeps for its next batches while they are not in use."""
_HEADER = mmap.PAGESIZE
_SENT, _RETURNED, _GIVEN_UP = range(3)


def batch_memory(shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor for a batch on the CPU; a worker of a `DataLoader` hands it on uncopied.

    Args:
        shape: its shape.
        dtype: its type.

    Example:
        >>> batch_memory((2, 3)).shape
        torch.Size([2, 3])
    """
    size = prod(shape) * dtype.itemsize
    if get_worker_info() is None:
        if size >= SMALLEST:
            return _tensor(_Buffer(size), tuple(shape), dtype)
        return torch.empty(tuple(shape), dtype=dtype)
    slot = _slots.take(size) if size >= SMALLEST else None
    if slot is not None:
        return _tensor(slot, tuple(shape), dtype).as_subclass(_SlotTensor)
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]  # noqa: SLF001
    shared = torch.empty(0, dtype=torch.uint8).set_(storage)  # as torch's default_collate does
    return shared.view(dtype).view(tuple(shape))


class _Memory(Protocol):
    """Bytes that one tensor lies on."""

    data: NDArray[np.uint8]

    def release(self) -> None:
        """The tensor is gone."""

    def give_up(self) -> None:
        """Let nobody fill this memory again."""


class _Buffer:
    """Memory of this process, kept for the next of about its size."""

    kept: ClassVar[deque[NDArray[np.uint8]]] = deque()

    def __init__(self, size: int) -> None:
        self.data = self._known(size)

    def _known(self, size: int) -> NDArray[np.uint8]:
        for _ in range(len(self.kept)):
            try:
                data = self.kept.popleft()
            except IndexError:  # another thread took it
                break
            if size <= len(data) <= 2 * size:
                return data
            self.kept.append(data)
        return np.empty(size, np.uint8)  # NumPy asks for large pages

    def release(self) -> None:
        """The tensor is gone: keep its memory, and no more than `KEPT` in all."""
        self.kept.appendleft(self.data)
        with suppress(IndexError):  # another thread drops some too
            while sum(map(len, list(self.kept))) > KEPT:
                self.kept.pop()

    def give_up(self) -> None:
        """A child that is forked has a copy."""


class _Mapping:
    """Shared memory behind a page of counts."""

    def __init__(self, handle: int, capacity: int) -> None:
        self.capacity = capacity
        memory = mmap.mmap(handle, _HEADER + capacity)
        self.counts = np.frombuffer(memory, np.uint64, 3)
        self.data = np.frombuffer(memory, np.uint8, capacity, _HEADER)

    def give_up(self) -> None:
        """Let nobody fill it again: a child that is forked may look at it."""
        self.counts[_GIVEN_UP] = 1

    def release(self) -> None:
        """A tensor that lay here is gone."""
        self.counts[_RETURNED] += 1


class _Slot(_Mapping):
    """Memory of a worker for one tensor at a time."""

    def __init__(self, capacity: int) -> None:
        self.handle = os.memfd_create("deepsentinel-batch", os.MFD_CLOEXEC)
        os.ftruncate(self.handle, _HEADER + capacity)
        super().__init__(self.handle, capacity)
        self.held = False

    def __del__(self) -> None:
        os.close(self.handle)

    @property
    def free(self) -> bool:
        return not self.held and bool(self.counts[_SENT] == self.counts[_RETURNED])

    @property
    def given_up(self) -> bool:
        return bool(self.counts[_GIVEN_UP])

    def release(self) -> None:
        """The tensor that lay here is gone, or was sent and now lies elsewhere."""
        self.held = False


class _Lease:
    """The bytes of a memory, for as long as an array, and with it a storage, lies on them."""

    def __init__(self, memory: _Memory, size: int) -> None:
        self.memory = memory
        self.__array_interface__ = memory.data[:size].__array_interface__
        _leases.add(self)

    def __del__(self) -> None:
        self.memory.release()  # by a forked child too, but what it copied was given up


class _Slots:
    """The slots of a worker."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Have none; those of a parent are the parent's."""
        self.slots: list[_Slot] = []
        self.lock = threading.Lock()

    def take(self, size: int) -> _Slot | None:
        """A slot for so many bytes, held from now on; `None` where all are in use."""
        if not hasattr(os, "memfd_create"):  # not on every system
            return None
        with self.lock:
            self.slots = [slot for slot in self.slots if not slot.given_up]
            free = [slot for slot in self.slots if slot.free]
            slot = next((s for s in free if size <= s.capacity <= 2 * size), None)
            if slot is None:
                if len(self.slots) >= SLOTS and not free:
                    return None
                if len(self.slots) >= SLOTS:
                    self.slots.remove(free[0])
                slot = _Slot(size)
                self.slots.append(slot)
            slot.held = True
            return slot

    def at(self, tensor: Tensor) -> _Slot | None:
        """The slot that a tensor fills from its beginning."""
        known = (s for s in self.slots if s.data.ctypes.data == tensor.data_ptr())
        return next(known, None) if tensor.is_contiguous() else None


class _SlotTensor(Tensor):
    """A tensor in a slot: for another process, its memory is sent and not its bytes.

    Whatever is derived from it is an ordinary tensor, which torch copies to be sent.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A copy lies elsewhere."""
        copied = memo[id(self)] = self.as_subclass(Tensor).clone()
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as an ordinary tensor, so that a file does not name this class."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def _tensor(memory: _Memory, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    data: NDArray[np.uint8] = np.asarray(_Lease(memory, prod(shape) * dtype.itemsize))
    return torch.from_numpy(data).view(dtype).view(shape)


def _send(tensor: _SlotTensor) -> tuple[Any, ...]:
    from multiprocessing.reduction import DupFd  # not on every system

    slot = _slots.at(tensor)
    if slot is None:  # its storage was changed by whoever had it in between
        reduced: tuple[Any, ...] = reduce_tensor(tensor.as_subclass(Tensor))  # type: ignore[no-untyped-call]
        return reduced
    slot.counts[_SENT] += 1
    return _receive, (DupFd(slot.handle), slot.capacity, tuple(tensor.shape), tensor.dtype)


def _receive(handle: Any, capacity: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    number = handle.detach()
    try:
        mapping = _Mapping(number, capacity)
    finally:
        os.close(number)
    return _tensor(mapping, shape, dtype)


def _before_fork() -> None:
    for lease in list(_leases):
        lease.memory.give_up()


_leases: WeakSet[_Lease] = WeakSet()
_slots = _Slots()
ForkingPickler.register(_SlotTensor, _send)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_slots.begin)
