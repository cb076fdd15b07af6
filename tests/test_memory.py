"""Memory of batches: whatever a process still holds stays as it was, and what it let go of is used again."""

import copy
import gc
import io
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from deepsentinel import memory
from deepsentinel.memory import KEPT, SLOTS, SMALLEST, batch_memory

NUMBERS = SMALLEST // 4
"""float32 values of the smallest slot."""
needs_memfd = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no memory files without a name"
)


class Numbers(Dataset[int]):
    """0, 1, 2, ... to be written all over a batch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def filled(samples: list[int], *, numbers: int = NUMBERS) -> dict[str, Any]:
    """A batch full of its first number, and which memory of the worker it lies in."""
    image = batch_memory((numbers,))
    image.fill_(samples[0])
    slot = memory._slots.at(image)
    place = -1 if slot is None else os.fstat(slot.handle).st_ino
    return {"image": image, "number": samples[0], "place": place}


def loader(
    count: int, collate: Callable[[list[int]], Any] = filled, *, workers: int = 1, **options: Any
) -> DataLoader[Any]:
    return DataLoader(
        Numbers(count), batch_size=1, num_workers=workers, collate_fn=collate, **options
    )


def intact(tensor: Tensor, number: int) -> bool:
    return bool((tensor == number).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_memory_within_a_process(dtype: torch.dtype) -> None:
    got = batch_memory((3, 2, 5), dtype=dtype)
    assert (got.shape, got.dtype, got.is_contiguous()) == ((3, 2, 5), dtype, True)
    assert type(got) is Tensor
    got.copy_(torch.arange(30).reshape(3, 2, 5))
    assert np.array_equal(got.numpy().ravel(), np.arange(30))


def test_memory_of_this_process_is_used_again_when_nobody_looks_at_it() -> None:
    memory._Buffer.kept.clear()
    draw = random.Random(3)
    held: list[tuple[Any, int]] = []
    places = set()
    for number in range(300):
        image = batch_memory((NUMBERS + 8 * draw.randrange(9),))
        image.fill_(number)
        places.add(image.data_ptr())
        held.append((draw.choice([image, image[4:90], image.numpy()[::7]]), number))
        del image
        while len(held) > draw.randrange(1, 12):
            del held[draw.randrange(len(held))]
        assert all(bool((kept == wanted).all()) for kept, wanted in held)
    assert len(places) < 40


def test_memory_of_this_process_is_kept_up_to_a_bound() -> None:
    memory._Buffer.kept.clear()
    big = [batch_memory((KEPT // 8,)) for _ in range(4)]
    assert not memory._Buffer.kept
    del big
    assert sum(map(len, memory._Buffer.kept)) <= KEPT
    assert len(memory._Buffer.kept) == 2
    _ = batch_memory((KEPT,))
    del _
    assert sum(map(len, memory._Buffer.kept)) <= KEPT
    memory._Buffer.kept.clear()


@needs_memfd
def test_memory_is_used_again_and_bounded() -> None:
    places = []
    for batch in loader(100):
        assert type(batch["image"]) is Tensor
        assert intact(batch["image"], batch["number"])
        places.append(batch["place"])
        del batch
    assert -1 not in places
    assert len(set(places)) <= 6  # one here, two ahead, one at work


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_batches_that_are_all_kept(context: str) -> None:
    batches = list(loader(2 * SLOTS, multiprocessing_context=context))
    assert all(intact(b["image"], b["number"]) for b in batches)
    slots = [b["place"] for b in batches if b["place"] != -1]
    assert len(slots) == len(set(slots)) <= SLOTS


def test_whatever_is_held_stays_as_it_was() -> None:
    """Tensors, views, arrays and slices, kept for a random while."""
    draw = random.Random(5)
    held: list[tuple[Any, int]] = []
    ways = (
        lambda t: t,
        lambda t: t[7:90],
        lambda t: t.view(-1, 16).t()[3],
        lambda t: t.numpy(),
        lambda t: t.numpy()[::5],
        lambda t: t.detach().view(torch.int32),
    )
    for batch in loader(300, workers=2):
        kept = draw.choice(ways)(batch["image"])
        number = np.float32(batch["number"])
        wanted = number.view(np.int32) if getattr(kept, "dtype", None) is torch.int32 else number
        held.append((kept, wanted))
        del batch, kept
        while len(held) > draw.randrange(1, 24):
            del held[draw.randrange(len(held))]
        assert all(bool((kept == wanted).all()) for kept, wanted in held)


def beside(samples: list[int]) -> dict[str, Any]:
    batch = filled(samples)
    image = batch["image"]
    return batch | {"view": image[5:50], "same": image, "twice": 2 * image, "copy": image.clone()}


def view_first(samples: list[int]) -> dict[str, Any]:
    image = batch_memory((NUMBERS,))
    image.fill_(samples[0])
    return {"view": image[5:50], "image": image, "number": samples[0]}


@pytest.mark.parametrize("collate", [beside, view_first])
def test_views_made_by_the_worker_are_their_own(collate: Callable[[list[int]], Any]) -> None:
    views = []
    for batch in loader(60, collate):
        views.append((batch["view"], batch["number"]))
        assert intact(batch["image"], batch["number"])
        if "twice" in batch:
            assert intact(batch["twice"], 2 * batch["number"])
        del batch
        assert all(intact(view, number) for view, number in views)


def changed(samples: list[int]) -> dict[str, Any]:
    image = batch_memory((NUMBERS // 256, 256))
    image.fill_(samples[0])
    image[0] = -1
    return {"image": image.t_(), "deep": copy.deepcopy(image), "number": samples[0]}


def test_a_tensor_that_was_turned_in_place() -> None:
    for batch in loader(20, changed):
        for key in ("image", "deep"):
            assert intact(batch[key][:, 0], -1)
            assert intact(batch[key][:, 1:], batch["number"])


_cached: list[Tensor] = []


def remembering(samples: list[int]) -> dict[str, Any]:
    batch = filled(samples)
    if not _cached:
        _cached.append(batch["image"])
    return batch | {"cached": float(_cached[0].sum()) / NUMBERS, "first": _cached[0][:3].clone()}


def test_what_the_worker_keeps_stays_too() -> None:
    for batch in loader(40, remembering):
        assert (batch["cached"], batch["first"].tolist()) == (0, [0, 0, 0])


def saved(samples: list[int]) -> bytes:
    file = io.BytesIO()
    torch.save(filled(samples)["image"], file)
    return file.getvalue()


def test_a_worker_may_save_it() -> None:
    for number, data in enumerate(loader(10, saved)):
        loaded = torch.load(io.BytesIO(data), weights_only=True)
        assert type(loaded) is Tensor
        assert intact(loaded, number)


def told(child: Any, answer: Any) -> Any:
    """What a child said before it ended."""
    child.join()
    return answer.get_nowait()


def _look(tensor: Tensor, number: int, go: Any, answer: Any) -> None:
    go.wait()
    answer.put(intact(tensor, number))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_sees_what_was_there_when_it_began() -> None:
    context = multiprocessing.get_context("fork")
    go, answer = context.Event(), context.Queue()
    batches = iter(loader(60))
    batch = next(batches)
    child = context.Process(target=_look, args=(batch["image"], batch["number"], go, answer))
    child.start()
    del batch
    for other in batches:  # would fill the memory again many times
        assert intact(other["image"], other["number"])
    go.set()
    assert told(child, answer)


def _drop(held: list[Tensor], answer: Any) -> None:
    held.clear()
    gc.collect()
    answer.put("dropped")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_forked_child_drops_is_still_held_here() -> None:
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    batches = iter(loader(60))
    held = [next(batches)["image"] for _ in range(2)]
    child = context.Process(target=_drop, args=(held, answer))
    child.start()
    assert told(child, answer) == "dropped"
    for other in batches:
        assert intact(other["image"], other["number"])
    assert intact(held[0], 0)
    assert intact(held[1], 1)


def _relay(queue: Any, answer: Any) -> None:
    tensor = queue.get()
    answer.put(intact(tensor, 0))


def test_it_may_be_passed_on() -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue, answer = context.Queue(), context.Queue()
    child = context.Process(target=_relay, args=(queue, answer))
    child.start()
    batches = iter(loader(30))
    queue.put(next(batches)["image"])
    for other in batches:
        assert intact(other["image"], other["number"])
    assert told(child, answer)


def of_any_size(samples: list[int]) -> dict[str, Any]:
    return filled(samples, numbers=NUMBERS * (1 + samples[0] % 7) + samples[0])


def test_batches_of_many_sizes() -> None:
    for batch in loader(80, of_any_size):
        assert batch["image"].numel() == NUMBERS * (1 + batch["number"] % 7) + batch["number"]
        assert intact(batch["image"], batch["number"])


def of_few(samples: list[int]) -> dict[str, Any]:
    return filled(samples, numbers=100)


def test_small_tensors_go_as_they_always_did() -> None:
    for batch in loader(5, of_few):
        assert batch["image"].is_shared()
        assert batch["place"] == -1


class Failing(IterableDataset[int]):
    """Ends with an error."""

    def __iter__(self) -> Iterator[int]:
        yield 0
        raise RuntimeError("no more")


def test_a_batch_outlives_its_worker() -> None:
    failing = iter(DataLoader(Failing(), batch_size=1, num_workers=1, collate_fn=filled))
    batch = next(failing)
    with pytest.raises(RuntimeError, match="no more"):
        next(failing)
    del failing
    gc.collect()
    assert intact(batch["image"], 0)
    batch["image"].add_(1)
    assert intact(batch["image"], 1)
