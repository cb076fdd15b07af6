"""Neighbours: found in the index against a loop over all pairs, drawn by epoch, never of another split."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.neighbours import WithNeighbours, near_places
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.errors import SampleError
from deepsentinel.sample import collate


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_synthetic_corpus(
        tmp_path_factory.mktemp("near") / "corpus", patches=16, patch_size=32, seed=1
    )


@pytest.fixture
def dataset(root):
    return DeepSentinelDataset(root, None, labels=())


def km(a, b) -> float:
    one, two = math.radians(a[1]), math.radians(b[1])
    half = math.sin((one - two) / 2) ** 2
    half += math.cos(one) * math.cos(two) * math.sin(math.radians(a[0] - b[0]) / 2) ** 2
    return 2 * 6371 * math.asin(math.sqrt(half))


def test_near_places_against_a_loop(rng):
    lonlat = np.stack([rng.uniform(170, 180.5, 60), rng.uniform(60, 62, 60)], axis=1)
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180  # across the date line
    lonlat[7] = np.nan
    near = near_places(lonlat, 40.0)
    assert len(near[7]) == 0
    for i in range(60):
        wanted = [
            j for j in range(60) if j != i and 7 not in {i, j} and km(lonlat[i], lonlat[j]) <= 40
        ]
        assert near[i].tolist() == wanted
    assert any(len(n) > 1 for n in near)


def test_neighbours_are_other_patches_of_the_same_scene(dataset):
    pairs = WithNeighbours(dataset, within_km=1.0)
    positions = [(dataset[i]["meta"].lon, dataset[i]["meta"].lat) for i in range(len(dataset))]
    for place in range(len(dataset)):
        other = pairs.neighbour(place)
        assert other != place
        assert km(positions[place], positions[other]) <= 1.0
        sample = pairs[place]
        torch.testing.assert_close(sample["neighbour_s2"], dataset[other]["image_s2"])
        torch.testing.assert_close(sample["image_s1"], dataset[place]["image_s1"])
        assert sample["meta"].id == dataset[place]["meta"].id


def test_epochs_bring_other_neighbours_and_repeat_themselves(dataset):
    pairs = WithNeighbours(dataset, within_km=1.0, seed=3)
    drawn = []
    for epoch in (0, 1, 0):
        pairs.set_epoch(epoch)
        drawn.append([pairs.neighbour(i) for i in range(len(pairs))])
    assert drawn[0] == drawn[2] != drawn[1]
    assert len(pairs) == len(dataset)


def test_loaders_and_copies_take_it(dataset):
    pairs = copy.deepcopy(WithNeighbours(dataset, within_km=1.0))
    batch = next(iter(DataLoader(pairs, batch_size=4, collate_fn=collate)))
    assert batch["neighbour_s1"].shape == batch["image_s1"].shape == (4, 2, 32, 32)


def test_a_split_keeps_to_itself(root):
    whole = DeepSentinelDataset(root, None, labels=())
    train = DeepSentinelDataset(root, "train", labels=())
    pairs = WithNeighbours(train, within_km=1000.0)
    ids = {train[i]["meta"].id for i in range(len(train))}
    assert len(ids) < len(whole)
    assert {train[pairs.neighbour(i)]["meta"].id for i in range(len(train))} <= ids


def test_bands_that_are_read_are_brought(root):
    dataset = DeepSentinelDataset(
        root, None, labels=(), bands={"s1": ("VH",), "s2": ("B08", "B02")}
    )
    sample = WithNeighbours(dataset, within_km=1.0)[0]
    assert sample["neighbour_s1"].shape == (1, 32, 32)
    assert sample["neighbour_s2"].shape == (2, 32, 32)


def test_samples_of_corpora_with_other_sensors_make_one_batch(root):
    both, optics = (
        WithNeighbours(DeepSentinelDataset(root, None, labels=(), sensors=sensors), within_km=1.0)
        for sensors in (("s1", "s2"), ("s2",))
    )
    batch = collate([both[0], optics[1]])
    assert batch["neighbour_s1"].isnan().flatten(1).all(1).tolist() == [False, True]
    assert batch["neighbour_s2"].isfinite().all()


def test_a_corpus_of_lonely_patches_is_refused(dataset):
    with pytest.raises(SampleError, match=r"none of 16 patches has another within 1e-06 km"):
        WithNeighbours(dataset, within_km=1e-6)
    alone = WithNeighbours(dataset, within_km=1e-6, required=False)
    assert alone.alone == 16
    sample = alone[3]
    assert sample["neighbour_s1"].equal(sample["image_s1"]), "a patch comes with itself"
