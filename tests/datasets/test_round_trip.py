"""Real files through `convert` and `DeepSentinelDataset`: every pixel is what rasterio reads."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from deepsentinel.corpus.convert import convert
from deepsentinel.datasets.dataset import DeepSentinelDataset

NATIVE_10M = ("B02", "B03", "B04", "B08")


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def to_dn(reflectance: np.ndarray, offset: int) -> np.ndarray:
    """Digital numbers of the source from what the dataset gave."""
    return np.rint(reflectance.astype(float) * 10_000).astype(int) - offset


@pytest.mark.parametrize("offset", [0, -1000])
def test_terramesh(shared_data, tmp_path, offset):
    source = shared_data / "terramesh"
    convert(source, tmp_path / "c", boa_offset=offset)
    dataset = DeepSentinelDataset(tmp_path / "c", None, clouds="keep")
    assert len(dataset) == 4
    for sample in dataset:
        stem = next(p.stem for p in (source / "S1RTC").iterdir() if p.stem in sample["meta"].id)
        db = pixels(source / "S1RTC" / f"{stem}.tif")
        unseen = ~np.isfinite(db)
        assert np.array_equal(sample["image_s1"].isnan().numpy(), unseen)
        assert np.abs(sample["image_s1"].numpy() - db)[~unseen].max() <= 0.00501
        dn = pixels(source / "S2L2A" / f"{stem}.tif").astype(int)
        seen = dn != 0
        assert np.array_equal(sample["image_s2"].isfinite().numpy(), seen)
        stored = np.maximum(to_dn(sample["image_s2"].nan_to_num().numpy(), offset), 0)
        assert np.array_equal(stored[seen], np.maximum(dn, 1 if offset else 0)[seen])
        with rasterio.open(source / "S2L2A" / f"{stem}.tif") as file:
            assert sample["meta"].transform == pytest.approx(tuple(file.transform)[:6])


def test_bigearthnet_pairs_at_native_bands(shared_data, tmp_path):
    source = shared_data / "bigearthnet" / "pairs"
    convert(source, tmp_path / "c")
    dataset = DeepSentinelDataset(tmp_path / "c", None, bands=("VH", "VV", *NATIVE_10M[::-1]))
    assert len(dataset) == 3
    for sample in dataset:
        place = "_".join(sample["meta"].id.split("_")[-2:])
        (s2,) = source.glob(f"S2*_{place}")
        (s1,) = source.glob(f"S1*_{place}")
        for band, image in zip(sample["meta"].bands_s2, sample["image_s2"].numpy(), strict=True):
            (dn,) = pixels(s2 / f"{s2.name}_{band}.tif").astype(int)
            assert np.array_equal(np.isnan(image), dn == 0)
            assert np.array_equal(to_dn(np.nan_to_num(image), 0)[dn != 0], dn[dn != 0])
        for band, image in zip(sample["meta"].bands_s1, sample["image_s1"].numpy(), strict=True):
            (db,) = pixels(s1 / f"{s1.name}_{band}.tif")
            assert np.nanmax(np.abs(image - db)) <= 0.00501
