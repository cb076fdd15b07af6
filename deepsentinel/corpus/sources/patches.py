"""Patches out of scenes: which tiles there are, and the codes of one tile.

Bands are brought to 10 m for the whole scene before tiles are cut, so that tiles meet without a
seam. Bands that are at 10 m already are never touched: their digital numbers pass as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from deepsentinel.corpus.codes import CLOUD_UNKNOWN, encode_s1, encode_s2_dn
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.resample import Method, resample
from deepsentinel.corpus.sources.base import Grid, Layer, Scene, ScenePixels, Source
from deepsentinel.errors import LabelError, SourceError

_CLOUDS = (1, 2)
"""Thick and thin cloud of `CLOUD_CLASSES`; shadow is not cloud."""


@dataclass(frozen=True, kw_only=True)
class PlannedPatch:
    """One patch to be made: its facts, and where it lies in its scene."""

    record: PatchRecord
    scene: Scene
    row: int
    column: int
    size: int


def plan_patches(scene: Scene, size: int) -> list[PlannedPatch]:
    """Full tiles of a scene, row by row; a scene of just this size is one patch of its name.

    Example:
        >>> scene = Scene(record=PatchRecord(id="cell"), grid=Grid((5, 4)))
        >>> [p.record.id for p in plan_patches(scene, 2)]
        ['cell_0_0', 'cell_0_1', 'cell_1_0', 'cell_1_1']
    """
    height, width = scene.grid.shape
    whole = scene.grid.shape == (size, size)
    planned: list[PlannedPatch] = []
    for i in range(height // size):
        for j in range(width // size):
            name = scene.record.id if whole else f"{scene.record.id}_{i}_{j}"
            record = _placed(
                replace(scene.record, id=name), scene.grid.window(i * size, j * size, size)
            )
            planned.append(
                PlannedPatch(record=record, scene=scene, row=i * size, column=j * size, size=size)
            )
    return planned


def _placed(record: PatchRecord, grid: Grid) -> PatchRecord:
    lon, lat = grid.centre()
    if lon is None or lat is None or grid.transform is None:
        return record  # it may know its longitude and latitude all the same
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    return replace(record, lon=lon, lat=lat, crs=grid.crs, transform=(a, b, c, d, e, f))


class PatchReader:
    """Codes of planned patches; keeps the last scene, as its tiles come one after another."""

    def __init__(self, source: Source, *, resampling: Method) -> None:
        self._source = source
        self._method = resampling
        self._bands = source.facts.bands
        self._scene: Scene | None = None
        self._codes = PatchPixels()

    def read(self, planned: PlannedPatch) -> PatchPixels:
        """Codes of one patch.

        Raises:
            SourceError: its files cannot be read, or its offset is not known.
        """
        if planned.scene is not self._scene:
            self._scene = None
            self._codes = self._encode(planned)
            self._scene = planned.scene
        rows = slice(planned.row, planned.row + planned.size)
        columns = slice(planned.column, planned.column + planned.size)
        return PatchPixels(
            s1=_cut(self._codes.s1, rows, columns),
            s2=_cut(self._codes.s2, rows, columns),
            rasters={n: v[..., rows, columns].copy() for n, v in self._codes.rasters.items()},
        )

    def _encode(self, planned: PlannedPatch) -> PatchPixels:
        scene = planned.scene
        pixels = load_scene(self._source, scene)
        s1 = None if pixels.s1 is None else encode_s1(pixels.s1)
        s2 = None
        if pixels.s2 is not None:
            offset = planned.record.boa_offset
            if offset is None:
                raise SourceError(f"the baseline offset of {scene.record.id} is not known.")
            bands = self._bands["s2"]
            s2 = encode_s2(pixels.s2, bands, scene.grid, offset=offset, method=self._method)
        return PatchPixels(s1=s1, s2=s2, rasters=pixels.rasters)


def load_scene(source: Source, scene: Scene) -> ScenePixels:
    """Pixels of one scene.

    Raises:
        SourceError: a file cannot be read, or a mask holds codes that its scheme does not know.
    """
    try:
        return source.load(scene)
    except LabelError as error:
        raise SourceError(f"{scene.record.id}: {error}") from error


def encode_s2(
    layers: Mapping[str, Layer],
    bands: Sequence[str],
    grid: Grid,
    *,
    offset: int,
    method: Method,
) -> NDArray[np.uint16]:
    """Codes (bands, H, W) on the grid; a band that is not among the layers is not observed."""
    codes = np.zeros((len(bands), *grid.shape), dtype=np.uint16)
    for i, band in enumerate(bands):
        if band in layers:
            codes[i] = encode_s2_dn(_on_grid(layers[band], grid, method), offset=offset)
    return codes


def _on_grid(layer: Layer, grid: Grid, method: Method) -> NDArray[Any]:
    """Whole digital numbers on the grid; 0 = not observed."""
    dn = layer.dn
    own = layer.transform or _spanning(dn.shape, grid)
    target = grid.transform or Affine.identity()
    if dn.shape == grid.shape and own.almost_equals(target):
        return _whole(dn.astype(np.float64)) if dn.dtype.kind == "f" else dn
    values = np.where(dn == 0, np.nan, dn.astype(np.float64))
    return _whole(resample(values, own, target, grid.shape, method=method))


def _spanning(shape: tuple[int, ...], grid: Grid) -> Affine:
    """Transform of a raster that spans the grid's area with its own number of pixels."""
    across, down = grid.shape[1] / shape[-1], grid.shape[0] / shape[-2]
    a, b, c, d, e, f = tuple(grid.transform or Affine.identity())[:6]
    return Affine(a * across, b * down, c, d * across, e * down, f)


def _whole(dn: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rounded digital numbers; NaN becomes 0, and nothing observed does."""
    observed = np.isfinite(dn) & (dn != 0)
    rounded = np.rint(np.where(observed, dn, 0)).astype(np.int64)
    return np.where(observed & (rounded == 0), 1, rounded)


def _cut(codes: NDArray[Any] | None, rows: slice, columns: slice) -> NDArray[Any] | None:
    return None if codes is None else np.ascontiguousarray(codes[:, rows, columns])


def scene_dn(pixels: ScenePixels) -> dict[str, NDArray[Any]]:
    """Digital numbers of a scene by band, each at its own resolution."""
    return {} if pixels.s2 is None else {b: layer.dn for b, layer in pixels.s2.items()}


def with_cloud_share(record: PatchRecord, pixels: PatchPixels) -> PatchRecord:
    """The record with the share of cloud in the patch's own mask, in percent of what it knows.

    Example:
        >>> clouds = {"cloud": np.array([[0, 1], [2, 255]], dtype=np.uint8)}
        >>> record = with_cloud_share(PatchRecord(id="a"), PatchPixels(rasters=clouds))
        >>> record.cloud_percent
        66.67
    """
    clouds = pixels.rasters.get("cloud")
    known = None if clouds is None else clouds[clouds != CLOUD_UNKNOWN]
    if known is None or known.size == 0:
        return record
    share = np.isin(known, _CLOUDS).mean() * 100
    return replace(record, cloud_percent=round(float(share), 2))
