"""One patch on its way into or out of a corpus: `PatchRecord` (facts) and `PatchPixels` (codes)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import Sensor

LabelValue = int | tuple[int, ...] | tuple[float, ...] | tuple[tuple[float, ...], ...]
"""What the index holds for one label: a class id (`label`), class ids present (`multilabel`),
values (`target` of a patch), or boxes as (x0, y0, x1, y1, class id) rows (`boxes`)."""

OffsetSource = Literal["product-name", "metadata", "given", "detected", "source"]
"""How the baseline offset was known; `source` = the kind of source never carries one."""


@dataclass(frozen=True, kw_only=True)
class PatchRecord:
    """Facts of one patch, a row of the index. What is not known is `None`."""

    id: str
    """Unique in the corpus; contains the source's own name."""
    lon: float | None = None
    lat: float | None = None
    crs: str | None = None
    """Such as `EPSG:32633`; WKT where there is no code."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """Affine (a, b, c, d, e, f) of the patch's own pixel grid."""
    split: str | None = None
    date_s1: datetime | None = None
    """UTC, timezone-aware."""
    date_s2: datetime | None = None
    """UTC, timezone-aware."""
    orbit_s1: str | None = None
    """`ascending` or `descending`."""
    product_s1: str | None = None
    product_s2: str | None = None
    level_s1: str | None = None
    """`GRD` or `RTC`."""
    level_s2: str | None = None
    """`L1C` or `L2A`."""
    boa_offset: int | None = None
    """Offset that the source's digital numbers carried (-1000 or 0); codes never carry another."""
    boa_offset_source: OffsetSource | None = None
    boa_offset_confidence: float | None = None
    """0 to 1, for `detected`."""
    cloud_percent: float | None = None
    labels: Mapping[str, LabelValue] = field(default_factory=dict)
    """By label name; a label that is not known for this patch is left out."""


@dataclass(frozen=True, kw_only=True)
class PatchPixels:
    """Pixels of one patch as the corpus stores them."""

    s1: NDArray[np.int16] | None = None
    """(bands, H, W), dB x 100, -32768 = not observed; `None` = sensor absent."""
    s2: NDArray[np.uint16] | None = None
    """(bands, H, W), reflectance = (code - 1000) / 10000, 0 = not observed; `None` = absent."""
    rasters: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Masks (H, W) int16 with -1 = ignore, pixel targets (K, H, W) float32, `cloud` (H, W) uint8,
    `dem` (H, W) float32, by name."""

    def sensor(self, sensor: Sensor) -> NDArray[Any] | None:
        """Codes of one sensor."""
        return self.s1 if sensor == "s1" else self.s2
