"""The enhanced vegetation index of Sentinel-2, and a transform that makes it the target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from deepsentinel import units
from deepsentinel.bands import DEFAULT_BANDS, resolve_bands
from deepsentinel.errors import BandError, SampleError
from deepsentinel.sample import PatchMeta, Sample

EVI_BANDS: Final = ("B02", "B04", "B08")


def evi(reflectance: Tensor, bands: Sequence[str] = DEFAULT_BANDS["s2"]) -> Tensor:
    """Enhanced vegetation index: 2.5 (B08 - B04) / (B08 + 6 B04 - 7.5 B02 + 1).

    Huete et al., Overview of the radiometric and biophysical performance of the MODIS vegetation
    indices, Remote Sensing of Environment 83, 2002. It is of reflectance: scaled numbers give
    something else, for the 1 does not scale.

    Args:
        reflectance: (..., C, H, W) on the 0-1 scale, NaN where not observed.
        bands: the C bands in their order.

    Returns:
        (..., H, W), NaN where one of the three bands was not observed. Over clouds, snow and water
        the divisor can come near 0, and the index is then of any size.

    Raises:
        BandError: B02, B04 or B08 is missing.

    Example:
        >>> field = torch.tensor([0.03, 0.04, 0.36]).reshape(3, 1, 1)
        >>> evi(field, ("B02", "B04", "B08")).item()
        0.581...
    """
    names = resolve_bands(bands, "s2")
    missing = [b for b in EVI_BANDS if b not in names]
    if missing:
        raise BandError(
            f"the enhanced vegetation index needs {' '.join(EVI_BANDS)}; {' '.join(missing)} missing "
            f"in bands={tuple(bands)}. Read the patch with them."
        )
    if reflectance.shape[-3] != len(names):
        raise BandError(
            f"the tensor has {reflectance.shape[-3]} channels, bands names {len(names)}: "
            f"{tuple(bands)}. Name the bands that it holds."
        )
    blue, red, infrared = (reflectance[..., names.index(b), :, :] for b in EVI_BANDS)
    index: Tensor = units.evi(infrared, red, blue)
    return index


@dataclass(frozen=True)
class EviTarget:
    """Make the vegetation index of Sentinel-2 the `target` of a sample, to be told from Sentinel-1.

    Sentinel-2 leaves the sample then: a model that saw it would have nothing to learn. The task is
    that of SEN12TS, Sentinel-1 to vegetation index.

    Example:
        >>> s2 = torch.tensor([0.03, 0.04, 0.36]).reshape(3, 1, 1)
        >>> meta = PatchMeta(id="a", bands_s2=("B02", "B04", "B08"))
        >>> sample = EviTarget()({"meta": meta, "image_s1": torch.zeros(2, 1, 1), "image_s2": s2})
        >>> sorted(sample), sample["target"].shape
        (['image_s1', 'meta', 'target'], torch.Size([1, 1, 1]))
    """

    limit: float = 1.0
    """What is beyond it, to either side, is not known: clouds and snow, not plants."""
    keep_s2: bool = False
    """Leave Sentinel-2 in the sample."""

    def __call__(self, sample: Sample) -> Sample:
        """The sample with `target` (1, H, W).

        Raises:
            SampleError: it has no Sentinel-2 image, or a target already.
            BandError: B02, B04 or B08 is missing.
        """
        if "image_s2" not in sample or "target" in sample:
            raise SampleError(
                "EviTarget makes the target of image_s2; the sample holds "
                f"{sorted(sample)}. Read it with Sentinel-2 and without another target."
            )
        meta = sample.get("meta")
        named = meta.bands_s2 if isinstance(meta, PatchMeta) else ()
        index = evi(sample["image_s2"], named or DEFAULT_BANDS["s2"])
        known = index.abs() <= self.limit  # NaN is not
        out = {**sample, "target": torch.where(known, index, torch.nan).unsqueeze(0)}
        if not self.keep_s2:
            del out["image_s2"]
            if isinstance(meta, PatchMeta):
                out["meta"] = replace(meta, bands_s2=())
        return out
