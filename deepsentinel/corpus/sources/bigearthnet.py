"""BigEarthNet v1 as published: one folder a patch, single-band files at 10, 20 and 60 m.

S2 folders hold the 12 bands of Level-2A and `*_labels_metadata.json`; S1 folders hold VV and VH in
dB and name their S2 patch as `corresponding_s2_patch`. An S2 patch without S1 is taken without
it, an S1 patch whose S2 is not there alone. Coordinates come from the files: one of the two JSON
dialects calls the lower edge `lly`.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import S1_BANDS, S2_BANDS, Sensor
from deepsentinel.corpus.format import LabelSpec
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
    read_json,
    same_shape,
    subfolders,
    time_in_name,
    unobserved_db,
    utc_time,
)
from deepsentinel.errors import SourceError
from deepsentinel.labels import scheme

LABEL: Final = "labels"
SCHEME: Final = "bigearthnet-43"
LICENCE: Final = "CDLA-Permissive-1.0"
CITATION: Final = "Sumbul et al., BigEarthNet-MM, IEEE GRSM 2021, doi:10.1109/MGRS.2021.3089174"
_S2_NAME = re.compile(r"S2[ABC]_MSIL2A_\d{8}T\d{6}.*_\d+_\d+")
_S1_NAME = re.compile(r"S1[ABC]_IW_GRDH_.*_\d+_\d+")


class BigEarthNet:
    """A folder of BigEarthNet v1 patch folders, or of the two folders (S1, S2) that hold them."""

    KIND: ClassVar[str] = "bigearthnet"
    LOOKS_FOR: ClassVar[str] = (
        "folders S2?_MSIL2A_<time>_<row>_<column> with *_labels_metadata.json (and S1 folders)"
    )

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._skipped: list[Skipped] = []

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the folder holds BigEarthNet patch folders."""
        return any(_metadata(p).is_file() for p in _patch_folders(path))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Folders whose metadata or files cannot be read."""
        return tuple(self._skipped)

    @cached_property
    def facts(self) -> SourceFacts:
        """The two sensors as far as folders of them are there, and the 43 classes."""
        names = [p.name for p in _patch_folders(self._path)]
        bands: dict[Sensor, tuple[str, ...]] = {}
        if any(_S1_NAME.fullmatch(n) for n in names):
            bands["s1"] = S1_BANDS
        if any(_S2_NAME.fullmatch(n) for n in names):
            bands["s2"] = S2_BANDS
        return SourceFacts(
            title="BigEarthNet v1",
            licence=LICENCE,
            citation=CITATION,
            bands=bands,
            labels=(LabelSpec(LABEL, "multilabel", scheme(SCHEME)),),
        )

    def scenes(self) -> list[Scene]:
        """One scene an S2 patch with its S1, then S1 patches whose S2 is not there."""
        self._skipped = []
        folders = list(_patch_folders(self._path))
        radar = self._radar([p for p in folders if _S1_NAME.fullmatch(p.name)])
        found: list[Scene] = []
        for folder in folders:
            if not _S2_NAME.fullmatch(folder.name):
                continue
            try:
                found.append(_scene(folder, radar.pop(folder.name, None)))
            except SourceError as error:
                self._skipped.append(Skipped(name=folder.name, reason=str(error)))
        for s1 in radar.values():
            try:
                found.append(_scene(None, s1))
            except SourceError as error:
                self._skipped.append(Skipped(name=s1.name, reason=str(error)))
        return found

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one patch."""
        s1 = s2 = None
        if "s1" in scene.files:
            folder: Path = scene.files["s1"]
            s1 = np.stack([self._db(folder / f"{folder.name}_{b}.tif", scene) for b in S1_BANDS])
        if "s2" in scene.files:
            folder = scene.files["s2"]
            s2 = {b: Layer(*read_band(folder / f"{folder.name}_{b}.tif")) for b in S2_BANDS}
        return ScenePixels(s1=s1, s2=s2)

    def _db(self, path: Path, scene: Scene) -> NDArray[np.float64]:
        values, transform = read_band(path)
        if transform != scene.grid.transform:
            raise SourceError(f"{path} lies on another grid than its S2 patch.")
        return unobserved_db(same_shape(values, scene.grid, path))

    def _radar(self, folders: list[Path]) -> dict[str, Path]:
        """S1 folders by the name of their S2 patch."""
        found: dict[str, Path] = {}
        for folder in folders:
            try:
                found[str(read_json(_metadata(folder))["corresponding_s2_patch"])] = folder
            except (SourceError, KeyError) as error:
                reason = f"{_metadata(folder).name} does not name its S2 patch: {error}"
                self._skipped.append(Skipped(name=folder.name, reason=reason))
        return found


def class_ids(names: list[str], *, where: str) -> tuple[int, ...]:
    """Ids of CORINE class names as BigEarthNet writes them, sorted.

    Raises:
        SourceError: a name is not in the nomenclature.

    Example:
        >>> class_ids(["Pastures", "Continuous urban fabric"], where="a patch")[0]
        0
    """
    classes = {c.name.casefold(): c.id for c in scheme(SCHEME).classes}
    unknown = [n for n in names if n.casefold() not in classes]
    if unknown:
        raise SourceError(f"{where} has labels {unknown}, which {SCHEME} does not know.")
    return tuple(sorted(classes[n.casefold()] for n in names))


def _patch_folders(path: Path) -> Iterator[Path]:
    """Patch folders in a folder or one level below it."""
    for folder in subfolders(path):
        if _S2_NAME.fullmatch(folder.name) or _S1_NAME.fullmatch(folder.name):
            yield folder
        else:
            inner = subfolders(folder)
            yield from (
                p for p in inner if _S2_NAME.fullmatch(p.name) or _S1_NAME.fullmatch(p.name)
            )


def _scene(optical: Path | None, radar: Path | None) -> Scene:
    named = optical or radar
    if named is None:
        raise SourceError("a scene needs an S1 or an S2 folder.")
    record, files = PatchRecord(id=named.name), {}
    if radar is not None:
        record, files["s1"] = _radar_facts(record, radar), radar
    if optical is not None:
        record, files["s2"] = _optical_facts(record, optical), optical
    band = "B02" if optical is not None else "VV"
    grid, _ = read_header(named / f"{named.name}_{band}.tif")
    return Scene(record=record, grid=grid, files=files)


def _optical_facts(record: PatchRecord, folder: Path) -> PatchRecord:
    facts = read_json(_metadata(folder))
    product = str(facts.get("tile_source", "")).removesuffix(".SAFE") or None
    stated = None if product is None else offset_of_product(product)
    date = facts.get("acquisition_date")
    return replace(
        record,
        date_s2=time_in_name(folder.name) if date is None else utc_time(str(date)),
        product_s2=product,
        level_s2="L2A",
        boa_offset=0 if stated is None else stated,  # all of v1 is of 2017 and 2018
        boa_offset_source="source" if stated is None else "product-name",
        labels={LABEL: class_ids(facts.get("labels", []), where=folder.name)},
    )


def _radar_facts(record: PatchRecord, folder: Path) -> PatchRecord:
    facts = read_json(_metadata(folder))
    time = facts.get("acquisition_time")
    return replace(
        record,
        date_s1=time_in_name(folder.name) if time is None else utc_time(str(time)),
        product_s1=facts.get("scene_source"),
        level_s1="GRD",
        labels={LABEL: class_ids(facts.get("labels", []), where=folder.name)},
    )


def _metadata(folder: Path) -> Path:
    return folder / f"{folder.name}_labels_metadata.json"
