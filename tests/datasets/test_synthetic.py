"""Synthetic scenes: repeatable, plausible, and hard where they promise to be."""

from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepsentinel.bands import S2_BANDS
from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.read import Corpus
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.synthetic import (
    LANDCOVER,
    LOOKS,
    SyntheticScene,
    synthetic_scene,
    write_synthetic_corpus,
)
from deepsentinel.errors import SampleError
from deepsentinel.units import check_db, check_reflectance

ID = {name: i for i, name in enumerate(LANDCOVER.names)}


@pytest.fixture(scope="module")
def scenes() -> list[SyntheticScene]:
    return [synthetic_scene(96, seed=s) for s in range(16)]


def test_a_seed_gives_the_same_scene_and_another_another():
    one, same, other = (synthetic_scene(64, seed=s, clouds=True) for s in (1, 1, 2))
    for name in ("s1", "s2", "landcover", "cloud", "dem"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))


def test_shapes_types_and_units(scenes):
    for scene in scenes:
        assert scene.s1.shape == (2, 96, 96)
        assert scene.s2.shape == (12, 96, 96)
        assert scene.s1.dtype == scene.s2.dtype == scene.dem.dtype == np.float32
        assert scene.landcover.dtype == np.int16
        assert not scene.cloud.any()
        check_db(scene.s1)
        check_reflectance(scene.s2)
    with pytest.raises(SampleError, match="32 px or more"):
        synthetic_scene(16)


def test_every_class_has_its_share(scenes):
    counts = np.bincount(np.concatenate([s.landcover.ravel() for s in scenes]), minlength=8)
    share = counts / counts.sum()
    assert share.min() > 0.04
    assert share.max() < 0.3


def test_surfaces_look_like_themselves(scenes):
    s2 = pooled(scenes, "s2")
    s1 = pooled(scenes, "s1")
    cover = np.concatenate([s.landcover.ravel() for s in scenes])
    band = {name: s2[i] for i, name in enumerate(S2_BANDS)}
    ndvi = (band["B08"] - band["B04"]) / (band["B08"] + band["B04"])
    assert np.median(ndvi[cover == ID["broadleaf forest"]]) > 0.5
    assert np.median(ndvi[cover == ID["water"]]) < 0
    assert np.median(s1[0][cover == ID["water"]]) < -17
    assert np.median(s1[0][cover == ID["settlement"]]) > -9
    assert (s1[1] < s1[0]).mean() > 0.9  # cross-polarised is the weaker one


def test_speckle_is_that_of_its_looks(scenes):
    """Where neighbours see the same surface, power over its local mean has variance 1/looks."""
    powers = []
    for scene in scenes:
        power = 10 ** (scene.s1[0].astype(float) / 10)
        even = np.isin(scene.landcover, [ID["water"]])
        blocks = sliding_window_view(power, (5, 5))[::5, ::5]
        pure = sliding_window_view(even, (5, 5))[::5, ::5].all((-1, -2))
        powers.append((blocks[pure] / blocks[pure].mean((-1, -2), keepdims=True)).ravel())
    variance = np.concatenate(powers).var() * 25 / 24
    assert variance == pytest.approx(1 / LOOKS, rel=0.25)


def test_clouds_change_s2_and_are_marked():
    clear, cloudy = (synthetic_scene(96, seed=5, clouds=c) for c in (False, True))
    changed = np.abs(clear.s2 - cloudy.s2).max(0) > 1e-6
    assert np.array_equal(changed, cloudy.cloud > 0)
    assert {1, 3} <= set(np.unique(cloudy.cloud))
    assert np.array_equal(clear.s1, cloudy.s1)
    assert cloudy.s2[3][cloudy.cloud == 1].mean() > 0.4


def pooled(scenes, name):
    return np.concatenate([getattr(s, name).reshape(len(getattr(s, name)), -1) for s in scenes], 1)


def box(image, radius):
    """Mean over a window, edges reflected."""
    side = 2 * radius + 1
    padding = [(0, 0)] * (image.ndim - 2) + [(radius, radius)] * 2
    return sliding_window_view(np.pad(image, padding, mode="reflect"), (side, side), (-2, -1)).mean(
        (-2, -1)
    )


def coherence(band):
    """How much the gradients around a pixel agree in direction (structure tensor), 0 to 1."""
    down, across = np.gradient(band)
    xx, yy, xy = box(across**2, 4), box(down**2, 4), box(across * down, 4)
    return np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy)


def scores(scenes, features) -> np.ndarray:
    """Recall of each class on held-out scenes, from features (F, H, W) of a scene."""
    rng = np.random.default_rng(0)
    x, y = [], []
    for scene in scenes:
        pick = rng.choice(scene.landcover.size, 500, replace=False)
        values = features(scene)
        x.append(values.reshape(len(values), -1)[:, pick].T)
        y.append(scene.landcover.ravel()[pick])
    train, test = slice(0, 11), slice(11, None)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(np.concatenate(x[train]), np.concatenate(y[train]))
    truth, predicted = np.concatenate(y[test]), model.predict(np.concatenate(x[test]))
    return np.array([(predicted[truth == k] == k).mean() for k in range(8)])


def statistics(image):
    mean = box(image, 3)
    return np.concatenate((mean, np.sqrt(np.maximum(box(image**2, 3) - mean**2, 0))))


def both(scene):
    return np.concatenate((scene.s1, scene.s2))


def test_one_sensor_is_not_enough(scenes):
    s1, s2, fused = (scores(scenes, f) for f in (lambda s: s.s1, lambda s: s.s2, both))
    assert fused.mean() > s2.mean() + 0.08
    assert fused.mean() > s1.mean() + 0.2


def test_classes_that_look_alike_to_one_sensor(scenes):
    """With speckle averaged out, which leaves what the surfaces themselves say."""
    s1, s2, fused = (
        scores(scenes, lambda s, f=f: statistics(f(s)))
        for f in (lambda s: s.s1, lambda s: s.s2, both)
    )
    alike_in_s2 = [ID["broadleaf forest"], ID["flooded forest"], ID["bare ground"]]
    alike_in_s1 = [ID["conifer forest"], ID["broadleaf forest"]]
    assert s2[alike_in_s2].mean() < 0.6
    assert s1[alike_in_s1].mean() < 0.6
    assert fused[alike_in_s2].mean() > s2[alike_in_s2].mean() + 0.15
    assert fused[alike_in_s1].mean() > s1[alike_in_s1].mean() + 0.2


def test_statistics_of_bands_are_not_enough(scenes):
    pixels = scores(scenes, both)
    local = scores(scenes, lambda s: statistics(both(s)))
    structure = scores(
        scenes, lambda s: np.concatenate((statistics(both(s)), coherence(s.s2[3])[None]))
    )
    assert structure.mean() > local.mean() + 0.04
    assert structure.mean() > pixels.mean() + 0.08
    textured = [ID["shrubland"], ID["orchard"]]
    assert local[textured].mean() < 0.6
    assert structure[textured].mean() > local[textured].mean() + 0.15


def test_corpus_holds_what_the_scenes_hold(tmp_path):
    root = write_synthetic_corpus(tmp_path / "c", patches=5, patch_size=32, seed=7, clouds=True)
    assert isinstance(root, Path)
    info = Corpus(root).info
    assert info.synthetic
    assert info.name.startswith("synthetic")
    assert "nothing was measured" in info.description
    assert (info.count, info.extras) == (5, ("cloud", "dem"))
    assert CorpusInfo.from_json(info.to_json()) == info
    scene = synthetic_scene(64, seed=7 * 1_000_003, clouds=True)
    dataset = DeepSentinelDataset(root, None, clouds="keep", labels=("landcover", "dem"))
    for index, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        window = (..., slice(32 * row, 32 * row + 32), slice(32 * column, 32 * column + 32))
        sample = dataset[index]
        assert np.abs(sample["image_s1"].numpy() - scene.s1[window]).max() <= 0.00501
        assert np.abs(sample["image_s2"].numpy() - scene.s2[window]).max() <= 0.0000501
        assert np.array_equal(sample["mask"].numpy(), scene.landcover[window])
        assert np.array_equal(sample["cloud"].numpy(), scene.cloud[window])
        assert np.array_equal(sample["dem"].numpy(), scene.dem[window])
        a, _, c, _, e, f = sample["meta"].transform
        assert (a, e) == (10, -10)
        left, top = dataset[0]["meta"].transform[2], dataset[0]["meta"].transform[5]
        assert (c - left, f - top) == (320 * column, -320 * row)


def test_scenes_are_whole_in_a_split_and_far_from_others(tmp_path):
    root = write_synthetic_corpus(tmp_path / "c", patches=40, patch_size=32)
    frame = DeepSentinelDataset(root, None).index
    scene = frame["id"].str.rsplit("-", n=1).str[0]
    assert (frame.groupby(scene)["split"].nunique() == 1).all()
    assert Corpus(root).info.splits == {"train": 24, "val": 8, "test": 8}
    metres = frame.to_crs("EPSG:32633")
    held = metres[metres["split"] == "test"].geometry.union_all()
    gap = metres[metres["split"] == "train"].distance(held).min()
    assert gap > 15_000


def test_labels_are_those_of_the_mask(tmp_path):
    root = write_synthetic_corpus(tmp_path / "c", patches=8, patch_size=32, seed=2)
    for sample in DeepSentinelDataset(root, None):
        counts = np.bincount(sample["mask"].numpy().ravel(), minlength=8)
        assert counts[sample["label"]] == counts.max()


def test_writing_again_changes_nothing(tmp_path):
    root = write_synthetic_corpus(tmp_path / "c", patches=4, patch_size=32)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    write_synthetic_corpus(root, patches=4, patch_size=32)
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_few_patches_are_all_for_training(tmp_path):
    root = write_synthetic_corpus(tmp_path / "c", patches=1, patch_size=32)
    assert Corpus(root).info.splits == {"train": 1}
    with pytest.raises(SampleError, match="patches=0"):
        write_synthetic_corpus(tmp_path / "d", patches=0)
