"""How fast samples come in random access and as a stream, beside raw ranges of the same bytes.

    python tests/benchmarks/stream.py [--patches 256] [--workers 0 2] [--rounds 3]

Local files (warm), and a range server on this machine that waits 20 ms before each answer. Wall
time of a whole epoch, workers started before; ratios are medians over rounds. "Raw ranges" are the
stored bytes of the same patches, one request a sensor, 16 requests in flight, nothing decoded: the
goal of the stream over 20 ms is 0.6 of it. A stream may pass it, for it asks for neighbours at once.

The last table asks whether 16-bit codes are worth shipping from workers instead of float32; without a GPU
the device is the CPU, which then decodes alone what two workers would share.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from deepsentinel import DeepSentinelDataset, DeepSentinelStream, collate
from deepsentinel.corpus.read import Corpus
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.store import open_store

SIZE = 256
BATCH = 16
LATENCY_S = 0.02


class RangeHandler(BaseHTTPRequestHandler):
    """Files of a folder by range, each answer after a while."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        time.sleep(LATENCY_S)
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2] or size - 1)) if asked else (0, size - 1)
        last = min(last, size - 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body:
            with path.open("rb") as file:
                file.seek(first)
                self.wfile.write(file.read(last - first + 1))

    def log_message(self, *_: Any) -> None:
        pass


def serve(folder: Path) -> str:
    """URL of a server of a folder, in a process of its own so that it does not share our GIL."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(folder, theirs), daemon=True).start()
    return f"http://127.0.0.1:{ours.recv()}"


def _serve(folder: Path, pipe: Any) -> None:
    handler = type("Handler", (RangeHandler,), {"folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    pipe.send(server.server_address[1])
    server.serve_forever()


def raw_ranges(root: str) -> int:
    """Read the stored bytes of every patch, one range a sensor, in random order."""
    store = open_store(root)
    table = Corpus(root).index
    spans = [
        (f"data.zarr/{sensor}/c/{shard}/0/0/0", start, size)
        for sensor in ("s1", "s2")
        for shard, start, size in zip(
            *(table[c].to_pylist() for c in ("shard", f"{sensor}_offset", f"{sensor}_size")),
            strict=True,
        )
    ]
    order = np.random.default_rng(0).permutation(len(spans))
    with ThreadPoolExecutor(16) as pool:
        read = pool.map(lambda k: len(store.read_range(*spans[k])), order.tolist())
        return len(table) if sum(read) else 0


def epoch(loader: Any) -> Callable[[], int]:
    """An epoch of a loader, as a count of samples."""
    return lambda: sum(len(batch["meta"]) for batch in loader)


def ways(root: str, workers: list[int]) -> Iterator[tuple[str, Callable[[], int]]]:
    yield "raw ranges, 16 in flight", lambda: raw_ranges(root)
    for count in workers:
        shared: dict[str, Any] = {
            "batch_size": BATCH,
            "num_workers": count,
            "collate_fn": collate,
            "persistent_workers": count > 0,
        }
        dataset = DeepSentinelDataset(root, None, labels=(), clouds="keep")
        yield (
            f"DeepSentinelDataset, random, {count} workers",
            epoch(DataLoader(dataset, shuffle=True, **shared)),
        )
        for crop, bands in (("", None), (", 5 bands", ("VV", "VH", "B04", "B03", "B02"))):
            stream = DeepSentinelStream(root, None, labels=(), clouds="keep", bands=bands)
            yield (
                f"DeepSentinelStream{crop}, {count} workers",
                epoch(DataLoader(stream, **shared)),
            )


def measure(found: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Samples a second by way and round."""
    rates: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, run in found.items():
            begun = time.perf_counter()
            samples = run()
            rates[name].append(samples / (time.perf_counter() - begun))
    return rates


class Codes(Dataset[dict[str, torch.Tensor]]):
    """The codes of patches as they are stored."""

    def __init__(self, root: str) -> None:
        self.corpus = Corpus(root)

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        pixels = self.corpus.read(index)
        assert pixels.s1 is not None
        assert pixels.s2 is not None
        return {"s1": torch.from_numpy(pixels.s1), "s2": torch.from_numpy(pixels.s2)}


def decode_codes(batch: dict[str, torch.Tensor], device: str) -> None:
    """Physical values with NaN, made on the device."""
    s1 = batch["s1"].to(device, non_blocking=True)
    torch.where(s1 == -32768, torch.nan, s1.float() * 0.01)
    s2 = batch["s2"].to(device, non_blocking=True).to(torch.int32)
    torch.where(s2 == 0, torch.nan, (s2 - 1000).float() * 1e-4)
    if device == "cuda":
        torch.cuda.synchronize()


def codes_or_floats(root: str, workers: int, rounds: int) -> dict[str, list[float]]:
    """Samples a second that arrive on the device, as float32 and as codes decoded there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = DeepSentinelDataset(root, None, labels=(), clouds="keep")
    shared: dict[str, Any] = {
        "batch_size": BATCH,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": device == "cuda",
    }
    floats = DataLoader(dataset, collate_fn=collate, **shared)
    codes = DataLoader(Codes(root), **shared)

    def run_floats() -> int:
        for batch in floats:
            for key in ("image_s1", "image_s2"):
                batch[key].to(device, non_blocking=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return len(dataset)

    def run_codes() -> int:
        for batch in codes:
            decode_codes(batch, device)
        return len(dataset)

    ways = {f"float32, {workers} workers": run_floats, f"codes, {workers} workers": run_codes}
    return measure(ways, rounds + 1)


def report(title: str, rates: dict[str, list[float]], base: str) -> None:
    print(f"\n{title:46}{'samples/s':>10}{'of first':>10}")
    for name, values in rates.items():
        later = np.array(values[1:] or values)  # the first round starts workers
        reference = np.array(rates[base][1:] or rates[base])
        print(f"{name:46}{np.median(later):10.0f}{np.median(later / reference):10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patches", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=SIZE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root = write_synthetic_corpus(
            folder / "corpus", patches=asked.patches, patch_size=asked.size
        )
        facts = json.loads((root / "corpus.json").read_text())
        stored = Corpus(root).stored_bytes(np.arange(asked.patches)).mean()
        print(f"{facts['name']}: {asked.patches} patches, {stored / 1e6:.2f} MB each as stored")
        places = {"local": str(root), "20 ms a request": f"{serve(folder)}/corpus"}
        for title, place in places.items():
            found = dict(ways(place, asked.workers))
            rates = measure(found, asked.rounds + 1)
            report(title, rates, next(iter(found)))
        for workers in asked.workers:
            rates = codes_or_floats(str(root), workers, asked.rounds)
            report("codes or floats on the device", rates, next(iter(rates)))


if __name__ == "__main__":
    main()
