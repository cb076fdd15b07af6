"""What the pretraining loop costs beside the bare forward and backward pass of the same network.

    python tests/benchmarks/pretrain.py CORPUS [--crop 64] [--batch 32] [--steps 100] [--rounds 3]

The bare way repeats objective and backward pass on one batch in memory; with "+ AdamW" the
clipped optimiser step too. The loop reads the corpus with crops and turns in the same process,
steps, logs every 50 steps, looks at the spread of embeddings every 100, and keeps a checkpoint at its
end (not counted). After every ten steps of the loop come ten bare ones, so that what else the
machine does slows both alike; but a thread of the loop reads ahead, so that wall time wants a core
that nobody else uses. CPU time is that of the whole process, the reading thread included. One
thread computes; means of steps, medians over rounds. The goal is that data and bookkeeping cost at
most 10 % of the steps a second. Then: peak memory of each way to save some, each in a process of
its own, and the time of an epoch.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
IN_A_ROW = 10
"""Steps of the loop between which there are as many bare ones."""
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


def clock() -> NDArray[np.float64]:
    """Seconds by the wall, and of this process."""
    if CUDA:
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


class Bare:
    """Objective and backward pass of a network of its own on one batch in memory."""

    def __init__(self, args: argparse.Namespace, backbone: str, name: str) -> None:
        self.encoder, self.objective = network(backbone, name)
        device = torch.device("cuda" if CUDA else "cpu")
        self.both = nn.ModuleList([self.encoder, self.objective]).to(device).train()
        groups = parameter_groups(list(self.both), 0.05)
        self.optimiser = torch.optim.AdamW(groups, lr=1e-4, fused=True)
        self.batch = one_batch(args, self.encoder, device)
        self.spent: dict[bool, list[NDArray[np.float64]]] = {False: [], True: []}

    def step(self, number: int) -> NDArray[np.float64]:
        """Seconds of a step, every other one with clipping and AdamW."""
        started, optimise = clock(), number % 2 == 1
        losses = self.objective(self.encoder, self.batch, torch.Generator().manual_seed(number))
        losses["loss"].backward()
        if optimise:
            nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.spent[optimise].append(clock() - started)
        return self.spent[optimise][-1]


class Timed(Objective):
    """An objective of a loop that now and then lets a bare network take as many steps."""

    def __init__(self, inner: Objective, bare: Bare) -> None:
        super().__init__()
        self.inner, self.other = inner, [bare]  # in a list: it is no part of what is trained
        self.ends: list[NDArray[np.float64]] = []
        self.borrowed = np.zeros(2)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        self.ends.append(clock() - self.borrowed)
        if len(self.ends) % IN_A_ROW == 0:
            for number in range(IN_A_ROW):
                self.borrowed += self.other[0].step(number)
        losses: dict[str, Tensor] = self.inner(encoder, batch, generator)
        return losses


def network(backbone: str, name: str) -> tuple[FusionEncoder, Objective]:
    torch.manual_seed(0)
    encoder = FusionEncoder(backbone)
    return encoder, make_objective(name, encoder)


def one_batch(args: argparse.Namespace, encoder: FusionEncoder, device: torch.device) -> Batch:
    framing = Framing(encoder.bands, crop=args.crop)
    data = DeepSentinelDataset(args.corpus, None, labels=())
    batch = MapFeed([data], framing, batch_size=args.batch, seed=0).look(args.batch)
    del batch[EMPTY_KEY]
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def loop(args: argparse.Namespace, backbone: str, name: str) -> NDArray[np.float64]:
    """Seconds a step, (3, 2): bare, with AdamW, and of the loop; by the wall, and of the process."""
    bare = Bare(args, backbone, name)
    encoder, inner = network(backbone, name)
    objective = Timed(inner, bare)
    with tempfile.TemporaryDirectory() as folder:
        pretrain(
            args.corpus,
            out_dir=folder,
            encoder=encoder,
            objective=objective,
            **common(args),
            steps=LEFT_OUT + args.steps + 1,
            log_every=50,
            precision="32-true",
        )
    ends = objective.ends
    seconds = (ends[LEFT_OUT + args.steps] - ends[LEFT_OUT]) / args.steps
    few = LEFT_OUT // 2
    return np.stack([*(np.mean(bare.spent[o][few:], axis=0) for o in (False, True)), seconds])


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
        "| backbone, objective | bare | + AdamW | loop | Mpx/s | loop / bare | loop / + AdamW ",
        end="",
    )
    print("| CPU time: loop / bare | loop / + AdamW |\n|---|---|---|---|---|---|---|---|---|")
    for backbone in args.backbones:
        for name in args.objectives:
            rounds = np.stack([loop(args, backbone, name) for _ in range(args.rounds)])
            bare, adam, ours = np.median(rounds, axis=0)[:, 0]
            over = np.median(rounds[:, 2:] / rounds[:, :2], axis=0)  # (2, 2): of what, clock
            pixels = args.batch * args.crop**2 / ours / 1e6
            print(
                f"| {backbone}, {name} | {bare * 1e3:.0f} ms | {adam * 1e3:.0f} ms "
                f"| {ours * 1e3:.0f} ms | {pixels:.2f} | {over[0, 0]:.3f} | {over[1, 0]:.3f} "
                f"| {over[0, 1]:.3f} | {over[1, 1]:.3f} |",
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
