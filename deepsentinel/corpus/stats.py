"""Statistics of a corpus, band by band, in physical units.

Codes have 16 bits, so a histogram of them keeps everything: what is computed from it is exact
however many patches there are, and needs one pass.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import Sensor
from deepsentinel.corpus.codes import NOT_OBSERVED
from deepsentinel.corpus.decode import to_physical
from deepsentinel.corpus.protocol import PatchSource
from deepsentinel.errors import SplitError
from deepsentinel.units import looks_offset

VISIBLE = ("B02", "B03", "B04")
_CODES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class BandStats:
    """One band over all its observed pixels: dB for Sentinel-1, reflectance for Sentinel-2.

    NaN where no pixel was observed.
    """

    sensor: Sensor
    band: str
    patches: int
    """Patches that hold the sensor."""
    mean: float
    std: float
    """Of the population."""
    minimum: float
    p1: float
    """1st percentile."""
    p50: float
    """Median."""
    p99: float
    """99th percentile."""
    maximum: float
    nan_share: float
    """Share of pixels that were not observed, in the patches that hold the sensor."""


@dataclass(frozen=True, kw_only=True)
class CorpusStats:
    """Statistics of a corpus or of one split."""

    name: str
    """Of the corpus."""
    split: str | None
    patches: int
    """Patches that were read."""
    bands: tuple[BandStats, ...]
    offset_suspects: float | None
    """Share of Sentinel-2 patches so bright throughout in the visible that a baseline offset may be
    left in (haze, snow and bright ground look the same); `None` without the visible bands."""

    def to_json(self) -> dict[str, Any]:
        """The statistics as a value that `json` can write; NaN becomes `None`."""
        value = asdict(self)
        value["bands"] = [
            {k: None if v != v else v for k, v in band.items()}  # noqa: PLR0124 - only NaN differs
            for band in value["bands"]
        ]
        return value


def corpus_stats(
    corpus: PatchSource,
    *,
    split: str | None = None,
    max_patches: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CorpusStats:
    """Mean, spread, percentiles and share of NaN of every band.

    Args:
        corpus: the corpus.
        split: only patches of this split.
        max_patches: at most so many, drawn without replacement; all for `None`.
        seed: of the draw.
        progress: called with (patches read, patches to read) after each.

    Raises:
        SplitError: there is no such split, or it holds no patch.

    Example:
        >>> import tempfile
        >>> from deepsentinel.corpus.format import CorpusInfo
        >>> from deepsentinel.corpus.patch import PatchPixels, PatchRecord
        >>> from deepsentinel.corpus.read import Corpus
        >>> from deepsentinel.corpus.write import CorpusWriter
        >>> info = CorpusInfo(
        ...     name="tiny", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=16, resolution_m=10
        ... )
        >>> root = tempfile.mkdtemp()
        >>> with CorpusWriter(root, info) as writer:
        ...     writer.add(PatchRecord(id="a"), PatchPixels(s1=np.full((1, 16, 16), -1250, np.int16)))
        >>> corpus_stats(Corpus(root)).bands[0].mean
        -12.5
    """
    numbers = _draw(corpus, split, max_patches, seed)
    counts = _Counts(corpus)
    for place, number in enumerate(numbers.tolist()):
        counts.add(number)
        if progress is not None:
            progress(place + 1, len(numbers))
    return CorpusStats(
        name=corpus.info.name,
        split=split,
        patches=len(numbers),
        bands=counts.bands(),
        offset_suspects=counts.suspects(),
    )


def _draw(
    corpus: PatchSource, split: str | None, max_patches: int | None, seed: int
) -> NDArray[np.int64]:
    numbers = corpus.rows(split)
    if not len(numbers):
        raise SplitError(f"corpus {corpus.info.name!r} holds no patch (split={split!r}).")
    if max_patches is None or max_patches >= len(numbers):
        return numbers
    drawn = np.random.default_rng(seed).choice(numbers, max(1, max_patches), replace=False)
    return np.sort(drawn)


class _Counts:
    """Histograms of the codes of every band."""

    def __init__(self, corpus: PatchSource) -> None:
        self.corpus = corpus
        info = corpus.info
        self.histograms = {
            s: np.zeros((len(info.bands[s]), _CODES), np.int64) for s in info.sensors
        }
        self.held = dict.fromkeys(info.sensors, 0)
        bands = info.bands.get("s2", ())
        self.visible = [bands.index(b) for b in VISIBLE] if set(VISIBLE) <= set(bands) else []
        self.suspected = 0

    def add(self, number: int) -> None:
        pixels = self.corpus.read(number)
        for sensor, histogram in self.histograms.items():
            codes = pixels.sensor(sensor)
            if codes is None:
                continue
            self.held[sensor] += 1
            for k, plane in enumerate(codes):
                histogram[k] += np.bincount(plane.view(np.uint16).ravel(), minlength=_CODES)
        if self.visible and pixels.s2 is not None:
            self.suspected += looks_offset(_physical("s2", pixels.s2[self.visible]))

    def bands(self) -> tuple[BandStats, ...]:
        return tuple(
            _band_stats(sensor, band, self.held[sensor], histogram)
            for sensor, histograms in self.histograms.items()
            for band, histogram in zip(self.corpus.info.bands[sensor], histograms, strict=True)
        )

    def suspects(self) -> float | None:
        return self.suspected / self.held["s2"] if self.visible and self.held["s2"] else None


def _physical(sensor: Sensor, codes: NDArray[Any]) -> NDArray[np.float32]:
    values = np.empty(codes.shape, np.float32)
    to_physical(sensor, codes, values)
    values[codes == NOT_OBSERVED[sensor]] = np.nan
    return values


def _band_stats(sensor: Sensor, band: str, patches: int, histogram: NDArray[np.int64]) -> BandStats:
    codes = np.arange(_CODES, dtype=np.uint16).view(np.int16 if sensor == "s1" else np.uint16)
    order = np.argsort(codes)
    values = _physical(sensor, codes[order]).astype(np.float64)
    observed = np.isfinite(values)
    counts = histogram[order] * observed
    values = np.where(observed, values, 0.0)
    total, pixels = int(counts.sum()), int(histogram.sum())
    nan_share = 1 - total / pixels if pixels else float("nan")
    if total == 0:
        low = p1 = p50 = p99 = high = mean = std = float("nan")
    else:
        mean = float((values * counts).sum() / total)
        std = float(np.sqrt(((values - mean) ** 2 * counts).sum() / total))
        low, p1, p50, p99, high = _percentiles(values, counts, (0, 1, 50, 99, 100))
    return BandStats(
        sensor=sensor,
        band=band,
        patches=patches,
        mean=mean,
        std=std,
        minimum=low,
        p1=p1,
        p50=p50,
        p99=p99,
        maximum=high,
        nan_share=nan_share,
    )


def _percentiles(
    values: NDArray[np.float64], counts: NDArray[np.int64], wanted: tuple[float, ...]
) -> list[float]:
    """Percentiles of values that occur `counts` times, linear between neighbours as in NumPy."""
    ends = np.cumsum(counts)
    places = np.array(wanted) / 100 * (ends[-1] - 1)
    below, above = np.floor(places), np.ceil(places)
    low = values[np.searchsorted(ends, below, side="right")]
    high = values[np.searchsorted(ends, above, side="right")]
    found: list[float] = (low + (high - low) * (places - below)).tolist()
    return found
