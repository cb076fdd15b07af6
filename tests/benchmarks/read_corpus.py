"""How fast a corpus is read, side by side with what else could hold the same patches.

    python tests/benchmarks/read_corpus.py [--patches 240] [--rounds 7] [--folder DIR]

Every way reads the same synthetic patches (256 x 256 px, 2 + 12 bands, correlated, with sensor
noise) in the same random order, one after another in each round, with warm caches, and is measured
in CPU time of this process: other processes then disturb little. Ratios are medians over rounds.
The last 16 results are kept, as a batch keeps them: a raw read into the same warm buffer again and
again is up to three times faster than one that anybody could use. Page faults are printed beside,
because they depend on what the process allocated before.
"""

import argparse
import os
import resource
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from deepsentinel.bands import S1_BANDS, S2_BANDS
from deepsentinel.corpus.codes import NOT_OBSERVED
from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.write import CorpusWriter

SIZE = 256
BATCH = 16
Read = Callable[[int], object]
GOALS = {
    "codes, checksum": ("raw pread, as delivered", 0.30),
    "float32 + NaN": ("raw pread, as delivered", 0.15),
    "float32 + NaN ": ("rasterio, deflate GeoTIFF", 6.0),
    "float32 + NaN  ": ("rasterio, one GeoTIFF a band", 15.0),
}


def terrain(rng: np.random.Generator) -> NDArray[np.float64]:
    """A correlated field (power spectrum falling with frequency squared), mean 0, deviation 1."""
    rows, columns = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.rfftfreq(SIZE), indexing="ij")
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random(frequency.shape))
    field = np.fft.irfft2(phases / frequency**1.6, s=(SIZE, SIZE))
    return (field - field.mean()) / field.std()


def make_patch(k: int) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Codes that compress like real ones: speckled dB; bands at 10, 20 and 60 m on a 10 m grid."""
    rng = np.random.default_rng(k)
    fields = [terrain(rng) for _ in range(3)]
    speckle = 10 * np.log10(rng.gamma(4.4, 1 / 4.4, (2, SIZE, SIZE)))  # 4.4 looks, IW GRD
    level = np.array([-11.0, -18.0])[:, None, None] + 2.5 * fields[0]
    s1 = np.rint((level + speckle) * 100).astype(np.int16)
    s2 = np.empty((len(S2_BANDS), SIZE, SIZE), np.uint16)
    for b, name in enumerate(S2_BANDS):
        weights = rng.dirichlet(np.ones(3))
        mean = 400 + 180 * b
        plane = mean * (1 + 0.25 * sum(w * f for w, f in zip(weights, fields, strict=True)))
        plane += rng.normal(0, 12, plane.shape)
        step = {"B02": 1, "B03": 1, "B04": 1, "B08": 1, "B01": 6, "B09": 6}.get(name, 2)
        s2[b] = np.clip(resampled(plane, step) + 1000, 1, 65535)
    return s1, s2


def resampled(plane: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """What bilinear resampling makes of a band with coarser pixels."""
    if step == 1:
        return plane
    places = (np.arange(SIZE) + 0.5) / step - 0.5
    low = np.clip(np.floor(places).astype(int), 0, SIZE // step - 1)
    high = np.minimum(low + 1, SIZE // step - 1)
    part = np.clip(places - low, 0, 1)
    coarse = plane[step // 2 :: step, step // 2 :: step]
    coarse = np.pad(coarse, (0, 1), mode="edge")
    rows = coarse[low] * (1 - part)[:, None] + coarse[high] * part[:, None]
    mixed: NDArray[np.float64] = rows[:, low] * (1 - part) + rows[:, high] * part
    return mixed


def write_all(folder: Path, count: int) -> dict[str, float]:
    """Every format; returns CPU milliseconds a patch for writing each, and sizes."""
    info = CorpusInfo(
        name="benchmark",
        sensors=("s1", "s2"),
        bands={"s1": S1_BANDS, "s2": S2_BANDS},
        patch_size=SIZE,
        resolution_m=10,
        synthetic=True,
    )
    spent = dict.fromkeys(("corpus", "raw", "deflate", "bands"), 0.0)

    def timed(name: str, work: Callable[[], None]) -> None:
        started = time.process_time()
        work()
        spent[name] += (time.process_time() - started) / count * 1e3

    with (
        CorpusWriter(folder / "corpus", info) as writer,
        (folder / "raw.bin").open("wb") as raw,
        (folder / "codes.bin").open("wb") as codes,
    ):
        for k in range(count):
            s1, s2 = make_patch(k)
            record = PatchRecord(
                id=f"p{k}", crs="EPSG:32631", transform=(10, 0, 5e5 + k, 0, -10, 5e6)
            )
            timed("corpus", lambda: writer.add(record, PatchPixels(s1=s1, s2=s2)))  # noqa: B023
            db = (s1 / 100).astype(np.float32)
            timed("raw", lambda: raw.write(db.tobytes() + s2.tobytes()) and None)  # noqa: B023
            codes.write(s1.tobytes() + s2.tobytes())
            timed("deflate", lambda: write_tifs(folder / "deflate", k, s1, s2, together=True))  # noqa: B023
            timed("bands", lambda: write_tifs(folder / "bands", k, s1, s2, together=False))  # noqa: B023
    return spent


def write_tifs(
    folder: Path, k: int, s1: NDArray[np.int16], s2: NDArray[np.uint16], *, together: bool
) -> None:
    """One deflate GeoTIFF a sensor with 256 px tiles, or one a band."""
    folder.mkdir(exist_ok=True)
    for sensor, codes, names in (("s1", s1, S1_BANDS), ("s2", s2, S2_BANDS)):
        files = [(sensor, codes)] if together else list(zip(names, codes[:, None], strict=True))
        for name, planes in files:
            with rasterio.open(
                folder / f"{k}_{name}.tif",
                "w",
                driver="GTiff",
                width=SIZE,
                height=SIZE,
                count=len(planes),
                dtype=planes.dtype,
                compress="deflate",
                tiled=True,
                blockxsize=256,
                blockysize=256,
            ) as file:
                file.write(planes)


def physical(sensor: str, codes: NDArray[np.generic]) -> NDArray[np.float32]:
    """What a reader of files has to do for the same result."""
    values = codes.astype(np.float32)
    values = (values - 1000) * np.float32(1e-4) if sensor == "s2" else values * np.float32(0.01)
    values[codes == NOT_OBSERVED[sensor]] = np.nan  # type: ignore[index]
    return values


def readers(folder: Path) -> dict[str, Read]:
    """Every way to read patch k."""
    plain, checked = Corpus(folder / "corpus"), Corpus(folder / "corpus", checksum=True)
    raw, codes = (os.open(folder / name, os.O_RDONLY) for name in ("raw.bin", "codes.bin"))
    plane = SIZE * SIZE
    group = zarr.open_group(folder / "corpus" / "data.zarr", mode="r")
    arrays = [group["s1"], group["s2"]]

    def pread(file: int, s1_bytes: int) -> Read:
        size = 2 * plane * s1_bytes
        total = size + 12 * plane * 2

        def read(k: int) -> object:
            s1 = os.pread(file, size, k * total)
            s2 = os.pread(file, total - size, k * total + size)
            kind = np.float32 if s1_bytes == 4 else np.int16
            return np.frombuffer(s1, kind), np.frombuffer(s2, np.uint16)

        return read

    def tif(path: Path) -> NDArray[np.generic]:
        with rasterio.open(path) as file:
            found: NDArray[np.generic] = file.read()
        return found

    def deflate(k: int) -> object:
        return [physical(s, tif(folder / "deflate" / f"{k}_{s}.tif")) for s in ("s1", "s2")]

    def bands(k: int) -> object:
        return [
            physical(s, np.concatenate([tif(folder / "bands" / f"{k}_{b}.tif") for b in names]))
            for s, names in (("s1", S1_BANDS), ("s2", S2_BANDS))
        ]

    rgb = {"s2": ("B04", "B03", "B02")}
    return {
        "raw pread, as delivered": pread(raw, 4),
        "raw pread, 16-bit codes": pread(codes, 2),
        "codes": plain.read,
        "codes, checksum": checked.read,
        "float32 + NaN": plain.read_physical,
        "float32 + NaN, checksum": checked.read_physical,
        "float32 + NaN, B04 B03 B02": lambda k: plain.read_physical(
            k,
            sensors=("s2",),
            bands=rgb,  # type: ignore[arg-type]
        ),
        "zarr-python, codes": lambda k: [array[k] for array in arrays],
        "rasterio, deflate GeoTIFF": deflate,
        "rasterio, one GeoTIFF a band": bands,
    }


def measure(
    ways: dict[str, Read], count: int, rounds: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """CPU milliseconds a patch by way and round, and page faults a patch in the last round.

    Slow ways read fewer patches.
    """
    faults: dict[str, float] = {}
    rng = np.random.default_rng(0)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    slow = ("rasterio", "zarr")
    for _ in range(rounds):
        order = rng.permutation(count).tolist()
        for name, read in ways.items():
            chosen = order[: max(1, count // 6)] if name.startswith(slow) else order
            batch: deque[object] = deque(maxlen=BATCH)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            started = time.process_time()
            for k in chosen:
                batch.append(read(k))
            spent[name].append((time.process_time() - started) / len(chosen) * 1e3)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            faults[name] = (after - before) / len(chosen)
    return {name: np.array(values) for name, values in spent.items()}, faults


def report(spent: dict[str, NDArray[np.float64]], faults: dict[str, float]) -> None:
    base = spent["raw pread, as delivered"]
    tif = spent["rasterio, deflate GeoTIFF"]
    bands = spent["rasterio, one GeoTIFF a band"]
    print(f"\n{'way':32}{'ms CPU':>8}{'of raw':>9}{'x deflate':>11}{'x a band':>10}{'faults':>8}")
    for name, values in spent.items():
        ratios = [np.median(other / values) for other in (base, tif, bands)]
        print(
            f"{name:32}{np.median(values):8.3f}{ratios[0]:9.2f}{ratios[1]:11.1f}{ratios[2]:10.1f}"
            f"{faults[name]:8.0f}"
        )
    print()
    for name, (other, goal) in GOALS.items():
        ratio = float(np.median(spent[other] / spent[name.strip()]))
        verdict = "reached" if ratio >= goal else "NOT reached"
        print(f"{name.strip()} against {other}: {ratio:.2f}, goal {goal:g}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--folder", type=Path, help="keep the files here (default: a temporary one)"
    )
    asked = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "corpus" / "corpus.json").exists():
            writing = write_all(folder, asked.patches)
            print("writing, ms CPU a patch:", {n: round(v, 2) for n, v in writing.items()})
        plain = asked.patches * 14 * SIZE * SIZE * 2
        for name in ("corpus", "deflate", "bands"):
            files = [p for p in (folder / name).rglob("*") if p.is_file()]
            print(f"compression, {name}: {plain / sum(p.stat().st_size for p in files):.2f}")
        ways = readers(folder)
        measure(ways, min(24, asked.patches), 1)  # warm up
        report(*measure(ways, asked.patches, asked.rounds))


if __name__ == "__main__":
    main()
