"""Test patches of OTBTF: small chips stacked along the rows of one image, with a class each.

`*_B4328_10m_patches_*` holds 16x16 px chips of B04 B03 B02 B08 as 8 bit, `*_labels_*` one class id
a chip. How 16 bits became 8 is not published: without `s2_range`, which says what 0 and 255 stand
for, nothing is converted. (0, 1), that is reflectance = value / 255, agrees with how dark water and
vegetation are in them: medians 0.047 0.051 0.035 0.157. `s2_20m_patches_*` cannot be converted:
the order of its six bands is not published either.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

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
from deepsentinel.corpus.sources.files import read_raster
from deepsentinel.errors import SourceError
from deepsentinel.labels import Scheme
from deepsentinel.labels.classes import rows_to_classes
from deepsentinel.units import REFLECTANCE_SCALE

BANDS: Final = ("B04", "B03", "B02", "B08")
LABEL: Final = "class"
_COLOURS: Final = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377")
_PATTERN: Final = "*B4328_10m_patches_*"


@dataclass(frozen=True)
class _Stack:
    chips: NDArray[np.uint8]
    """(n, bands, size, size)."""
    classes: NDArray[Any]
    """(n,)."""


class Otbtf:
    """A folder with stacked chips and their labels."""

    KIND: ClassVar[str] = "otbtf"
    LOOKS_FOR: ClassVar[str] = "*_B4328_10m_patches_* and the *_labels_* beside it"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._range = options.s2_range

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether stacked 10 m chips are there."""
        return bool(_stacks(path))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The 20 m chips, whose band order nobody published."""
        return tuple(
            Skipped(
                name=p.name,
                reason="the order of its six bands is not published, so that no band has a name",
            )
            for p in sorted(self._path.glob("*s2_20m_patches_*"))
        )

    @property
    def facts(self) -> SourceFacts:
        """Four S2 bands and six classes without names."""
        rows = [(i, f"class {i}", colour) for i, colour in enumerate(_COLOURS)]
        classes = Scheme(
            name="otbtf",
            title="OTBTF test classes (published as ids only)",
            classes=rows_to_classes(rows),
            source="https://github.com/remicres/otbtf",
        )
        return SourceFacts(
            title="OTBTF test patches",
            licence="Apache-2.0",
            citation="Cresson, OTBTF, IEEE GRSL 2019, doi:10.1109/LGRS.2018.2867949",
            bands={"s2": BANDS},
            labels=(LabelSpec(LABEL, "label", classes),),
        )

    def scenes(self) -> list[Scene]:
        """One scene a chip.

        Raises:
            SourceError: `s2_range` was not given.
        """
        if self._range is None:
            raise SourceError(
                f"{self._path}: these chips are 8-bit and how they were scaled is not published. "
                "Pass s2_range=(LO, HI) (--s2-range LO HI), the reflectance that 0 and 255 stand "
                "for; (0, 1) agrees with how dark their water and vegetation are."
            )
        found: list[Scene] = []
        for path, stack in self._stacks.items():
            size = stack.chips.shape[-1]
            for row, label in enumerate(stack.classes):
                record = PatchRecord(
                    id=f"{path.stem}_{row:05d}",
                    boa_offset=0,
                    boa_offset_source="given",
                    labels={LABEL: int(label)},
                )
                files = {"path": path, "row": row}
                found.append(Scene(record=record, grid=Grid((size, size)), files=files))
        return found

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one chip; digital numbers are fractions of 10,000."""
        if self._range is None:
            raise SourceError("s2_range was not given.")
        low, high = self._range
        chip = self._stacks[scene.files["path"]].chips[scene.files["row"]]
        dn = (low + chip / 255 * (high - low)) * REFLECTANCE_SCALE
        return ScenePixels(s2={b: Layer(_observed(dn[i])) for i, b in enumerate(BANDS)})

    @cached_property
    def _stacks(self) -> dict[Path, _Stack]:
        return {path: _read(path) for path in _stacks(self._path)}


def _observed(dn: NDArray[Any]) -> NDArray[np.float64]:
    """Digital numbers in which 0 is a dark pixel, not no data: 1 is the darkest that can be told."""
    darkest: NDArray[np.float64] = np.maximum(np.rint(dn), 1)
    return darkest


def _stacks(path: Path) -> list[Path]:
    return sorted(path.glob(_PATTERN)) if path.is_dir() else []


def _read(path: Path) -> _Stack:
    values = read_raster(path).values
    bands, rows, size = values.shape
    if bands != len(BANDS) or rows % size or values.dtype != np.uint8:
        raise SourceError(
            f"{path} is {values.dtype} {values.shape}; expected {len(BANDS)} bands of 8 bit, "
            "square chips stacked along the rows."
        )
    chips = values.reshape(bands, rows // size, size, size).transpose(1, 0, 2, 3)
    pattern = path.stem.replace("_patches_", "_labels_")
    labels = sorted(path.parent.glob(f"{pattern}.*"))
    if not labels:
        raise SourceError(f"{path} has no labels beside it ({pattern}.tif).")
    classes = read_raster(labels[0]).values[0].ravel()
    if len(classes) != len(chips):
        raise SourceError(f"{labels[0]} holds {len(classes)} labels for {len(chips)} chips.")
    return _Stack(chips, classes)
