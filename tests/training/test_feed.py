"""Batches of long runs: the order, its parts among processes, and going on in the middle."""

import threading
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsentinel.bands import DEFAULT_BANDS
from deepsentinel.corpus.opening import open_corpus
from deepsentinel.corpus.patch import PatchPixels
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.neighbours import WithNeighbours
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.datasets.transforms import Compose, RandomFlip
from deepsentinel.errors import SampleError, ShapeError, TrainingError
from deepsentinel.sample import PatchMeta
from deepsentinel.training.pretraining.feed import MapFeed, Position, epoch_order
from deepsentinel.training.pretraining.framing import Framing, collate_observed
from deepsentinel.training.pretraining.stream_feed import StreamFeed, progress
from deepsentinel.training.pretraining.windows import one_ahead

BOTH = {"s1": ("VV", "VH"), "s2": ("B04", "B08")}


def numbered(count: int, first: int = 0) -> list[dict]:
    """Patches whose pixels are their number."""
    return [
        {"meta": PatchMeta(id=f"p{i}"), "image_s1": torch.full((2, 16, 16), float(i))}
        for i in range(first, first + count)
    ]


def seen(batches) -> list[list[int]]:
    return [b["image_s1"][:, 0, 0, 0].int().tolist() for _, b in batches]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_corpus(tmp_path_factory.mktemp("feed") / "c", patches=40, patch_size=32)


def test_an_epoch_shows_each_patch_once_and_no_epoch_is_like_another() -> None:
    feed = MapFeed([numbered(10)], Framing(BOTH), batch_size=2, seed=1)
    found = seen(islice(feed.batches(Position()), 10))
    first, second = ([n for batch in found[i : i + 5] for n in batch] for i in (0, 5))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != list(range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_feed_goes_on_at_any_batch_as_if_it_had_never_stopped(workers: int) -> None:
    feed = MapFeed([numbered(7)], Framing(BOTH), batch_size=2, seed=3, num_workers=workers)
    whole = list(islice(feed.batches(Position()), 8))
    for done in (1, 3, 5):
        rest = list(islice(feed.batches(whole[done - 1][0]), 8 - done))
        assert seen(rest) == seen(whole[done:])
        assert [p for p, _ in rest] == [p for p, _ in whole[done:]]


def test_two_processes_read_what_one_reads_in_two_batches() -> None:
    def read(count: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
        place = {"rank": rank, "world_size": world_size}
        feed = MapFeed([numbered(8)], Framing(BOTH), batch_size=2, seed=0, **place)
        return seen(islice(feed.batches(Position()), count))

    one, parts = read(4), [read(2, rank, 2) for rank in (0, 1)]
    assert one == [parts[0][0], parts[1][0], parts[0][1], parts[1][1]]


def test_shares_hold_over_an_epoch_and_repeat_nothing_before_all_came() -> None:
    order = epoch_order([10, 5, 5], [0.5, 0.5, 0.0], seed=0, epoch=4)
    of = np.searchsorted([10, 15, 20], order[:, 1], side="right")
    assert np.bincount(of, minlength=3).tolist() == [10, 10, 0]
    for part in (0, 1):
        assert len(np.unique(order[of == part], axis=0)) == 10
    assert set(order[of == 1][:, 0]) == {0, 1}


def test_batches_of_several_corpora_are_read_at_once_and_in_order(root: Path) -> None:
    """Corpora give their part of a batch in one call, lists sample by sample; each in its place."""
    asked: list[int] = []

    class Counted(DeepSentinelDataset):
        def __getitems__(self, indices):
            asked.append(len(indices))
            return super().__getitems__(indices)

    how = {"bands": ("VV", "VH"), "labels": ()}
    corpus, alone = Counted(root, None, **how), DeepSentinelDataset(root, None, **how)
    few = [s | {"image_s1": s["image_s1"].repeat(1, 2, 2)} for s in numbered(8)]
    feed = MapFeed([few, corpus], Framing(BOTH, turn=False), batch_size=12, seed=2)
    order = [number for _, number in epoch_order([8, 40], [8 / 48, 40 / 48], seed=2, epoch=0)]
    for place, (_, batch) in enumerate(islice(feed.batches(Position()), 4)):
        for image, number in zip(batch["image_s1"], order[12 * place :], strict=False):
            truth = few[number] if number < 8 else alone[number - 8]
            torch.testing.assert_close(image, truth["image_s1"], equal_nan=True)
    assert sum(asked) == 40
    assert len(asked) == 4


def test_a_patch_that_comes_twice_in_an_epoch_is_shown_differently() -> None:
    ramp = torch.arange(1024.0).reshape(1, 32, 32).repeat(2, 1, 1)
    sample = {"meta": PatchMeta(id="a"), "image_s1": ramp}
    framing = Framing({"s1": ("VV", "VH")}, crop=8, seed=0)
    views = [framing(sample, epoch=e, round=r)["image_s1"] for e in (0, 1) for r in (0, 1)]
    again = framing(sample, epoch=0, round=1)["image_s1"]
    assert torch.equal(views[1], again)
    assert len({float(v[0, 0, 0]) for v in views}) == 4


def test_a_sample_gets_the_bands_of_the_encoder_in_its_order() -> None:
    image = torch.stack([torch.full((4, 4), float(i)) for i in (8, 4, 2)])
    meta = PatchMeta(id="a", bands_s2=("B08", "B04", "B02"))
    sample = {"meta": meta, "image_s2": image, "label": torch.tensor(1), "mask": torch.zeros(4, 4)}
    out = Framing({"s1": ("VH",), "s2": ("B11", "B04", "B08")}, turn=False)(sample, epoch=0)
    assert out["image_s2"][1:, 0, 0].tolist() == [4.0, 8.0]
    assert bool(out["image_s2"][0].isnan().all())
    assert out["image_s1"].shape == (1, 4, 4)
    assert (out["meta"].bands_s1, out["meta"].bands_s2) == (("VH",), ("B11", "B04", "B08"))
    assert set(out) == {"meta", "image_s1", "image_s2"}


def test_neighbours_are_framed_too() -> None:
    sample = {
        "meta": PatchMeta(id="a"),
        "image_s1": torch.zeros(2, 16, 16),
        "neighbour_s1": torch.arange(512.0).reshape(2, 16, 16),
    }
    out = Framing({"s1": ("VH",)}, crop=4)(sample, epoch=0)
    assert out["neighbour_s1"].shape == (1, 4, 4)
    assert float(out["neighbour_s1"].min()) >= 256


def test_a_crop_larger_than_the_patch_is_refused() -> None:
    with pytest.raises(ShapeError, match="64 px"):
        Framing(BOTH, crop=64)(numbered(1)[0], epoch=0)


def test_empty_patches_are_replaced_and_counted_and_an_empty_batch_is_refused() -> None:
    nothing = {"meta": PatchMeta(id="n"), "image_s1": torch.full((2, 4, 4), float("nan"))}
    batch = collate_observed([numbered(1)[0] | {"image_s1": torch.ones(2, 4, 4)}, nothing, nothing])
    assert batch["empty"] == 2
    assert bool(batch["image_s1"].isfinite().all())
    with pytest.raises(SampleError, match="nothing was observed in any of the 2"):
        collate_observed([nothing, nothing])


@pytest.mark.parametrize("counts", [[3], [2, 3, 3], [3, 2], [3, 3, 2], [0, 1]])
def test_progress_says_what_a_loader_with_workers_does(counts: list[int]) -> None:
    turns = [w for r in range(max(counts)) for w, count in enumerate(counts) if r < count]
    for done in range(len(turns)):
        first, given = progress(counts, done)
        assert first == turns[done]
        assert given == [turns[:done].count(w) for w in range(len(counts))]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on few cores
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_stream_goes_on_at_any_batch_as_if_it_had_never_stopped(root: Path, workers: int) -> None:
    how = {"seed": 5, "buffer": 8, "labels": (), "transforms": Compose(RandomFlip())}
    stream = DeepSentinelStream(root, None, **how)
    feed = StreamFeed(stream, Framing(BOTH, crop=16), batch_size=7, num_workers=workers)
    each = feed.batches_per_epoch
    assert feed.counts == {0: [5], 2: [2, 2], 3: [1, 1, 2]}[workers]
    whole = list(islice(feed.batches(Position()), each + 2))
    for done in (1, 3, each) if workers == 3 else (3,):
        rest = list(islice(feed.batches(whole[done - 1][0]), each + 2 - done))
        for (position, batch), (expected, reference) in zip(rest, whole[done:], strict=True):
            assert position == expected
            assert [m.id for m in batch["meta"]] == [m.id for m in reference["meta"]]
            assert torch.equal(
                batch["image_s2"].nan_to_num(-9), reference["image_s2"].nan_to_num(-9)
            )


def test_ranks_of_a_stream_share_the_patches(root: Path) -> None:
    ids = []
    for rank in (0, 1):
        stream = DeepSentinelStream(root, labels=(), rank=rank, world_size=2, remainder="drop")
        feed = StreamFeed(stream, Framing(BOTH), batch_size=2, rank=rank, world_size=2)
        ids.append([m.id for _, b in islice(feed.batches(Position()), 6) for m in b["meta"]])
    assert len({*ids[0], *ids[1]}) == 24


def test_what_is_looked_at_is_the_same_for_maps_and_streams(root: Path) -> None:
    dataset, stream = DeepSentinelDataset(root, labels=()), DeepSentinelStream(root, labels=())
    framing = Framing(BOTH, crop=16)
    looks = [
        MapFeed([dataset], framing, batch_size=2, seed=0).look(4),
        StreamFeed(stream, framing, batch_size=2).look(4),
    ]
    assert torch.equal(looks[0]["image_s1"], looks[1]["image_s1"])
    assert len({m.id for m in looks[0]["meta"]}) == 4


def test_what_cannot_work_is_refused(root: Path) -> None:
    with pytest.raises(TrainingError, match="3 patches do not fill a batch of 4"):
        MapFeed([numbered(3)], Framing(BOTH), batch_size=4, seed=0)
    with pytest.raises(TrainingError, match="one number a corpus"):
        MapFeed([numbered(3)], Framing(BOTH), batch_size=1, seed=0, shares=[0.5, 0.5])
    with pytest.raises(TrainingError, match="int was given"):
        MapFeed([3], Framing(BOTH), batch_size=1, seed=0)
    with pytest.raises(TrainingError, match="empty"):
        MapFeed([[]], Framing(BOTH), batch_size=1, seed=0)
    stream = DeepSentinelStream(root, labels=())
    with pytest.raises(TrainingError, match='remainder="drop"'):
        StreamFeed(stream, Framing(BOTH), batch_size=2, world_size=2)
    with pytest.raises(TrainingError, match="do not fill a batch of 20"):
        StreamFeed(stream, Framing(BOTH), batch_size=20, num_workers=2)


def test_a_crop_that_shows_nothing_is_drawn_again_and_samples_without_id_differ() -> None:
    image = torch.full((2, 32, 32), float("nan"))
    image[:, :, :16] = torch.arange(16.0)
    framing = Framing({"s1": ("VV", "VH")}, crop=8, turn=False)
    views = [framing({"image_s1": image}, epoch=0, number=n)["image_s1"] for n in range(40)]
    assert sum(bool(v.isfinite().any()) for v in views) == 40
    assert len({float(v.nan_to_num(-1).sum()) for v in views}) > 5
    unlike = {"image_s1": image, "image_s2": torch.zeros(12, 16, 16)}
    with pytest.raises(ShapeError, match="differ in size"):
        framing(unlike, epoch=0)


def test_turns_are_the_eight_ways_to_lay_a_square_and_both_sensors_turn_alike() -> None:
    meta = PatchMeta(id="a", transform=(10, 0, 0, 0, -10, 0))
    image = torch.arange(16.0).reshape(1, 4, 4)
    sample = {"meta": meta, "image_s1": image.repeat(2, 1, 1), "image_s2": image.repeat(12, 1, 1)}
    found = [Framing(BOTH)(sample, epoch=e) for e in range(60)]
    assert len({tuple(f["image_s1"][0].flatten().tolist()) for f in found}) == 8
    assert all(torch.equal(f["image_s1"][0], f["image_s2"][0]) for f in found)
    assert found[0]["meta"].transform is None
    assert Framing(BOTH, turn=False)(sample, epoch=0)["meta"].transform == meta.transform


@pytest.fixture(scope="module")
def cloudy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches with clouds; some of one sensor only."""
    folder = tmp_path_factory.mktemp("cloudy")
    whole = write_synthetic_corpus(folder / "whole", patches=24, patch_size=32, clouds=True)
    corpus = open_corpus(whole)
    with CorpusWriter(folder / "c", replace(corpus.info, labels=(), splits={}, count=0)) as writer:
        for i in range(len(corpus)):
            pixels = corpus.read(i, rasters=("cloud",))
            s1 = None if i % 5 == 1 else pixels.s1
            s2 = None if i % 5 == 3 else pixels.s2
            rasters = {} if s2 is None else pixels.rasters
            record = replace(corpus.record(i), labels={})
            writer.add(record, PatchPixels(s1=s1, s2=s2, rasters=rasters))
    return folder / "c"


WAYS = {"crop": {"crop": 12}, "as it lies": {"turn": False}, "turned": {}}


@pytest.mark.parametrize("bands", [DEFAULT_BANDS, BOTH], ids=["all", "some"])
@pytest.mark.parametrize("way", WAYS)
def test_windows_are_what_is_shown_of_whole_samples(cloudy: Path, way: str, bands) -> None:
    """A dataset with a transform is read whole and then cut; one without by windows. The same."""
    framing = Framing(bands, seed=3, **WAYS[way])
    plain = DeepSentinelDataset(cloudy, None)
    whole = DeepSentinelDataset(cloudy, None, transforms=dict)
    found, expected = (
        islice(MapFeed([d], framing, batch_size=6, seed=1).batches(Position()), 6)
        for d in (plain, whole)
    )
    gaps = 0
    for (_, batch), (_, reference) in zip(found, expected, strict=True):
        assert batch["meta"] == reference["meta"]
        assert batch["empty"] == reference["empty"]
        gaps += int(reference["image_s2"][:, -1].isnan().sum())
        for key in ("image_s1", "image_s2"):
            torch.testing.assert_close(batch[key], reference[key], rtol=0, atol=0, equal_nan=True)
    assert gaps > 6 * 12 * 12  # clouds, and patches without Sentinel-2


def test_windows_of_a_stream_are_what_is_shown_of_its_samples(cloudy: Path) -> None:
    framing = Framing(BOTH, crop=12, seed=3)
    streams = (
        DeepSentinelStream(cloudy, None, seed=2, transforms=transform) for transform in (None, dict)
    )
    found, expected = (
        islice(StreamFeed(stream, framing, batch_size=6).batches(Position(batch=1)), 5)
        for stream in streams
    )
    for (_, batch), (_, reference) in zip(found, expected, strict=True):
        assert batch["meta"] == reference["meta"]
        for key in ("image_s1", "image_s2"):
            torch.testing.assert_close(batch[key], reference[key], rtol=0, atol=0, equal_nan=True)


def test_a_batch_of_windows_lies_in_memory_as_it_was_decoded(root: Path) -> None:
    dataset, framing = DeepSentinelDataset(root, None), Framing(DEFAULT_BANDS, crop=8)
    feed = MapFeed([dataset], framing, batch_size=4, seed=0)
    samples = feed.shown.__getitems__([(0, 0, i) for i in range(4)])
    batch = collate_observed(samples)
    for key in ("image_s1", "image_s2"):
        assert batch[key].data_ptr() == samples[0][key].data_ptr()


def test_the_next_batch_is_read_while_one_is_used_and_no_more() -> None:
    made, on = [], threading.Event()

    def numbers():
        for i in count():
            made.append((i, threading.current_thread().name))
            yield i
            if i == 0:
                assert on.wait(10)  # the second comes only once the first is being used

    ahead = one_ahead(numbers())
    assert next(ahead) == 0
    on.set()
    assert [next(ahead) for _ in range(3)] == [1, 2, 3]
    ahead.close()
    assert [i for i, _ in made] == [0, 1, 2, 3, 4]
    assert threading.current_thread().name not in {name for _, name in made}


def test_what_fails_on_the_thread_fails_in_the_loop() -> None:
    def broken():
        yield 1
        raise SampleError("no more")

    ahead = one_ahead(broken())
    assert next(ahead) == 1
    with pytest.raises(SampleError, match="no more"):
        next(ahead)


def test_only_datasets_that_draw_nothing_are_read_on_a_thread(root: Path) -> None:
    """Others may draw from torch's generator, of which dropout draws at the same time."""

    class Other(DeepSentinelDataset):
        pass

    plain = DeepSentinelDataset(root, None)
    near = WithNeighbours(plain)
    cases = [
        (plain, True), (near, True), (numbered(8), True), (Other(root, None), False),
        (DeepSentinelDataset(root, None, transforms=dict), False),
    ]  # fmt: skip
    for dataset, expected in cases:
        assert MapFeed([dataset], Framing(BOTH), batch_size=2, seed=0).on_thread is expected
    assert not MapFeed([plain], Framing(BOTH), batch_size=2, seed=0, num_workers=1).on_thread
