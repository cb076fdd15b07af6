"""Turn GeoTIFF pairs into a corpus, check it, and open it with xarray. Runs offline."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
import xarray as xr
from numpy.typing import NDArray
from rasterio.transform import Affine

import deepsentinel
from deepsentinel.datasets.synthetic import SyntheticScene, synthetic_scene


def write_tif(path: Path, pixels: NDArray, scene: SyntheticScene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype,
        crs=scene.crs,
        transform=Affine(*scene.transform),
    ) as file:
        file.write(pixels)


def main(folder: Path) -> None:
    for number in range(4):  # stand-ins for your files: radar in dB, optical as digital numbers
        scene = synthetic_scene(64, seed=number, origin=(500_000.0 + 20_000 * number, 5_500_000.0))
        dn = np.rint(scene.s2 * 10_000 + 1000).astype("int16")  # with the offset of baseline 04.00
        write_tif(folder / "files/S1RTC" / f"place_{number}.tif", scene.s1, scene)
        write_tif(folder / "files/S2L2A" / f"place_{number}.tif", dn, scene)

    corpus = folder / "corpus"
    print(deepsentinel.convert(folder / "files", corpus, boa_offset=-1000))
    print(deepsentinel.verify(corpus))

    with xr.open_zarr(corpus / "data.zarr") as data:
        print(data["s2"].sel(band_s2="B08").mean().compute().item(), "mean reflectance of B08")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(folder))
