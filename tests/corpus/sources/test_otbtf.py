"""OTBTF chips: refused without a scale, exact with one; the 20 m chips are named and left out."""

import numpy as np
import pytest

from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.sources import open_source
from deepsentinel.corpus.sources.base import SourceOptions
from deepsentinel.corpus.sources.patches import PatchReader, plan_patches
from deepsentinel.errors import SourceError

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_without_a_scale_nothing_is_claimed(shared_data, tmp_path):
    with pytest.raises(SourceError, match="--s2-range"):
        convert(shared_data / "otbtf", tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_chips(shared_data, pixels):
    folder = shared_data / "otbtf"
    source = open_source(folder, kind=None, options=SourceOptions(s2_range=(0.0, 1.0)))
    scenes = source.scenes()
    stack = pixels(folder / "Sentinel-2_B4328_10m_patches_A.jp2")
    labels = pixels(folder / "Sentinel-2_B4328_10m_labels_A.tif").ravel()
    assert len(scenes) == 3000
    reader = PatchReader(source, resampling="bilinear")
    for k in (0, 17, 2999):
        (planned,) = plan_patches(scenes[k], 16)
        codes = reader.read(planned).s2.astype(float)
        found = (codes - 1000) / 10_000
        np.testing.assert_allclose(found, stack[:, 16 * k : 16 * k + 16] / 255, atol=1.01e-4)
        assert (codes > 0).all()  # 0 is a dark pixel here, not no data
        assert planned.record.labels == {"class": labels[k]}
        assert planned.record.lon is None
    (left_out,) = source.skipped
    assert "s2_20m_patches_A" in left_out.name


def test_corpus_of_chips(shared_data, tmp_path):
    report = convert(shared_data / "otbtf", tmp_path / "corpus", s2_range=(0, 1))
    info = Corpus(tmp_path / "corpus").info
    assert (info.count, info.patch_size, info.bands["s2"]) == (
        3000,
        16,
        ("B04", "B03", "B02", "B08"),
    )
    assert info.splits == {"train": 2100, "val": 450, "test": 450}
    assert any("no position" in note for note in report.notes)
