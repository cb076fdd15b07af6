"""The patches of a corpus as others keep them, read to the same float32 values with NaN.

What `stream.py` measures beside the corpus: GeoTIFF as torchgeo reads it (`SEN12MS`: one stacked
file a sensor; `BigEarthNet`: one file a band), xarray on the corpus's own Zarr group, WebDataset and
LitData (both optional: `pip install webdataset litdata`).
"""

import io
import tarfile
import warnings
from collections.abc import Iterator
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import xarray
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from read_corpus import physical, write_tifs
from torch.utils.data import Dataset

from deepsentinel.bands import S1_BANDS, S2_BANDS
from deepsentinel.corpus.read import Corpus

FIVE = ("VV", "VH", "B04", "B03", "B02")
CROP = 128
PATCHES_A_TAR = 32
NAMES = {"s1": S1_BANDS, "s2": S2_BANDS}
Sample = dict[str, torch.Tensor]


def write_rivals(root: Path, folder: Path) -> None:
    """Every patch of a corpus in the other formats, pixels unchanged."""
    corpus = Corpus(root)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    for k in range(len(corpus)):
        s1, s2 = _codes(corpus, k)
        write_tifs(folder / "deflate", k, s1, s2, together=True)
        write_tifs(folder / "bands", k, s1, s2, together=False)
    _write_tars(corpus, folder / "tar")
    if find_spec("litdata"):
        _write_litdata(root, folder / "litdata")


def _codes(corpus: Corpus, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    pixels = corpus.read(k)
    assert pixels.s1 is not None
    assert pixels.s2 is not None
    return pixels.s1, pixels.s2


def _write_tars(corpus: Corpus, folder: Path) -> None:
    folder.mkdir()
    for first in range(0, len(corpus), PATCHES_A_TAR):
        with tarfile.open(folder / f"{first // PATCHES_A_TAR:04}.tar", "w") as tar:
            for k in range(first, min(first + PATCHES_A_TAR, len(corpus))):
                for sensor, codes in zip(("s1", "s2"), _codes(corpus, k), strict=True):
                    file = io.BytesIO()
                    np.save(file, codes)
                    entry = tarfile.TarInfo(f"{k:06}.{sensor}.npy")
                    entry.size = file.tell()
                    file.seek(0)
                    tar.addfile(entry, file)


def _write_litdata(root: Path, folder: Path) -> None:
    import litdata

    count = len(Corpus(root))
    litdata.optimize(
        fn=partial(_stored, root=str(root)),
        inputs=list(range(count)),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )


def _stored(k: int, *, root: str) -> dict[str, NDArray[Any]]:
    return dict(zip(("s1", "s2"), _codes(Corpus(root), k), strict=True))


def finish(arrays: dict[str, NDArray[Any]], *, few: bool) -> Sample:
    """Tensors as a loader hands them on; of the five bands, a random crop."""
    if few:
        y, x = np.random.default_rng().integers(0, arrays["s2"].shape[-1] - CROP + 1, 2)
        arrays = {s: a[:, y : y + CROP, x : x + CROP].copy() for s, a in arrays.items()}
    return {f"image_{sensor}": torch.from_numpy(array) for sensor, array in arrays.items()}


def places(sensor: str, *, few: bool) -> list[int]:
    """Positions of the bands to read."""
    return [k for k, name in enumerate(NAMES[sensor]) if not few or name in FIVE]


class Files(Dataset[Sample]):
    """GeoTIFF as torchgeo's `SEN12MS` (stacked) or `BigEarthNet` (a file a band) reads it."""

    def __init__(self, root: str, count: int, *, stacked: bool, few: bool) -> None:
        kind = "deflate" if stacked else "bands"
        self.root = f"/vsicurl/{root}/{kind}" if "://" in root else f"{root}/{kind}"
        self.count, self.stacked, self.few = count, stacked, few

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> Sample:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.Env(
            GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", CPL_VSIL_CURL_NON_CACHED="/vsicurl/http"
        ):
            codes = {s: self._read(k, s) for s in NAMES}
        return finish({s: physical(s, array) for s, array in codes.items()}, few=self.few)

    def _read(self, k: int, sensor: str) -> NDArray[Any]:
        wanted = places(sensor, few=self.few)
        if self.stacked:
            return self._file(f"{k}_{sensor}", [p + 1 for p in wanted])
        return np.concatenate([self._file(f"{k}_{NAMES[sensor][p]}", [1]) for p in wanted])

    def _file(self, name: str, indexes: list[int]) -> NDArray[Any]:
        with rasterio.open(f"{self.root}/{name}.tif") as file:
            found: NDArray[Any] = file.read(indexes)
        return found


class Xarray(Dataset[Sample]):
    """The corpus's own Zarr group through xarray and zarr-python."""

    def __init__(self, root: str, count: int, *, few: bool) -> None:
        self.root, self.count, self.few = root, count, few

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "opened"}

    @cached_property
    def opened(self) -> xarray.Dataset:
        return xarray.open_zarr(f"{self.root}/corpus/data.zarr", chunks=None)

    def __getitem__(self, k: int) -> Sample:
        found = {s: self.opened[s][k, places(s, few=self.few)].values for s in NAMES}
        return finish({s: a.astype(np.float32, copy=False) for s, a in found.items()}, few=self.few)


def webdataset(root: str, count: int, *, few: bool) -> Any:
    """The tars, shuffled by shard and through a buffer."""
    import webdataset as wds

    names = [f"{n:04}.tar" for n in range(-(-count // PATCHES_A_TAR))]
    prefix = f"pipe:curl -s {root}/tar" if "://" in root else f"{root}/tar"
    read = partial(_from_tar, few=few)
    shards = wds.WebDataset(
        [f"{prefix}/{name}" for name in names], shardshuffle=len(names), empty_check=False
    )
    return shards.shuffle(64).decode().map(read)


def _from_tar(entry: dict[str, Any], *, few: bool) -> Sample:
    return _from_codes({s: entry[f"{s}.npy"] for s in NAMES}, few=few)


def _from_codes(codes: dict[str, NDArray[Any]], *, few: bool) -> Sample:
    found = {s: physical(s, a[places(s, few=few)] if few else a) for s, a in codes.items()}
    return finish(found, few=few)


def litdata(root: str, *, few: bool) -> Any:
    """The optimised chunks, shuffled."""
    from litdata import StreamingDataset

    return StreamingDataset(
        f"{root}/litdata", shuffle=True, transform=partial(_from_codes, few=few)
    )


def rivals(root: str, count: int, *, few: bool) -> Iterator[tuple[str, Any]]:
    """Name and dataset of every other way to read what lies in a folder or behind a URL."""
    yield "GeoTIFF, one a sensor (torchgeo SEN12MS)", Files(root, count, stacked=True, few=few)
    yield "GeoTIFF, one a band (BigEarthNet)", Files(root, count, stacked=False, few=few)
    if "://" not in root:  # half a second a patch over 20 ms, too slow beside the rest
        yield "xarray and zarr-python", Xarray(root, count, few=few)
    if find_spec("webdataset"):
        yield "WebDataset, codes in tars", webdataset(root, count, few=few)
    if find_spec("litdata") and "://" not in root:
        yield "LitData, codes in chunks", litdata(root, few=few)
