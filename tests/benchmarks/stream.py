"""How fast samples come in random access and as a stream, beside raw ranges of the same bytes.

    python tests/benchmarks/stream.py [--patches 256] [--workers 0 2] [--rounds 3] [--rivals]

Local files (warm), and a range server on this machine that waits 20 ms before each answer. Wall
time of a whole epoch, workers started before; ratios are medians over rounds. "Raw ranges" are the
stored bytes of the same patches, one request a sensor, 16 requests in flight, nothing decoded: the
goal of the stream over 20 ms is 0.6 of it. A stream may pass it, for it asks for neighbours at once.
With `--rivals` the same patches also lie there as others keep them; see `rivals.py`. Slow ways read
fewer patches; ways with workers come first, because not every client may be used before a fork. For
the same reason give one `--place "20 ms a request"` and one `--kind` a run with `--rivals`.

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
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rivals import CROP, FIVE, rivals, write_rivals
from torch.utils.data import DataLoader, Dataset, IterableDataset

from deepsentinel import DeepSentinelDataset, DeepSentinelStream, collate
from deepsentinel.corpus.read import Corpus
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.datasets.transforms import Compose, RandomCrop
from deepsentinel.store import open_store

SIZE = 256
BATCH = 16
LATENCY_S = 0.02
SLOW_PATCHES = 8


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
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        first, last = 0, size - 1
        if asked and asked[1]:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
        elif asked:  # the last bytes
            first = size - int(asked[2])
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
    ThreadingHTTPServer.request_queue_size = 128  # with 5, connections wait seconds for each other
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


def one_by_one(root: str) -> int:
    """The same, a sample after the other: both ranges of one at a time."""
    corpus = Corpus(root)
    order = np.random.default_rng(0).permutation(len(corpus)).tolist()
    return sum(len(corpus.fetch([k])) for k in order)


def epoch(loader: Any) -> Callable[[], int]:
    """An epoch of a loader, as a count of samples."""
    return lambda: sum(len(batch["image_s2"]) for batch in loader)


def loaded(dataset: Any, workers: int, *, ours: bool, batch: int = BATCH) -> Callable[[], int]:
    """An epoch of a loader of a dataset."""
    shuffle = None if isinstance(dataset, IterableDataset) else True
    loader = DataLoader(
        dataset,
        batch_size=batch,
        shuffle=shuffle,
        num_workers=workers,
        collate_fn=collate if ours else None,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,  # LitData changes the default
    )
    return epoch(loader)


def ways(
    root: str, workers: list[int], *, few: bool, beside: bool
) -> Iterator[tuple[str, Callable[[], int]]]:
    """Every way to read what lies in a folder or behind a URL; of five bands a crop where `few`."""
    corpus = f"{root}/corpus"
    yield "raw ranges, 16 in flight", lambda: raw_ranges(corpus)
    yield "raw ranges, sample by sample", lambda: one_by_one(corpus)
    options: dict[str, Any] = {"labels": (), "clouds": "keep"}
    if few:
        options |= {"bands": FIVE, "transforms": Compose(RandomCrop(CROP), seed=0)}
    for count in sorted(workers, reverse=True):
        dataset = DeepSentinelDataset(corpus, None, **options)
        yield f"DeepSentinelDataset, random, {count} workers", loaded(dataset, count, ours=True)
        stream = DeepSentinelStream(corpus, None, **options)
        yield f"DeepSentinelStream, {count} workers", loaded(stream, count, ours=True)
        if beside:
            slow = min(len(dataset), SLOW_PATCHES if "://" in root else 8 * SLOW_PATCHES)
            for name, other in rivals(root, slow, few=few):
                batch = min(BATCH, slow // 2)
                yield f"{name}, {count} workers", loaded(other, count, ours=False, batch=batch)


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
    print(f"\n{title:56}{'samples/s':>10}{'of first':>10}", flush=True)
    for name, values in rates.items():
        later = np.array(values[1:] or values)  # the first round starts workers
        reference = np.array(rates[base][1:] or rates[base])
        print(f"{name:56}{np.median(later):10.1f}{np.median(later / reference):10.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patches", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--place", nargs="*", help="'local' or '20 ms a request'; both by default")
    parser.add_argument("--kind", nargs="*", help="'full patches' or '5 bands, 128 px'")
    parser.add_argument("--rivals", action="store_true")
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
        if asked.rivals:
            write_rivals(root, folder)
        places = {"20 ms a request": serve(folder), "local": str(folder)}
        kinds = {"full patches": False, f"5 bands, {CROP} px": True}
        tables = product(places.items(), kinds.items())
        for (title, place), (kind, few) in tables:
            if title not in (asked.place or title) or kind not in (asked.kind or kind):
                continue
            found = dict(ways(place, asked.workers, few=few, beside=asked.rivals))
            rates = measure(found, asked.rounds + 1)
            report(f"{title}, {kind}", rates, next(iter(found)))
        for workers in asked.workers:
            rates = codes_or_floats(str(root), workers, asked.rounds)
            report("codes or floats on the device", rates, next(iter(rates)))


if __name__ == "__main__":
    main()
