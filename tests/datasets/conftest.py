"""Small corpora: a synthetic one, and one in which everything that may be absent is."""

from pathlib import Path

import numpy as np
import pytest

from deepsentinel.corpus.codes import encode_s1, encode_s2_reflectance
from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.labels import Scheme
from deepsentinel.labels.classes import rows_to_classes

SIZE = 16
SCHEME = Scheme(
    name="three",
    title="Three classes",
    classes=rows_to_classes([(0, "a", "#ff0000"), (1, "b", "#00ff00"), (2, "c", "#0000ff")]),
)
LABELS = (
    LabelSpec("cover", "mask", SCHEME),
    LabelSpec("kind", "label", SCHEME),
    LabelSpec("tags", "multilabel", SCHEME),
    LabelSpec("things", "boxes", SCHEME),
    LabelSpec("height", "target", channels=("low", "high")),
    LabelSpec("yield", "target", channels=("wheat",), per_pixel=False),
)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 patches of 32 px: 16 train, 4 val, 4 test."""
    folder = tmp_path_factory.mktemp("synthetic") / "corpus"
    return write_synthetic_corpus(folder, patches=24, patch_size=32, seed=3)


def physical(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """dB (2, 16, 16) and reflectance (13, 16, 16) of one patch, on the grid of the codes."""
    rng = np.random.default_rng(seed)
    db = rng.integers(-2500, -200, (2, SIZE, SIZE)) / 100
    reflectance = rng.integers(-300, 6000, (13, SIZE, SIZE)) / 10_000
    return db.astype(np.float32), reflectance.astype(np.float32)


def cloud_mask() -> np.ndarray:
    cloud = np.zeros((SIZE, SIZE), np.uint8)
    cloud[0], cloud[1], cloud[2], cloud[3] = 1, 2, 3, 255
    return cloud


@pytest.fixture(scope="session")
def ragged_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches `both`, `s1-only` and `s2-only`; 13 bands; every kind of label; one patch bare of them."""
    root = tmp_path_factory.mktemp("ragged") / "corpus"
    info = CorpusInfo(
        name="ragged",
        sensors=("s1", "s2"),
        bands={
            "s1": ("VV", "VH"),
            "s2": (
                *("B01", "B02", "B03", "B04", "B05", "B06", "B07"),
                *("B08", "B8A", "B09", "B10", "B11", "B12"),
            ),
        },
        labels=LABELS,
        patch_size=SIZE,
        resolution_m=10,
        extras=("cloud", "dem"),
    )
    with CorpusWriter(root, info) as writer:
        for seed, name in enumerate(("both", "s1-only", "s2-only")):
            db, reflectance = physical(seed)
            db[0, 5, 5] = np.nan
            reflectance[3, 6, :] = np.nan
            rng = np.random.default_rng(seed)
            rasters = {
                "cover": rng.integers(-1, 3, (SIZE, SIZE)).astype(np.int16),
                "height": rng.random((2, SIZE, SIZE)).astype(np.float32),
                "cloud": cloud_mask(),
                "dem": np.full((SIZE, SIZE), 7.5, np.float32),
            }
            labels = {
                "kind": 2,
                "tags": (0, 2),
                "things": ((1.0, 2.0, 5.0, 6.0, 1),),
                "yield": (4.5,),
            }
            bare = name == "s1-only"
            writer.add(
                PatchRecord(
                    id=name,
                    split="train",
                    crs="EPSG:32633",
                    transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5.5e6),
                    labels={} if bare else labels,
                ),
                PatchPixels(
                    s1=None if name == "s2-only" else encode_s1(db),
                    s2=None if bare else encode_s2_reflectance(reflectance),
                    rasters={} if bare else rasters,
                ),
            )
    return root
