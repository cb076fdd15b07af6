"""Run by test_ranks.py in a process of its own: objectives by two forked processes over gloo.

Argument: a folder, in which each process leaves its losses as `rank<n>.pt`.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.objectives.registry import make_objective

STILL = {"crop": 1.0, "turn": False, "looks": 0.0, "gain_s1": 0.0, "gain_s2": 0.0,
         "hiding": {"s1": 0.0, "s2": 0.0, "bands": 0.0, "hole": 0.0}}  # fmt: skip
NAMES = ("simclr", "moco", "vicreg")
COUNT = 6


def parts(name: str):
    """Encoder and objective, built before the processes know of each other; nothing is drawn."""
    torch.manual_seed(0)
    options = {"dims": (8, 16, 16, 16), "depths": (1, 1, 1, 1)}
    encoder = FusionEncoder("convnext_atto", backbone_options=options, embed_dim=8)
    heads = {"between": "views", "view": STILL, "hidden": 16, "out": 8}
    objective = make_objective(name, encoder, heads)
    with torch.no_grad():
        for p in objective.parameters():
            p.add_(0.3 * torch.randn(p.shape))  # both looks are one: keys and queries must differ
    return encoder.eval(), objective.eval()


def images():
    g = torch.Generator().manual_seed(3)
    return {"image_s1": -14 + 4 * torch.randn(COUNT, 2, 32, 32, generator=g)}


def losses(made, batch, generator=0):
    """Loss and gradient of the first weights of the encoder."""
    found = {}
    for name, (encoder, objective) in made.items():
        encoder.zero_grad()
        loss = objective(encoder, batch, torch.Generator().manual_seed(generator))["loss"]
        loss.backward()
        found[name] = (loss.detach(), next(encoder.parameters()).grad.clone())
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    made = {name: parts(name) for name in NAMES}
    child = os.fork()
    rank = 0 if child else 1
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    half = slice(rank * COUNT // 2, (rank + 1) * COUNT // 2)
    batch = {k: v[half] for k, v in images().items()}
    torch.save(losses(made, batch, rank), folder / f"rank{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
