"""`DeepSentinelStream`: every sample exactly once, whoever reads, however often it is interrupted."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from deepsentinel import DeepSentinelDataset, DeepSentinelStream, collate
from deepsentinel.corpus.fetch import FetchedPatch
from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.datasets.order import share, shuffled_shards, through_buffer
from deepsentinel.datasets.prefetch import RUN_BYTES, RUN_PATCHES, plan_runs, prefetched
from deepsentinel.datasets.stream import Place
from deepsentinel.datasets.transforms import Compose, RandomFlip
from deepsentinel.errors import (
    CheckpointError,
    CorruptCorpusError,
    SampleError,
    SplitError,
    UnknownNameError,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata 0.11
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # a machine of few cores
]
COUNT = 300  # 128 + 128 + 44: three shards
TRAIN = 260


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """300 patches of 16 px in three shards; each seventh or so is of another split."""
    folder = tmp_path_factory.mktemp("stream") / "corpus"
    info = CorpusInfo(
        name="numbers",
        sensors=("s1", "s2"),
        bands={"s1": ("VV", "VH"), "s2": ("B03", "B04")},
        patch_size=16,
        resolution_m=10,
    )
    rng = np.random.default_rng(0)
    held_out = set(rng.permutation(COUNT)[: COUNT - TRAIN].tolist())
    with CorpusWriter(folder, info) as writer:
        for k in range(COUNT):
            s1 = np.full((2, 16, 16), -k, np.int16)
            s2 = rng.integers(900, 1200, (2, 16, 16)).astype(np.uint16)
            split = "val" if k in held_out else "train"
            writer.add(PatchRecord(id=f"{k:04}", split=split), PatchPixels(s1=s1, s2=s2))
    return folder


def ids(samples):
    return [s["meta"].id for s in samples]


def batch_ids(batches):
    return [[m.id for m in batch["meta"]] for batch in batches]


def flat(lists):
    return list(chain.from_iterable(lists))


def copied(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


def equal(one, other):
    return list(one) == list(other) and all(
        torch.equal(v.nan_to_num(-99), other[k].nan_to_num(-99))
        if isinstance(v, torch.Tensor)
        else v == other[k]
        for k, v in one.items()
    )


# ------------------------------------------------------------------ samples


@pytest.mark.parametrize(
    "asked",
    [
        {"labels": ("cover",)},
        {"labels": ("things", "cloud", "dem"), "sensors": ("s1",), "drop": 1},
        {"labels": ("height",), "bands": ("B10", "VH", "B04")},
        {"labels": ("tags",), "clouds": "keep", "checksum": True},
    ],
)
def test_samples_are_those_of_the_dataset(ragged_root, asked):
    if asked.pop("drop", None):  # boxes of the second patch are not known, which is an error
        with pytest.raises(Exception, match="are not known"):
            list(DeepSentinelStream(ragged_root, shuffle=False, **asked))
        return
    dataset = DeepSentinelDataset(ragged_root, **asked)
    stream = DeepSentinelStream(ragged_root, shuffle=False, **asked)
    assert len(stream) == len(dataset) == 3
    assert all(equal(a, dataset[i]) for i, a in enumerate(stream))
    shuffled = {s["meta"].id: s for s in DeepSentinelStream(ragged_root, **asked)}
    assert all(equal(s, shuffled[s["meta"].id]) for s in (dataset[i] for i in range(3)))


def test_random_transforms_are_those_of_the_dataset_in_every_epoch(root):
    augment = Compose(RandomFlip(), seed=4)
    dataset = DeepSentinelDataset(root, transforms=augment)
    places = {dataset[i]["meta"].id: i for i in range(TRAIN)}
    stream = DeepSentinelStream(root, transforms=Compose(RandomFlip(), seed=4))
    for epoch in range(2):
        augment.set_epoch(epoch)
        assert all(equal(s, dataset[places[s["meta"].id]]) for s in stream)


def test_not_shuffled_is_the_order_of_the_dataset(root):
    dataset = DeepSentinelDataset(root, "val")
    stream = DeepSentinelStream(root, "val", shuffle=False)
    expected = [dataset[i]["meta"].id for i in range(len(dataset))]
    assert ids(stream) == ids(stream) == expected
    assert len(DeepSentinelStream(root, None)) == COUNT


def test_bad_arguments(root):
    with pytest.raises(SplitError):
        DeepSentinelStream(root, "nope")
    with pytest.raises(SampleError, match="buffer=0 is too small"):
        DeepSentinelStream(root, buffer=0)
    with pytest.raises(SampleError, match="rank=2 and world_size=2"):
        DeepSentinelStream(root, rank=2, world_size=2)
    with pytest.raises(SampleError, match="give both"):
        DeepSentinelStream(root, rank=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'drop'"):
        DeepSentinelStream(root, remainder="dropp")
    with pytest.raises(SampleError, match="needs a generator"):
        DeepSentinelStream(root, transforms=RandomFlip())


# ------------------------------------------------------------------ order


def test_orders(root):
    stream = DeepSentinelStream(root)
    first, second = ids(stream), ids(stream)
    assert sorted(first) == sorted(second) == sorted(set(first))
    assert first != second
    again = DeepSentinelStream(root)
    assert (ids(again), ids(again)) == (first, second)
    again.set_epoch(0)
    assert (ids(again), again.epoch) == (first, 0)
    assert ids(DeepSentinelStream(root, seed=1)) != first
    assert stream.epoch == 1


def test_an_iteration_that_was_left_counts_as_an_epoch(root):
    stream, whole = DeepSentinelStream(root), DeepSentinelStream(root)
    next(iter(stream))
    assert stream.epoch == 0
    ids(whole)
    assert ids(stream) == ids(whole)


def test_patches_are_well_mixed(root):
    """Neighbours in the corpus are not neighbours in the stream, and shards come in any order."""
    plans = [DeepSentinelStream(root, None, buffer=128).plan(e) for e in range(8)]
    steps = np.concatenate([np.abs(np.diff(p)) for p in plans])
    assert np.median(steps) > 20
    assert len({int(p[0]) // 128 for p in plans}) == 3
    unbuffered = DeepSentinelStream(root, None, buffer=1).plan(3)
    shards = unbuffered // 128
    assert (np.diff(shards) != 0).sum() == 2  # whole shards


@settings(max_examples=60)
@given(
    count=st.integers(0, 60),
    ranks=st.integers(1, 7),
    workers=st.integers(1, 5),
    buffer=st.integers(1, 20),
    remainder=st.sampled_from(["keep", "drop", "pad"]),
)
def test_shares_cover_everything_once(count, ranks, workers, buffer, remainder):
    shards = np.arange(count) // 8
    order = shuffled_shards(shards, np.random.default_rng(count))
    given = []
    sizes = []
    for rank in range(ranks):
        mine = share(order, rank, ranks, remainder)
        sizes.append(len(mine))
        for worker in range(workers):
            piece = share(mine, worker, workers)
            assert abs(len(piece) - len(mine) / workers) < 1
            left = through_buffer(len(piece), buffer, np.random.default_rng(worker))
            assert sorted(left.tolist()) == list(range(len(piece)))
            assert all(place < step + buffer for step, place in enumerate(left.tolist()))
            given += piece[left].tolist()
    counts = Counter(given)
    if remainder == "keep":
        assert sorted(given) == list(range(count))
        assert max(sizes) - min(sizes) <= 1
    else:
        assert len(set(sizes)) == 1
        assert len(given) == (count // ranks if remainder == "drop" else -(-count // ranks)) * ranks
    if remainder == "drop":
        assert set(counts.values()) <= {1}
    if remainder == "pad" and count:
        assert set(counts) == set(range(count))
        assert sum(counts.values()) - count < ranks


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_sample_once_over_ranks_and_workers(root, ranks, workers):
    epochs = []
    streams = [DeepSentinelStream(root, rank=r, world_size=ranks, buffer=16) for r in range(ranks)]
    loaders = [DataLoader(s, batch_size=None, num_workers=workers) for s in streams]
    assert sum(len(s) for s in streams) == TRAIN
    for _ in range(2):
        parts = [[s["meta"].id for s in loader] for loader in loaders]
        assert [len(p) for p in parts] == [len(s) for s in streams]
        everything = flat(parts)
        assert len(everything) == len(set(everything)) == TRAIN
        epochs.append(parts)
    assert epochs[0] != epochs[1]
    assert [s.epoch for s in streams] == [1] * ranks


@pytest.mark.parametrize(
    ("context", "workers"),
    [
        ("fork", 2),
        pytest.param("forkserver", 1, marks=pytest.mark.slow),
        pytest.param("spawn", 2, marks=pytest.mark.slow),
    ],
)
def test_start_methods_and_persistent_workers(root, context, workers):
    stream = DeepSentinelStream(root, buffer=16)
    loader = DataLoader(
        stream,
        batch_size=20,
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=context,
        persistent_workers=True,
    )
    epochs = [flat(batch_ids(loader)) for _ in range(2)]
    stream.set_epoch(0)
    epochs.append(flat(batch_ids(loader)))
    assert all(len(e) == len(set(e)) == TRAIN for e in epochs)
    assert epochs[0] == epochs[2] != epochs[1]
    assert epochs[0] == flat(_interleaved(stream, epoch=0, workers=workers, batch=20))


def _interleaved(stream, *, epoch, workers, batch):
    """Batches as a loader asks its workers for them in turn: the plans, without any process."""
    left = [
        [f"{n:04}" for n in stream.plan(epoch, Place(worker=w, workers=workers))]
        for w in range(workers)
    ]
    found = []
    while any(left):
        for w in range(workers):
            if left[w]:
                found.append(left[w][:batch])
                left[w] = left[w][batch:]
    return found


def test_a_loader_that_is_left_early_begins_the_next_epoch(root):
    stream = DeepSentinelStream(root, buffer=16)
    loader = DataLoader(stream, batch_size=10, num_workers=2, collate_fn=collate)
    next(iter(loader))
    second = flat(batch_ids(loader))
    assert len(second) == len(set(second)) == TRAIN
    assert stream.epoch == 1
    expected = _interleaved(stream, epoch=1, workers=2, batch=10)
    assert second == flat(expected)


def test_ranks_of_torch_distributed(root, monkeypatch):
    """The rank that torch knows is taken, and goes along into a worker that cannot ask."""
    stream = DeepSentinelStream(root, buffer=16)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    found, sent = [], []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        found.append(ids(stream))
        stream.set_epoch(0)
        sent.append(pickle.dumps(stream))
    assert [len(part) for part in found] == [TRAIN // 2] * 2
    assert len(set(flat(found))) == TRAIN
    monkeypatch.undo()
    assert [ids(pickle.loads(data)) for data in sent] == found  # noqa: S301 - our own bytes


RANK = """
import json, sys
import torch.distributed as dist
from torch.utils.data import DataLoader
from deepsentinel import DeepSentinelStream

root, meeting, rank = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
stream = DeepSentinelStream(root, buffer=16)
loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
epochs = [[s["meta"].id for s in loader] for _ in range(2)]
dist.barrier()
dist.destroy_process_group()
print(json.dumps(epochs))
"""


@pytest.mark.slow
def test_two_processes_that_found_each_other(root, tmp_path):
    """Ranks of gloo, each with workers: all samples once an epoch, and another order in the next."""
    commands = [[sys.executable, "-c", RANK, root, tmp_path / "meeting", str(r)] for r in range(2)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE) for c in commands]
    first, second = (json.loads(process.communicate()[0]) for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    for here, there in zip(first, second, strict=True):
        assert len(here) == len(there) == TRAIN // 2
        assert len({*here, *there}) == TRAIN
    assert first[0] != first[1]
    streams = [DeepSentinelStream(root, rank=r, world_size=2, buffer=16) for r in range(2)]
    alone = [{s["meta"].id for s in stream} for stream in streams]
    assert [set(first[0]), set(second[0])] == alone


def test_it_pickles(root):
    stream = DeepSentinelStream(root)
    copy = copied(stream)
    assert ids(copy) == ids(stream)
    assert repr(copy) == str(stream)
    assert "shuffled with seed 0" in repr(copy)


# ------------------------------------------------------------------ resuming


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "corpus"
    info = CorpusInfo(
        name="tiny", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=16, resolution_m=10
    )
    with CorpusWriter(folder, info) as writer:
        for k in range(13):
            pixels = PatchPixels(s1=np.full((1, 16, 16), -k, np.int16))
            writer.add(PatchRecord(id=str(k), split="train"), pixels)
    return folder


def test_resume_at_every_position(tiny):
    whole = DeepSentinelStream(tiny, buffer=5)
    expected = [ids(whole) for _ in range(3)]
    for epoch in range(2):
        for position in range(14):
            stream = DeepSentinelStream(tiny, buffer=5)
            stream.set_epoch(epoch)
            iterator = iter(stream)
            begun = [next(iterator)["meta"].id for _ in range(position)]
            state = copied(stream.state_dict())
            resumed = DeepSentinelStream(tiny, buffer=5)
            resumed.load_state_dict(state)
            assert resumed.state_dict() == state
            assert begun + ids(resumed) == expected[epoch]
            assert ids(resumed) == expected[epoch + 1]


def test_after_the_end_the_next_epoch_follows(tiny):
    stream = DeepSentinelStream(tiny, buffer=5)
    expected = [ids(stream) for _ in range(2)]
    whole = DeepSentinelStream(tiny, buffer=5)
    assert ids(whole) == expected[0]
    stream = DeepSentinelStream(tiny, buffer=5)
    stream.load_state_dict(whole.state_dict())
    assert ids(stream) == expected[1]
    assert stream.epoch == 1


def test_set_epoch_keeps_what_was_resumed_in_it(tiny):
    stream = DeepSentinelStream(tiny)
    iterator = iter(stream)
    begun = [next(iterator)["meta"].id for _ in range(4)]
    state = stream.state_dict()
    resumed = DeepSentinelStream(tiny)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    rest = ids(resumed)
    assert sorted(begun + rest) == sorted(str(k) for k in range(13))
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert len(ids(resumed)) == 13


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_resume_through_a_stateful_loader(tiny, workers, persistent):
    if persistent and not workers:
        pytest.skip("only workers persist")

    def loader():
        stream = DeepSentinelStream(tiny, buffer=5)
        return StatefulDataLoader(
            stream,
            batch_size=2,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=persistent,
        )

    whole = loader()
    expected = [batch_ids(whole) for _ in range(3)]
    assert all(sorted(flat(e), key=int) == [str(k) for k in range(13)] for e in expected)
    positions = range(len(expected[1]) + 1) if workers < 2 else (0, 1, 4, len(expected[1]))
    for position in positions:
        first = loader()
        assert batch_ids(first) == expected[0]
        iterator = iter(first)
        begun = [[m.id for m in next(iterator)["meta"]] for _ in range(position)]
        state = copied(first.state_dict())
        del iterator, first
        second = loader()
        second.load_state_dict(state)
        assert begun + batch_ids(second) == expected[1]
        assert batch_ids(second) == expected[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_a_stateful_loader_after_an_epoch(tiny, workers):
    def loader():
        stream = DeepSentinelStream(tiny, buffer=5)
        return StatefulDataLoader(stream, batch_size=2, num_workers=workers, collate_fn=collate)

    whole = loader()
    expected = [batch_ids(whole) for _ in range(3)]
    first = loader()
    assert batch_ids(first) == expected[0]
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    assert batch_ids(second) == expected[1]
    assert batch_ids(second) == expected[2]


def test_states_that_do_not_fit(root, tiny):
    stream = DeepSentinelStream(tiny)
    next(iter(stream))
    state = stream.state_dict()
    assert all(isinstance(v, int | str | bool) for v in state.values())
    with pytest.raises(CheckpointError, match="seed: saved 0, now 1"):
        DeepSentinelStream(tiny, seed=1).load_state_dict(state)
    with pytest.raises(CheckpointError, match="samples: saved 13, now 260"):
        DeepSentinelStream(root).load_state_dict(state)
    with pytest.raises(CheckpointError, match="not the state of a DeepSentinelStream"):
        stream.load_state_dict({"epoch": 1})
    halves = DeepSentinelStream(tiny, rank=0, world_size=2)
    halves.load_state_dict(state)
    with pytest.raises(CheckpointError, match="same number of ranks and workers"):
        next(iter(halves))


def test_workers_keep_their_place_to_themselves(tiny):
    """A plain loader cannot tell how far its workers came, so nobody gets a wrong state."""
    stream = DeepSentinelStream(tiny)
    before = stream.state_dict()
    list(DataLoader(stream, batch_size=None, num_workers=1))
    with pytest.raises(CheckpointError, match="StatefulDataLoader"):
        stream.state_dict()
    stream.load_state_dict(before)
    with pytest.raises(CheckpointError, match="StatefulDataLoader"):
        list(DataLoader(stream, batch_size=None, num_workers=1))
    assert len(list(stream)) == 13


# ------------------------------------------------------------------ reading ahead


class CountingFetch:
    """Reads a corpus and knows how many patches were asked for, and how often."""

    def __init__(self, corpus):
        self.corpus = corpus
        self.lock = threading.Lock()
        self.patches = self.calls = 0

    def __call__(self, numbers):
        with self.lock:
            self.patches += len(numbers)
            self.calls += 1
        return self.corpus.fetch(numbers)


@pytest.mark.parametrize(("buffer", "ahead"), [(1, 0), (8, 4), (64, 32)])
@pytest.mark.parametrize("position", [0, 100])
def test_memory_stays_within_its_bound(root, buffer, ahead, position):
    corpus = Corpus(root)
    fetch = CountingFetch(corpus)
    plan = DeepSentinelStream(root, buffer=buffer).plan(0)[position:]
    runs = plan_runs(plan, corpus.shards(plan), corpus.stored_bytes(plan))
    assert sorted(step for run in runs for step in run) == list(range(len(plan)))
    most = 0
    for step, patch in enumerate(prefetched(fetch, plan, runs, ahead=ahead)):
        assert patch.number == plan[step]
        most = max(most, fetch.patches - step)
    assert buffer / 4 < most <= buffer + ahead + RUN_PATCHES
    assert fetch.patches == len(plan)  # nothing is fetched twice


def test_runs_are_of_neighbours_and_bounded(root):
    corpus = Corpus(root)
    plan = DeepSentinelStream(root).plan(0)
    sizes = corpus.stored_bytes(plan)
    runs = [[int(plan[k]) for k in run] for run in plan_runs(plan, corpus.shards(plan), sizes)]
    assert len(runs) < len(plan) / 3
    for run in runs:
        assert run == list(range(run[0], run[0] + len(run)))
        assert len(run) <= RUN_PATCHES
        assert len({n // 128 for n in run}) == 1
    big = np.full(len(plan), RUN_BYTES // 2)
    assert max(map(len, plan_runs(plan, corpus.shards(plan), big))) == 2


def test_neighbours_come_in_one_request_a_sensor(root, monkeypatch):
    corpus = Corpus(root)
    asked = []
    read = corpus._store.read_range

    def logged(path, start, size):
        asked.append(size)
        return read(path, start, size)

    monkeypatch.setattr(corpus._store, "read_range", logged)
    patches = corpus.fetch([3, 2, 4, 127, 128])
    assert [p.number for p in patches] == [3, 2, 4, 127, 128]
    assert len(asked) == 2 * 3
    assert sum(asked) == corpus.stored_bytes(np.array([3, 2, 4, 127, 128])).sum()
    for patch in patches:
        expected = corpus.read_physical(patch.number)
        found = corpus.decode(patch)
        assert all(np.array_equal(found[k], expected[k], equal_nan=True) for k in expected)


def test_requests_wait_for_their_answers_together(root):
    """Nobody is answered before eight have asked: one by one would wait for ever."""
    corpus = Corpus(root)
    plan = DeepSentinelStream(root).plan(0)
    runs = plan_runs(plan, corpus.shards(plan), corpus.stored_bytes(plan))
    asked, turn = [], threading.Condition()

    def fetch(numbers):
        with turn:
            asked.append(numbers)
            turn.notify_all()
            assert turn.wait_for(lambda: len(asked) >= 8, timeout=600)
        return corpus.fetch(numbers)

    patches = prefetched(fetch, plan, runs, ahead=64)
    assert [patch.number for patch in patches] == plan.tolist()


def test_damaged_bytes_are_read_once_more_then_raised(root):
    corpus = Corpus(root, checksum=True)
    patch = corpus.fetch([5])[0]
    broken = {k: bytes(reversed(v)) for k, v in patch.data.items()}
    healed = corpus.decode(FetchedPatch(5, broken))
    assert np.array_equal(healed["s1"], corpus.read_physical(5)["s1"])


def test_an_error_names_the_patch_and_the_stream_goes_on_from_there(tmp_path, tiny):
    folder = tmp_path / "corpus"
    shutil.copytree(tiny, folder)
    shard = next(p for p in folder.glob("data.zarr/s1/c/0/**/*") if p.is_file())
    whole = shard.read_bytes()
    stream = DeepSentinelStream(folder, shuffle=False, checksum=True)
    sizes = stream.dataset.corpus.stored_bytes(np.arange(6))
    place = int(sizes[:5].sum()) + 20
    shard.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    read = []
    with pytest.raises(CorruptCorpusError, match="patch '5'"):
        read.extend(s["meta"].id for s in stream)
    state = stream.state_dict()
    shard.write_bytes(whole)
    resumed = DeepSentinelStream(folder, shuffle=False, checksum=True)
    resumed.load_state_dict(state)
    assert ids(resumed) == [str(k) for k in range(5, 13)]


def test_threads_end_with_the_iteration(root):
    iterator = iter(DeepSentinelStream(root))
    next(iterator)
    ours = [t for t in threading.enumerate() if t.name.startswith("deepsentinel-prefetch")]
    assert ours
    iterator.close()
    for thread in ours:
        thread.join()  # or never


# ------------------------------------------------------------------ over a network


@pytest.mark.parametrize("workers", [0, 2])
def test_over_http_it_is_the_same_and_nothing_comes_twice(root, http_server, workers):
    url = http_server.put_folder(root, f"stream-{workers}")
    expected = ids(DeepSentinelStream(root, buffer=32))
    stream = DeepSentinelStream(url, buffer=32)
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    opened = len(http_server.gets)
    found = ids(loader)
    assert sorted(found) == sorted(expected)
    assert workers or found == expected
    ranges = [
        (r.path, *map(int, r.headers.get("range").removeprefix("bytes=").split("-")))
        for r in http_server.gets[opened:]
        if "data.zarr" in r.path
    ]
    moved = sum(last - first + 1 for _, first, last in ranges)
    patches = stream.dataset.rows
    assert moved == stream.dataset.corpus.stored_bytes(patches).sum()
    assert len(ranges) < TRAIN  # fewer than one a patch, where random access takes two
