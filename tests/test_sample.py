"""Sample: batches by `collate` and by a plain DataLoader, with what is absent as NaN."""

import dataclasses
import pickle
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader, default_collate

import deepsentinel
from deepsentinel.errors import CollateError, SampleError
from deepsentinel.sample import (
    IMAGE_KEYS,
    SAMPLE_KEYS,
    PatchMeta,
    Sample,
    batch_bands,
    collate,
)

S2 = ("B02", "B03", "B04")


def sample(name: str = "a", *, sensors: tuple[str, ...] = ("s1", "s2"), size: int = 8) -> Sample:
    """One patch whose values are its own; only some sensors."""
    g = torch.Generator().manual_seed(sum(name.encode()))
    made: Sample = {
        "meta": PatchMeta(
            id=name,
            bands_s1=("VV", "VH") if "s1" in sensors else (),
            bands_s2=S2 if "s2" in sensors else (),
        )
    }
    if "s1" in sensors:
        made["image_s1"] = torch.randn(2, size, size, generator=g) - 12
    if "s2" in sensors:
        made["image_s2"] = torch.rand(3, size, size, generator=g)
    made["mask"] = torch.randint(-1, 3, (size, size), generator=g)
    return made


def test_a_plain_dataloader_and_collate_agree_where_sensors_do():
    samples = [sample(n) for n in "abcd"]
    (plain,) = DataLoader(samples, batch_size=4)
    ours = collate(samples)
    assert set(plain) == set(ours) == set(samples[0])
    assert plain["meta"] == ours["meta"] == [s["meta"] for s in samples]
    for key in ("image_s1", "image_s2", "mask"):
        torch.testing.assert_close(plain[key], ours[key], rtol=0, atol=0)


def test_a_dataloader_with_workers_keeps_meta():
    samples = [sample(n) for n in "abcd"]
    (batch,) = DataLoader(samples, batch_size=4, num_workers=1)
    assert [m.id for m in batch["meta"]] == list("abcd")
    assert batch_bands(batch, "s2") == S2


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("absent", ["s1", "s2"])
def test_an_absent_sensor_is_nan_wherever_it_is_absent(place, absent):
    other = "s2" if absent == "s1" else "s1"
    samples = [
        sample(n, sensors=(other,) if i == place else ("s1", "s2")) for i, n in enumerate("abc")
    ]
    batch = collate(samples)
    empty = batch[IMAGE_KEYS[absent]].isnan()
    assert empty[place].all()
    assert not empty[[i for i in range(3) if i != place]].any()
    assert batch[IMAGE_KEYS[other]].isfinite().all()
    assert batch_bands(batch, absent) == samples[place - 1]["meta"].bands(absent)
    for i, one in enumerate(samples):
        for key in IMAGE_KEYS.values():
            if key in one:
                torch.testing.assert_close(batch[key][i], one[key], rtol=0, atol=0)


@pytest.mark.parametrize("place", [0, 1])
def test_torchs_own_collate_names_ours_when_sensors_differ(place):
    samples = [sample("a"), sample("b")]
    samples[place] = sample("ab"[place], sensors=("s1",))
    with pytest.raises(CollateError, match=r"collate_fn=deepsentinel\.collate"):
        default_collate(samples)
    with pytest.raises(CollateError, match=r"collate_fn=deepsentinel\.collate"):
        next(iter(DataLoader(samples, batch_size=2, num_workers=1)))
    (batch,) = DataLoader(samples, batch_size=2, collate_fn=deepsentinel.collate)
    assert batch["image_s2"].shape == (2, 3, 8, 8)


def test_a_sensor_that_nobody_has_is_no_key():
    batch = collate([sample("a", sensors=("s1",)), sample("b", sensors=("s1",))])
    assert "image_s2" not in batch
    assert batch_bands(batch, "s2") is None


def test_patches_that_saw_nothing_at_all_still_make_a_batch():
    batch = collate([sample("a", sensors=()), sample("b")])
    assert batch["image_s1"][0].isnan().all()
    assert batch["image_s2"][0].isnan().all()


def test_boxes_stay_lists():
    boxes = [torch.rand(n, 4) for n in (2, 0)]
    samples = [
        sample(name) | {"bbox_xyxy": b, "label": torch.zeros(len(b), dtype=torch.int64)}
        for name, b in zip("ab", boxes, strict=True)
    ]
    batch = collate(samples)
    assert [tuple(b.shape) for b in batch["bbox_xyxy"]] == [(2, 4), (0, 4)]
    assert [len(b) for b in batch["label"]] == [2, 0]
    labelled = collate([sample("a") | {"label": torch.tensor(i)} for i in range(2)])
    assert labelled["label"].tolist() == [0, 1]


def test_a_batch_has_no_more_keys_than_its_samples():
    extra = {"area_ha": 3.5, "name": "field"}
    batch = collate([sample("a") | extra, sample("b") | extra])
    assert batch["area_ha"].tolist() == [3.5, 3.5]
    assert batch["name"] == ["field", "field"]


def change(one: Sample, **values: Any) -> Sample:
    return {**one, **values}


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (sample("b", size=9), r"image_s1 of sample 1 \(b\) has shape \(2, 9, 9\).*Crop or pad"),
        (change(sample("b"), mask=torch.zeros(4, 4)), r"mask of sample 1 \(b\)"),
        (change(sample("b"), dem=torch.zeros(8, 8)), r"differ in \['dem'\]"),
        ({k: v for k, v in sample("b").items() if k != "mask"}, r"\['mask'\].*same labels="),
        ({k: v for k, v in sample("b").items() if k != "meta"}, r"no meta.*\['meta'\]"),
    ],
    ids=["size", "mask", "extra", "no mask", "no meta"],
)
def test_what_nan_cannot_express_is_refused_with_its_place(second, words):
    with pytest.raises(CollateError, match=words):
        collate([sample("a"), second])


def test_different_bands_are_refused():
    other = sample("b")
    other["meta"] = dataclasses.replace(other["meta"], bands_s2=("B02", "B03", "B8A"))
    with pytest.raises(CollateError, match=r"different bands of image_s2.*same bands=\.\.\."):
        collate([sample("a"), other])
    metas = [sample("a")["meta"], other["meta"]]
    with pytest.raises(SampleError, match="different bands of s2"):
        batch_bands({"meta": metas}, "s2")
    assert batch_bands({"meta": metas}, "s1") == ("VV", "VH")


def test_no_samples_are_refused():
    with pytest.raises(CollateError, match="no samples"):
        collate([])


def test_collate_leaves_its_samples_alone():
    samples = [sample("a"), sample("b", sensors=("s1",))]
    before = [dict(s) for s in samples]
    collate(samples)["image_s1"].zero_()
    for one, was in zip(samples, before, strict=True):
        assert list(one) == list(was)
        assert (one["image_s1"] < 0).any()


def test_lightning_moves_a_batch_with_meta():
    batch = collate([sample("a"), sample("b", sensors=("s2",))])
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved["image_s1"].device.type == "meta"
    assert moved["mask"].device.type == "meta"
    assert moved["meta"] == batch["meta"]


def test_meta_is_a_frozen_value_that_travels():
    meta = sample("a")["meta"]
    assert meta.to("cuda", non_blocking=True) is meta
    assert pickle.loads(pickle.dumps(meta)) == meta  # noqa: S301 (our own bytes)
    assert hash(meta) == hash(dataclasses.replace(meta))
    with pytest.raises(dataclasses.FrozenInstanceError):
        meta.id = "b"
    with pytest.raises(TypeError):
        PatchMeta("a")  # facts are named
    unknown = {f.name for f in dataclasses.fields(PatchMeta) if getattr(meta, f.name) is None}
    assert {"lon", "lat", "crs", "transform", "date_s1", "date_s2", "orbit_s1"} <= unknown


def test_every_key_is_documented():
    assert set(sample()) <= set(SAMPLE_KEYS)
    assert {"label", "bbox_xyxy", "target", "cloud"} <= set(SAMPLE_KEYS)
