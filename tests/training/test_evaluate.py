"""Embeddings and band statistics patch by patch, and scores of a model, with sensors left out."""

import numpy as np
import pytest
import torch

from deepsentinel.errors import LabelError, SampleError, TrainingError
from deepsentinel.sample import collate
from deepsentinel.training.evaluate import band_statistics, embed, evaluate_model, probe

NAN = float("nan")


@pytest.fixture
def patches(samples):
    """Five patches: the second lacks Sentinel-1, the third has only NaN in Sentinel-2."""
    five = samples(5)
    del five[1]["image_s1"]
    five[2]["image_s2"][:] = NAN
    five[3]["image_s2"][4, :5] = NAN
    return five


def test_embeddings_are_those_of_single_patches(model, patches) -> None:
    encoder = model().encoder.train()
    found = embed(encoder, patches, batch_size=2)
    encoder.eval()
    with torch.no_grad():
        slow = [encoder.encode(collate([p])).embedding[0].numpy() for p in patches]
    np.testing.assert_allclose(found.vectors, slow, rtol=1e-4, atol=1e-5)
    assert found.ids == tuple(p["meta"].id for p in patches)
    np.testing.assert_allclose(found.lonlat[3], [10.3, 50])
    assert found.labels.tolist() == [int(p["label"]) for p in patches]
    assert found.empty == 0


def test_embedding_leaves_the_encoder_as_it_was(model, samples) -> None:
    encoder = model().encoder.train()
    encoder.stems.eval()
    before = [m.training for m in encoder.modules()]
    weights = {k: v.clone() for k, v in encoder.state_dict().items()}
    embed(encoder, samples(3))
    assert [m.training for m in encoder.modules()] == before
    assert all(torch.equal(v, weights[k]) for k, v in encoder.state_dict().items())


def test_a_dropped_sensor_is_not_seen(model, patches) -> None:
    encoder = model().encoder
    s2 = embed(encoder, patches, sensors=("s2",), batch_size=2)
    assert np.isnan(s2.vectors).all(axis=1).tolist() == [False, False, True, False, False]
    assert s2.empty == 1
    for patch in patches:
        patch.pop("image_s1", None)
    np.testing.assert_array_equal(s2.vectors, embed(encoder, patches, batch_size=2).vectors)


def test_samples_without_meta_and_labels(model, samples) -> None:
    bare = [{"image_s1": s["image_s1"]} for s in samples(2)]
    found = embed(model().encoder, bare)
    assert (found.labels, found.metas, found.lonlat.shape) == (None, (), (0, 2))


def test_band_statistics_are_numpys(patches) -> None:
    found = band_statistics(patches, batch_size=2)
    assert found.vectors.shape == (5, 2 * 2 + 2 * 12)
    for row, patch in zip(found.vectors, patches, strict=True):
        s1 = patch.get("image_s1", torch.full((2, 32, 32), NAN)).numpy()
        s2 = patch["image_s2"].numpy()
        for band in range(2):
            if np.isfinite(s1[band]).any():
                np.testing.assert_allclose(row[band], s1[band].mean(), rtol=1e-5)
                np.testing.assert_allclose(row[2 + band], s1[band].std(), rtol=1e-5)
            else:
                assert np.isnan(row[[band, 2 + band]]).all()
        for band in range(12):
            if np.isfinite(s2[band]).any():
                np.testing.assert_allclose(row[4 + band], np.nanmean(s2[band]), rtol=1e-5)
                np.testing.assert_allclose(row[16 + band], np.nanstd(s2[band]), rtol=1e-5)
            else:
                assert np.isnan(row[[4 + band, 16 + band]]).all()
    assert band_statistics(patches, sensors=("s1",)).vectors.shape == (5, 4)
    with pytest.raises(SampleError, match="no sample of the dataset holds an image of s1"):
        band_statistics([{"label": torch.tensor(0)}], sensors=("s1",))


def test_band_statistics_of_a_sensor_that_whole_batches_lack(patches) -> None:
    for patch in patches[2:]:
        del patch["image_s2"]
    vectors = band_statistics(patches, batch_size=2).vectors
    assert np.isnan(vectors[2:, 4:]).all()
    assert np.isfinite(vectors[:2, 4:]).all()


def test_both_kinds_of_vectors_go_into_a_probe(samples) -> None:
    train, test = band_statistics(samples(40)), band_statistics(samples(20, seed=1))
    assert probe(train.vectors, train.labels, test.vectors, test.labels)["accuracy"] > 0.6


@pytest.mark.parametrize("kind", ["linear", "classifier"])
def test_scores_of_a_model_are_those_of_its_predictions(model, samples, kind) -> None:
    ours, data = model(kind), samples(6)
    found = evaluate_model(ours, data, batch_size=4)
    assert found["patches"] == 6
    assert found["empty"] == 0
    batch = collate(data)
    target = batch["mask" if kind == "linear" else "label"]
    right = (ours.predict(batch).classes == target)[target >= 0].float().mean().item()
    name = "pixel_accuracy" if kind == "linear" else "accuracy"
    assert found[name] == pytest.approx(right)
    assert set(found["per_class"]) == set(ours.class_names)
    assert found == evaluate_model(ours.train(), data, batch_size=3)


def test_patches_without_any_observation_are_counted_and_left_out(model, patches) -> None:
    ours = model("classifier")
    found = evaluate_model(ours, patches, sensors=("s2",), batch_size=1)
    assert (found["patches"], found["empty"]) == (5, 1)
    rest = [p for i, p in enumerate(patches) if i != 2]
    assert found["accuracy"] == evaluate_model(ours, rest, sensors=("s2",))["accuracy"]


def test_targets_that_do_not_fit(model, samples) -> None:
    data = samples(3)
    data[0]["mask"][4, 4] = 3
    with pytest.raises(LabelError, match="mask holds 3"):
        evaluate_model(model(), data)
    for patch in data:
        patch["mask"][:] = -1
    with pytest.raises(TrainingError, match="nothing is labelled"):
        evaluate_model(model(), data)
    for patch in data:
        del patch["mask"]
    with pytest.raises(SampleError, match="no 'mask'"):
        evaluate_model(model(), data)
