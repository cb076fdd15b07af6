"""What the pretraining loop costs beside the bare forward and backward pass of the same network.

    python tests/benchmarks/pretrain.py CORPUS [--crop 64] [--batch 32] [--steps 100] [--rounds 3]

The bare way repeats objective and backward pass on one batch in memory; with "+ AdamW" the
clipped optimiser step too. The loop reads the corpus with crops and turns in the same process,
steps, logs every 50 steps, looks at the spread of embeddings every 100, and keeps a checkpoint at its
end (not counted). CPU time of the process, one thread, the bare ways before and after each loop,
medians over rounds; the goal is that data and bookkeeping cost at most 10 %. On a GPU wall time is
taken. Then: peak memory of each way to save some, each in a process of its own, and the time of an
epoch.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Generator, Tensor, nn

from deepsentinel import DeepSentinelDataset, FusionEncoder, pretrain
from deepsentinel.objectives.objective import Objective
from deepsentinel.objectives.registry import make_objective
from deepsentinel.sample import Batch
from deepsentinel.training.pretraining.feed import MapFeed
from deepsentinel.training.pretraining.framing import EMPTY_KEY, Framing
from deepsentinel.training.pretraining.network import parameter_groups

CUDA = torch.cuda.is_available()
BACKBONES = ("convnext_atto", "resnet18")
OBJECTIVES = ("masked", "simclr")
LEFT_OUT = 5
"""Steps at the beginning that are not counted."""
SAVINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"checkpointing": True},
    "bf16": {"precision": "bf16-mixed"},
    "accumulate 4": {"accumulate": 4},
    "checkpointing, bf16, accumulate 4": {
        "checkpointing": True,
        "precision": "bf16-mixed",
        "accumulate": 4,
    },
}


def clock() -> float:
    """Seconds of this process, or of the wall where a GPU works."""
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Timed(Objective):
    """An objective that notes when it is called."""

    def __init__(self, inner: Objective) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[float] = []

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        self.calls.append(clock() if len(self.calls) in {LEFT_OUT, self.last} else 0.0)
        return self.inner(encoder, batch, generator)

    last = 0


def network(backbone: str, name: str) -> tuple[FusionEncoder, Objective]:
    torch.manual_seed(0)
    encoder = FusionEncoder(backbone)
    return encoder, make_objective(name, encoder)


def bare(args: argparse.Namespace, backbone: str, name: str, *, optimise: bool) -> float:
    """Seconds a step on one batch in memory."""
    encoder, objective = network(backbone, name)
    device = torch.device("cuda" if CUDA else "cpu")
    both = nn.ModuleList([encoder, objective]).to(device).train()
    optimiser = torch.optim.AdamW(parameter_groups(list(both), 0.05), lr=1e-4, fused=True)
    batch = one_batch(args, encoder, device)
    steps = max(10, args.steps // 4)
    for step in range(LEFT_OUT + steps):
        if step == LEFT_OUT:
            started = clock()
        generator = torch.Generator().manual_seed(step)
        objective(encoder, batch, generator)["loss"].backward()
        if optimise:
            nn.utils.clip_grad_norm_(both.parameters(), 1.0)
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return (clock() - started) / steps


def one_batch(args: argparse.Namespace, encoder: FusionEncoder, device: torch.device) -> Batch:
    framing = Framing(encoder.bands, crop=args.crop)
    data = DeepSentinelDataset(args.corpus, None, labels=())
    batch = MapFeed([data], framing, batch_size=args.batch, seed=0).look(args.batch)
    del batch[EMPTY_KEY]
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def loop(args: argparse.Namespace, backbone: str, name: str, folder: Path) -> tuple[float, float]:
    """Seconds a step of the loop, and the share of the time that it waited for data."""
    encoder, inner = network(backbone, name)
    objective = Timed(inner)
    objective.last = LEFT_OUT + args.steps
    result = pretrain(
        args.corpus,
        out_dir=folder,
        encoder=encoder,
        objective=objective,
        **common(args),
        steps=LEFT_OUT + args.steps + 1,
        log_every=50,
        precision="32-true",
    )
    seconds = (objective.calls[objective.last] - objective.calls[LEFT_OUT]) / args.steps
    return seconds, result.curve("data_wait")[0][1]


def common(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "split": None,
        "crop": args.crop,
        "batch_size": args.batch,
        "num_workers": args.workers,
        "image_every": None,
        "progress": False,
    }


def peak(job: Callable[[], object]) -> float:
    """GB that a process needs at its most, in a process of its own."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def measured() -> None:
        job()
        memory = (
            torch.cuda.max_memory_allocated() / 1e9
            if CUDA
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        )
        queue.put(memory)

    child = context.Process(target=measured)
    child.start()
    found: float = queue.get()
    child.join()
    return found


def speed(args: argparse.Namespace) -> None:
    print(
        "| backbone, objective | bare | + AdamW | loop | loop / bare | loop / + AdamW | Mpx/s | wait |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for backbone in args.backbones:
        for name in args.objectives:
            times: list[tuple[float, float, float, float]] = []
            for _ in range(args.rounds):
                with tempfile.TemporaryDirectory() as folder:
                    before = [bare(args, backbone, name, optimise=o) for o in (False, True)]
                    found = loop(args, backbone, name, Path(folder))
                    after = [bare(args, backbone, name, optimise=o) for o in (True, False)]
                ways = [(one + two) / 2 for one, two in zip(before, after[::-1], strict=True)]
                times.append((ways[0], ways[1], *found))
            a, b, c, wait = (median(t[i] for t in times) for i in range(4))
            over = [median(t[2] / t[i] for t in times) for i in (0, 1)]
            pixels = args.batch * args.crop**2 / c / 1e6
            print(
                f"| {backbone}, {name} | {a * 1e3:.0f} ms | {b * 1e3:.0f} ms | {c * 1e3:.0f} ms "
                f"| {over[0]:.3f} | {over[1]:.3f} | {pixels:.2f} | {wait:.3f} |",
                flush=True,
            )


def memory(args: argparse.Namespace) -> None:
    print("\n| peak memory | GB |\n|---|---|")
    print(f"| imports, nothing trained | {peak(lambda: None):.2f} |", flush=True)
    for title, options in SAVINGS.items():

        def job(options: dict[str, Any] = options) -> None:
            chosen = {"precision": "32-true"} | options
            with tempfile.TemporaryDirectory() as folder:
                pretrain(args.corpus, out_dir=folder, steps=3, **common(args), **chosen)

        print(f"| {title} | {peak(job):.2f} |", flush=True)


def epoch(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = pretrain(args.corpus, out_dir=folder, epochs=1, **common(args))
        seconds = time.perf_counter() - started
    data = result.encoder.card.training["data"]
    print(
        f"\nan epoch of {data}, {result.steps} steps, start and end included: {seconds:.0f} s (wall)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--only", choices=("speed", "memory", "epoch"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'GPU' if CUDA else 'CPU'}, batch {chosen.batch} of {chosen.crop} px, {chosen.steps} steps"
    )
    for part in (memory, speed, epoch):  # memory first: its processes are forks of a bare one
        if chosen.only in {None, part.__name__}:
            part(chosen)
