"""Tiny corpora for the tests of this room."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.labels import LabelClass, Scheme

SIZE = 16


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a power cut it changes nothing, and it takes most of the time of tiny corpora."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


Patch = tuple[PatchRecord, PatchPixels]


@pytest.fixture
def scheme() -> Scheme:
    classes = (
        LabelClass(id=0, name="Water", colour="#0000ff", code=80),
        LabelClass(id=1, name="Tree cover", colour="#00ff00", code=10),
        LabelClass(id=2, name="Built-up", colour="#ff0000", code=50),
    )
    return Scheme(name="tiny", title="Tiny", classes=classes)


@pytest.fixture
def info(scheme: Scheme) -> CorpusInfo:
    """A corpus with every kind of array and label, 16 px, four bands of Sentinel-2."""
    return CorpusInfo(
        name="tiny",
        licence="CC0-1.0",
        sensors=("s1", "s2"),
        bands={"s1": ("VV", "VH"), "s2": ("B02", "B03", "B04", "B8A")},
        labels=(
            LabelSpec("landcover", "mask", scheme),
            LabelSpec("dominant", "label", scheme),
            LabelSpec("present", "multilabel", scheme),
            LabelSpec("things", "boxes", scheme),
            LabelSpec("height", "target", channels=("canopy", "ground")),
            LabelSpec("yield", "target", channels=("wheat",), per_pixel=False),
        ),
        patch_size=SIZE,
        resolution_m=10,
        extras=("cloud", "dem"),
        synthetic=True,
    )


@pytest.fixture
def make_patch() -> Callable[[int], Patch]:
    """Patch number k of the corpus `info` describes, the same on every call.

    Every third lacks s1, every fifth s2 (never both), every fourth all labels.
    """
    return _patch


def _patch(k: int) -> Patch:
    rng = np.random.default_rng(k)
    plane = (SIZE, SIZE)
    s1 = rng.integers(-3000, 500, (2, *plane)).astype(np.int16)
    s2 = rng.integers(1, 9000, (4, *plane)).astype(np.uint16)
    s1[0, :2] = -32768
    if k % 2:
        s2[3, 5:7] = 0
    labelled = k % 4 != 3
    rasters = {
        "landcover": rng.integers(-1, 3, plane).astype(np.int16),
        "height": rng.normal(size=(2, *plane)).astype(np.float32),
        "cloud": rng.integers(0, 4, plane).astype(np.uint8),
        "dem": rng.normal(300, 50, plane).astype(np.float32),
    }
    rasters["height"][0, 0, 0] = np.nan
    labels = {
        "dominant": k % 3,
        "present": (0, 2),
        "things": ((1.0, 2.0, 5.5, 7.0, 2.0), (0.0, 0.0, 3.0, 3.0, 0.0)),
        "yield": (k / 2,),
    }
    pixels = PatchPixels(
        s1=None if k % 3 == 2 else s1,
        s2=None if k % 5 == 4 and k % 3 != 2 else s2,
        rasters=rasters if labelled else {"dem": rasters["dem"]},
    )
    record = PatchRecord(
        id=f"patch-{k:04d}",
        crs="EPSG:32631",
        transform=(10.0, 0.0, 500000.0 + 160 * k, 0.0, -10.0, 5000000.0),
        split=("train", "val", "test", None)[k % 4],
        date_s1=datetime(2021, 7, 1, 5, 30, k % 60, tzinfo=UTC),
        orbit_s1="ascending" if k % 2 else None,
        product_s2=f"S2A_MSIL2A_{k}",
        level_s2="L2A",
        boa_offset=-1000 if k % 2 else 0,
        boa_offset_source="product-name",
        cloud_percent=k / 10,
        labels=labels if labelled else {},
    )
    return record, pixels


@pytest.fixture
def write_corpus(info: CorpusInfo) -> Callable[[Path, range], Path]:
    """Write (or append) the patches of a range into a folder."""

    def write(root: Path, numbers: range) -> Path:
        with CorpusWriter(root, info) as writer:
            for k in numbers:
                writer.add(*_patch(k))
        return root

    return write


@pytest.fixture
def tiny_corpus(tmp_path: Path, write_corpus: Callable[[Path, range], Path]) -> Path:
    """A finished corpus of twelve patches, `make_patch(0)` to `make_patch(11)`."""
    return write_corpus(tmp_path / "tiny", range(12))
