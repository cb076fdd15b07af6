"""Every encoder of the zoo side by side: time to load, peak memory, throughput on a CPU.

    python -m tests.benchmarks.encoders [--data ../shared/data] [--largest-mb 2000]

One thread, float32, both sensors, one run; a process of its own for each row, on Linux. Memory is
what comes on top of Python and torch. Rows that share an architecture are measured once. Files hold
random tensors of the published shapes where the published ones are not at hand, and are loaded
through `load_encoder(weights=)`, hash and all. Throughput is of the caller's pixels: networks of a
fixed size resize 64 px to 120 or 224 first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

BATCHES = {64: 8, 128: 4, 224: 2}
SECONDS = 1.5
OURS = {"galileo-nano": "galileo-nano/encoder.pt", "presto": "presto/default_model.pt"}


def architectures() -> dict[str, list[str]]:
    """Public rows by the first one of the same network."""
    from deepsentinel.zoo.torchgeo_rows import TORCHGEO

    groups: dict[str, list[str]] = {}
    for row in TORCHGEO:
        network = {k: v for k, v in row.arguments.items() if k != "scaling"}
        groups.setdefault(json.dumps([row.kind, network], sort_keys=True), []).append(row.card.name)
    return {names[0]: names for names in groups.values()}


def load(name: str, files: Mapping[str, str], prefixes: Mapping[str, str | None]) -> Any:
    """The encoder of a row, on these files; its card pins random ones as it pins the published."""
    from deepsentinel.zoo import load as zoo
    from deepsentinel.zoo.rows import Row

    row = next(row for row in zoo.ROWS if row.name == name)
    if prefixes and isinstance(row, Row):
        sources = {k: replace(s, sha256_prefix=prefixes[k]) for k, s in row.card.sources.items()}
        zoo.ROWS = (replace(row, card=replace(row.card, sources=sources)),)
    weights = files.get("both", files) or None
    return zoo.load_encoder(name, weights=weights)


def measure(
    name: str, files: Mapping[str, str], prefixes: Mapping[str, str | None]
) -> dict[str, float]:
    """Seconds to load, MB at the peak, and Mpx a CPU-second by size; of this process."""
    import torch

    torch.set_num_threads(1)
    before = peak_mb()
    started = time.process_time()
    encoder = load(name, files, prefixes)
    found = {"load_s": time.process_time() - started}
    for size, batch in BATCHES.items():
        found[str(size)] = throughput(encoder, size, 1 if name == "presto" else batch)
    return {**found, "peak_mb": peak_mb() - before, "params": encoder.card.parameters}


def peak_mb() -> float:
    """The most memory that this program held, on Linux; getrusage counts its parent's too."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def throughput(encoder: Any, size: int, batch: int) -> float:
    """Mpx a CPU-second of patches of both sensors, or of those that the encoder reads."""
    import torch

    patches = {"s1": torch.randn(batch, 2, size, size) * 3 - 14}
    patches["s2"] = torch.rand(batch, 12, size, size) * 0.3
    patches = {s: patches[s] for s in encoder.sensors}
    with torch.inference_mode():
        encoder(**{s: x[:1] for s, x in patches.items()})
        started, rounds = time.process_time(), 0
        while rounds == 0 or time.process_time() - started < SECONDS:
            encoder(**patches)
            rounds += 1
    return rounds * batch * size * size / 1e6 / (time.process_time() - started)


def in_a_process(name: str, files: Mapping[str, Any], prefixes: Mapping[str, str | None]) -> Any:
    """`measure`, in a process of its own."""
    asked = json.dumps([name, {k: str(f) for k, f in files.items()}, prefixes])
    command = [sys.executable, "-m", "tests.benchmarks.encoders", "--measure", asked]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def public(name: str) -> Any:
    """A public row, on random tensors of its published shapes."""
    from tests.zoo.twins import PUBLIC, write_files

    with tempfile.TemporaryDirectory() as folder:
        row, files = write_files(PUBLIC[name], Path(folder))
        prefixes = {k: s.sha256_prefix for k, s in row.card.sources.items()}
        return in_a_process(name, files, prefixes)


def line(title: str, found: Mapping[str, float], nano: Mapping[str, float]) -> str:
    """A row of the table."""
    speeds = [f"{found[str(size)]:.3g}" for size in BATCHES]
    cells = [title, f"{found['params'] / 1e6:.1f} M", f"{found['load_s']:.1f}"]
    cells += [f"{found['peak_mb']:.0f}", *speeds, f"{found['64'] / nano['64']:.2g}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--largest-mb", type=int, default=2000)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*json.loads(asked.measure))))
        return
    print("| rows | parameters | load, s | peak, MB | 64 px | 128 px | 224 px | nano is 1 |")
    print("|---|---|---|---|---|---|---|---|")
    nano = in_a_process("deepsentinel-nano", {}, {})
    print(line("`deepsentinel-nano`", nano, nano), flush=True)
    for name, file in OURS.items():
        weights = asked.data / "weights" / file
        if not weights.is_file():
            print(f"{name} is left out: no file {weights}", file=sys.stderr)
            continue
        found = in_a_process(name, {"both": weights}, {})
        print(line(f"`{name}`", found, nano), flush=True)
        if name == "galileo-nano":
            ratios = [f"{nano[str(s)] / found[str(s)]:.1f} at {s} px" for s in BATCHES]
            print(f"nano to Galileo nano: {', '.join(ratios)}", file=sys.stderr, flush=True)
    from tests.zoo.twins import PUBLIC, galileo_twin

    small = asked.data / "weights" / OURS["galileo-nano"]
    for name, width in {"galileo-tiny": 192, "galileo-base": 768}.items():
        if small.is_file():
            with tempfile.TemporaryDirectory() as folder:
                file = galileo_twin(small, Path(folder) / "encoder.pt", width=width, depth=12)
                print(line(f"`{name}`", in_a_process(name, {"both": file}, {}), nano), flush=True)
    for name, names in architectures().items():
        size = (PUBLIC[name].card.parameters or 0) * 4 / 1e6
        if size > asked.largest_mb:
            print(f"{', '.join(names)}: left out, {size:.0f} MB", file=sys.stderr)
            continue
        print(line(", ".join(f"`{n}`" for n in names), public(name), nano), flush=True)


if __name__ == "__main__":
    main()
