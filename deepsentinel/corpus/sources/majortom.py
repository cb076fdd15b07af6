"""Major TOM cells: one folder a Sentinel-2 product, single-band files, and a cloud mask.

The folder is called after the product, whose name states baseline and time. `cloud_mask` holds
the classes of SEnSeI v2: 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow (Francis 2024,
arXiv:2406.08627), which are those of a corpus.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import S2_BANDS, S2_L1C_BANDS
from deepsentinel.corpus.codes import CLOUD_CLASSES, CLOUD_UNKNOWN
from deepsentinel.corpus.offset import offset_of_product
from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.sources.base import (
    Layer,
    Scene,
    ScenePixels,
    Skipped,
    SourceFacts,
    SourceOptions,
)
from deepsentinel.corpus.sources.files import (
    read_band,
    read_header,
    same_shape,
    subfolders,
    time_in_name,
)
from deepsentinel.errors import SourceError

_PRODUCT = re.compile(r"S2[ABC]_MSI(L1C|L2A)_\d{8}T\d{6}_.*")
_CLOUDS: Final = "cloud_mask.tif"
_NATIVE_10M: Final = "B02"


class MajorTom:
    """A folder of product folders, or one of them."""

    KIND: ClassVar[str] = "majortom"
    LOOKS_FOR: ClassVar[str] = (
        "product folders S2?_MSIL2A_<time>_N<baseline>_... with B01.tif to B12.tif"
    )

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._skipped: list[Skipped] = []

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether there is a product folder with single-band files."""
        return bool(_products(path))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Products whose files cannot be opened."""
        return tuple(self._skipped)

    @cached_property
    def facts(self) -> SourceFacts:
        """S2 bands of the first product's level, and the cloud mask where there is one."""
        products = _products(self._path)
        l1c = any((p / "B10.tif").is_file() for p in products)
        return SourceFacts(
            title="Major TOM S2 cells",
            licence="CC-BY-SA-4.0",
            citation="Francis and Czerkawski, Major TOM, arXiv:2402.12095",
            bands={"s2": S2_L1C_BANDS if l1c else S2_BANDS},
            extras=("cloud",) if any((p / _CLOUDS).is_file() for p in products) else (),
        )

    def scenes(self) -> list[Scene]:
        """One scene a product folder."""
        self._skipped = []
        found: list[Scene] = []
        for folder in _products(self._path):
            try:
                grid, _ = read_header(folder / f"{_NATIVE_10M}.tif")
            except SourceError as error:
                self._skipped.append(Skipped(name=folder.name, reason=str(error)))
                continue
            found.append(Scene(record=_facts(folder.name), grid=grid, files={"folder": folder}))
        return found

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one product folder; a band whose file is not there is not observed."""
        folder: Path = scene.files["folder"]
        paths = {b: folder / f"{b}.tif" for b in self.facts.bands["s2"]}
        s2 = {b: Layer(*read_band(p)) for b, p in paths.items() if p.is_file()}
        rasters: dict[str, NDArray[Any]] = {}
        if (folder / _CLOUDS).is_file():
            values, _ = read_band(folder / _CLOUDS)
            known = np.isin(values, [c for c in CLOUD_CLASSES if c != CLOUD_UNKNOWN])
            clouds = same_shape(values, scene.grid, folder / _CLOUDS)
            rasters["cloud"] = np.where(known, clouds, CLOUD_UNKNOWN).astype(np.uint8)
        return ScenePixels(s2=s2, rasters=rasters)


def _products(path: Path) -> list[Path]:
    folders = [path, *subfolders(path)]
    return [
        p for p in folders if _PRODUCT.fullmatch(p.name) and (p / f"{_NATIVE_10M}.tif").is_file()
    ]


def _facts(name: str) -> PatchRecord:
    level = _PRODUCT.fullmatch(name)
    offset = offset_of_product(name)
    return PatchRecord(
        id=name,
        date_s2=time_in_name(name),
        product_s2=name,
        level_s2=None if level is None else level[1],
        boa_offset=offset,
        boa_offset_source=None if offset is None else "product-name",
    )
