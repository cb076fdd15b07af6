"""What is wrong is said before the first step, and what is suspicious too."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.synthetic import LANDCOVER, write_synthetic_corpus
from deepsentinel.datasets.transforms import Compose, RandomFlip
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import LabelError, LeakWarning, SampleError, TrainingError, TrainingWarning
from deepsentinel.heads.classification import Classifier
from deepsentinel.heads.segmentation import Segmenter
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.leak import find_leak
from deepsentinel.training.finetuning.preflight import check_start, patches_of

SIDE = 32 * 10.0
"""Metres along a patch."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_synthetic_corpus(
        tmp_path_factory.mktemp("flight") / "c", patches=24, patch_size=32
    )


def opened(root, split, label="landcover", **options):
    return DeepSentinelDataset(root, split, labels=(label,), **options)


def segmenter(classes: int = 8, **options):
    return Segmenter(FusionEncoder("resnet10t", levels=(1,)), classes, "linear", **options)


def write(path, places, masks, scheme=LANDCOVER):
    """A corpus of S1 patches: (lon, lat, split) and a mask each."""
    info = CorpusInfo(
        name="small",
        sensors=("s1",),
        bands={"s1": ("VV", "VH")},
        patch_size=32,
        resolution_m=10,
        labels=(LabelSpec("landcover", "mask", scheme),),
        splits={"train": 1, "val": 1},
    )
    with CorpusWriter(path, info) as writer:
        for number, ((lon, lat, split), mask) in enumerate(zip(places, masks, strict=True)):
            record = PatchRecord(id=f"p{number}", lon=lon, lat=lat, split=split, crs="EPSG:4326")
            pixels = PatchPixels(
                s1=np.full((2, 32, 32), -1200, np.int16),
                rasters={"landcover": np.full((32, 32), mask, np.int16)},
            )
            writer.add(record, pixels)
    return path


def test_nothing_is_said_of_what_is_right(root) -> None:
    for train in (
        opened(root, "train"),
        DeepSentinelStream(root, labels=("landcover",)),
        Subset(opened(root, "train", transforms=Compose(RandomFlip())), range(5)),
    ):
        model = segmenter(class_names=LANDCOVER.names)
        state = torch.get_rng_state()
        facts = check_start(model, train, opened(root, "val"))
        assert torch.equal(torch.get_rng_state(), state)
        assert facts["train"]["patches"] == (5 if isinstance(train, Subset) else len(train))


def test_another_number_of_classes_is_said_before_a_step(root, tmp_path) -> None:
    said = r"'landcover' of train \('synthetic-0'\) has 8 classes .*the model 5.*num_classes=8"
    with pytest.raises(LabelError, match=said):
        finetune(segmenter(5), opened(root, "train"), opened(root, "val"), out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_names_are_said(root) -> None:
    train, val, names = opened(root, "train"), opened(root, "val"), LANDCOVER.names
    turned = (*names[1:], names[0])
    with pytest.raises(
        LabelError, match=rf"class 0 is '{names[0]}'; in the model it is '{names[1]}'"
    ):
        check_start(segmenter(class_names=turned), train, val)
    with pytest.warns(TrainingWarning, match="class 2 is .* in the model it is 'wood'"):
        check_start(segmenter(class_names=(*names[:2], "wood", *names[3:])), train, val)


def test_a_label_of_another_kind_is_said(root, tmp_path) -> None:
    model = Classifier(FusionEncoder("resnet10t", levels=(1,)), 8)
    with pytest.raises(SampleError, match="no 'label'"):
        check_start(model, opened(root, "train"), opened(root, "val"))
    with pytest.raises(SampleError, match="no 'label'"):  # val is looked at before training too
        check_start(model, opened(root, "train", "landcover_class"), opened(root, "val"))
    with pytest.raises(LabelError, match="has no label 'landcoverr'"):
        opened(root, "train", "landcoverr")


def test_ids_out_of_range_in_the_middle_of_a_split_are_found(tmp_path) -> None:
    places = [(10.0 + i, 50.0, "val" if i == 5 else "train") for i in range(6)]
    bad = write(tmp_path / "bad", places, [0, 1, 9, 2, 1, 0], scheme=None)
    with pytest.raises(LabelError, match=r"mask of patch 'p2' in train holds 9, .*0 to 7"):
        check_start(segmenter(), opened(bad, "train"), opened(bad, "val"))


def test_a_split_without_labels_is_said(tmp_path) -> None:
    places = [(10.0 + i, 50.0, "val" if i == 3 else "train") for i in range(4)]
    empty = write(tmp_path / "empty", places, [-1, -1, -1, 0])
    with pytest.raises(TrainingError, match=r"nothing is labelled in train: .* 3 patches"):
        check_start(segmenter(), opened(empty, "train"), opened(empty, "val"))
    blind = write(tmp_path / "blind", places, [0, 1, 2, -1])
    with pytest.raises(TrainingError, match="nothing is labelled in val"):
        check_start(segmenter(), opened(blind, "train"), opened(blind, "val"))


def test_a_stream_cannot_judge(root) -> None:
    stream = DeepSentinelStream(root, "val", labels=("landcover",))
    with pytest.raises(TrainingError, match="val is a stream; only train may be one"):
        check_start(segmenter(), opened(root, "train"), stream)


def test_val_on_ground_of_train_is_said(tmp_path) -> None:
    step = SIDE / 111_195  # degrees of latitude
    places = [(10.0, 50 + i * step, "train") for i in range(4)]
    places += [(10.0, 50 + 2.5 * step, "val"), (11.0, 50.0, "val")]
    close = write(tmp_path / "close", places, [0, 1, 2, 3, 0, 1])
    said = (
        r"1 of 2 patches of val lie on ground of train \(nearest: p4 and p[23], centres 160 m apart"
    )
    with pytest.warns(LeakWarning, match=said):
        check_start(segmenter(), opened(close, "train"), opened(close, "val"))


def test_a_random_split_is_told_from_blocks() -> None:
    step = SIDE / 111_195
    rows, columns = np.mgrid[0:24, 0:24]
    lonlat = np.stack([columns.ravel() * step, rows.ravel() * step], 1)
    drawn = np.random.default_rng(0).random(len(lonlat)) < 0.2
    leak = find_leak(lonlat[~drawn], lonlat[drawn], side_m=SIDE)
    assert leak is not None
    assert (leak.overlapping, leak.neighbours) == (0, leak.count)
    block = (rows.ravel() // 8 == 1) & (columns.ravel() // 8 == 1)
    assert find_leak(lonlat[~block], lonlat[block], side_m=SIDE) is None
    unknown = np.full_like(lonlat, np.nan)
    assert find_leak(unknown, lonlat, side_m=SIDE) is None


def test_distances_are_those_on_the_ground() -> None:
    from pyproj import Geod

    train, held_out = np.array([[179.999, 70.0]]), np.array([[-179.999, 70.001]])
    leak = find_leak(train, held_out, side_m=1000.0)
    assert leak is not None
    _, _, metres = Geod(ellps="WGS84").inv(*train[0], *held_out[0])
    assert leak.distance_m == pytest.approx(metres, rel=0.01)


def test_leaks_are_sought_in_subsets_too(root) -> None:
    whole = opened(root, None)
    part = patches_of(Subset(Subset(whole, [4, 5, 6]), [1]))
    assert part is not None
    assert part.places.tolist() == [5]
    with pytest.warns(LeakWarning, match="3 of 3 patches of val lie on ground of train"):
        check_start(segmenter(), whole, Subset(whole, [1, 2, 3]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_start(segmenter(), [whole[0]], [whole[0]])  # where nothing is known, nothing is said
