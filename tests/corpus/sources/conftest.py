"""What the tests of the sources share: converting into a corpus, and reading sources by rasterio."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.read import Corpus


@pytest.fixture
def converted(tmp_path) -> Callable[..., Corpus]:
    """`converted(source, **options)`: the corpus that `convert` makes of it."""

    def make(source: Path, **options) -> Corpus:
        convert(source, tmp_path / "corpus", **options)
        return Corpus(tmp_path / "corpus")

    return make


@pytest.fixture
def pixels() -> Callable[[Path], np.ndarray]:
    """All bands of a raster file, by rasterio alone."""

    def read(path: Path) -> np.ndarray:
        with rasterio.open(path) as file:
            return file.read()

    return read
