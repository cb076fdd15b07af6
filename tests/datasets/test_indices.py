"""EVI against a slow loop; the target of a sample."""

import numpy as np
import pytest
import torch

from deepsentinel.bands import S2_BANDS
from deepsentinel.datasets.indices import EviTarget, evi
from deepsentinel.errors import BandError, SampleError
from deepsentinel.sample import PatchMeta, collate


@pytest.mark.parametrize("shape", [(), (3,)])
def test_evi_is_the_slow_loop(rng, shape) -> None:
    s2 = rng.uniform(0, 0.6, (*shape, 12, 4, 5))
    s2[rng.random(s2.shape) < 0.05] = np.nan
    found = evi(torch.from_numpy(s2)).numpy()
    for place in np.ndindex(*shape, 4, 5):
        *patch, i, j = place
        blue, red, near = (s2[(*patch, S2_BANDS.index(b), i, j)] for b in ("B02", "B04", "B08"))
        wanted = 2.5 * (near - red) / (near + 6 * red - 7.5 * blue + 1)
        np.testing.assert_allclose(found[place], wanted)


def test_bands_in_any_order() -> None:
    s2 = torch.rand(12, 3, 3)
    names = ("B08", "B11", "B02", "B04")
    few = s2[[S2_BANDS.index(b) for b in names]]
    assert torch.equal(evi(few, names), evi(s2))
    with pytest.raises(
        BandError, match=r"needs B02 B04 B08; B02 missing in bands=\('B04', 'B08'\)"
    ):
        evi(few[:2], ("B04", "B08"))
    with pytest.raises(BandError, match="4 channels, bands names 12"):
        evi(few)


def test_the_target_of_a_sample() -> None:
    s2 = torch.full((12, 2, 2), 0.1)
    s2[S2_BANDS.index("B08")] = 0.4
    s2[S2_BANDS.index("B02"), 0, 0] = 0.26  # the divisor is all but 0
    s2[S2_BANDS.index("B04"), 0, 1] = torch.nan
    meta = PatchMeta(id="a", bands_s1=("VV", "VH"), bands_s2=S2_BANDS)
    sample = {"meta": meta, "image_s1": torch.zeros(2, 2, 2), "image_s2": s2}
    out = EviTarget()(sample)
    assert out["target"].shape == (1, 2, 2)
    assert out["target"].dtype == torch.float32
    assert out["target"].isnan()[0].tolist() == [[True, True], [False, False]]
    assert out["target"][0, 1, 1].item() == pytest.approx(2.5 * 0.3 / (0.4 + 0.6 - 0.75 + 1))
    assert "image_s2" not in out
    assert out["meta"].bands_s2 == ()
    assert sample["meta"].bands_s2 == S2_BANDS
    assert "image_s2" in sample
    assert "image_s2" in EviTarget(keep_s2=True)(sample)
    assert EviTarget(limit=1e9)(sample)["target"].isnan().sum() == 1
    assert collate([out, out])["target"].shape == (2, 1, 2, 2)


def test_without_sentinel_2_or_with_another_target() -> None:
    with pytest.raises(SampleError, match=r"holds \['image_s1'\]"):
        EviTarget()({"image_s1": torch.zeros(2, 2, 2)})
    with pytest.raises(SampleError, match="target"):
        EviTarget()({"image_s2": torch.zeros(12, 2, 2), "target": torch.zeros(1, 2, 2)})
