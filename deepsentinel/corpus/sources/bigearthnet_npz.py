"""Many BigEarthNet v1 S2 patches in one NumPy archive, as `bigearthnet/s2_scene/patches.npz`.

Arrays: `bands_10m` (n, 4, 120, 120) B02 B03 B04 B08, `bands_20m` (n, 6, 60, 60) B05 B06 B07 B8A
B11 B12, `bands_60m` (n, 2, 20, 20) B01 B09, `labels` (n, classes) bool, `classes`, `upper_left`
(n, 2) metres and `ids`. The archive does not say in which coordinate system `upper_left` is: an
array `crs` may; the one scene known without it is T34VER of 2017-06-13, EPSG:32634.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final
from zipfile import BadZipFile

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from deepsentinel.bands import S2_BANDS
from deepsentinel.corpus.format import LabelSpec
from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.sources.base import (
    Grid,
    Layer,
    Scene,
    ScenePixels,
    Skipped,
    SourceFacts,
    SourceOptions,
)
from deepsentinel.corpus.sources.bigearthnet import CITATION, LABEL, LICENCE, SCHEME, class_ids
from deepsentinel.corpus.sources.files import time_in_name
from deepsentinel.errors import SourceError
from deepsentinel.labels import scheme

_FILE: Final = "patches.npz"
_BANDS: Final = {
    "bands_10m": ("B02", "B03", "B04", "B08"),
    "bands_20m": ("B05", "B06", "B07", "B8A", "B11", "B12"),
    "bands_60m": ("B01", "B09"),
}
_ARRAYS: Final = (*_BANDS, "labels", "classes", "upper_left", "ids")
_CRS_OF_SCENE: Final = {"S2A_MSIL2A_20170613T101032": "EPSG:32634"}


@dataclass(frozen=True)
class _Archive:
    arrays: dict[str, NDArray[Any]]

    def crs(self, patch_id: str) -> str | None:
        if "crs" in self.arrays:
            return str(self.arrays["crs"])
        return _CRS_OF_SCENE.get(patch_id.rsplit("_", 2)[0])


class BigEarthNetNpz:
    """A folder with `patches.npz`, or that file."""

    KIND: ClassVar[str] = "bigearthnet-npz"
    LOOKS_FOR: ClassVar[str] = (
        "patches.npz with arrays bands_10m, bands_20m, bands_60m, labels, ids"
    )

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path if path.is_file() else path / _FILE

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the archive is there."""
        return path.name == _FILE or (path / _FILE).is_file()

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Nothing: the archive is whole or an error."""
        return ()

    @property
    def facts(self) -> SourceFacts:
        """S2 only, with the 43 classes."""
        return SourceFacts(
            title="BigEarthNet v1, S2 patches of one scene",
            licence=LICENCE,
            citation=CITATION,
            bands={"s2": S2_BANDS},
            labels=(LabelSpec(LABEL, "multilabel", scheme(SCHEME)),),
        )

    @cached_property
    def _archive(self) -> _Archive:
        try:
            with self._path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, BadZipFile) as error:
            raise SourceError(f"{self._path} is no readable NumPy archive ({error}).") from error
        missing = [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise SourceError(f"{self._path} lacks {missing}; it holds {sorted(arrays)}.")
        return _Archive(arrays)

    def scenes(self) -> list[Scene]:
        """One scene a patch, in the order of the archive."""
        return [self._scene(i) for i in range(len(self._archive.arrays["ids"]))]

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one patch."""
        row = scene.files["row"]
        layers: dict[str, Layer] = {}
        for name, bands in _BANDS.items():
            for i, band in enumerate(bands):
                layers[band] = Layer(self._archive.arrays[name][row, i])
        return ScenePixels(s2={band: layers[band] for band in S2_BANDS})

    def _scene(self, row: int) -> Scene:
        arrays = self._archive.arrays
        patch_id = str(arrays["ids"][row])
        left, top = (float(v) for v in arrays["upper_left"][row])
        crs = self._archive.crs(patch_id)
        shape = arrays["bands_10m"].shape[-2:]
        grid = Grid(shape, None if crs is None else Affine(10, 0, left, 0, -10, top), crs)
        present = [str(c) for c in arrays["classes"][arrays["labels"][row]]]
        record = PatchRecord(
            id=patch_id,
            date_s2=time_in_name(patch_id),
            level_s2="L2A",
            boa_offset=0,
            boa_offset_source="source",  # all of v1 is of 2017 and 2018
            labels={LABEL: class_ids(present, where=patch_id)},
        )
        return Scene(record=record, grid=grid, files={"row": row})
