"""Tiny encoders and batches for every objective."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from deepsentinel.bands import S1_BANDS, S2_BANDS
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.objectives.objective import Objective
from deepsentinel.objectives.registry import make_objective
from deepsentinel.sample import PatchMeta

NAN = float("nan")
BACKBONES = {
    "convnext_atto": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)},
    "vit_tiny_patch16_224": {"embed_dim": 24, "depth": 3, "num_heads": 2},
}
OPTIONS = {
    "simclr": {"hidden": 32, "out": 16},
    "moco": {"hidden": 32, "out": 16, "queue": 16},
    "byol": {"hidden": 32, "out": 16},
    "vicreg": {"hidden": 32, "out": 16},
    "tile2vec": {},
    "masked": {"width": 16, "block": 8},
    "vae": {"width": 16, "latent": 8},
    "pix2pix": {"width": 16, "layers": 2},
    "alae": {"width": 16, "noise": 8},
    "distillation": {"width": 16},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_encoder(backbone: str = "convnext_atto", **options) -> FusionEncoder:
    torch.manual_seed(0)
    return FusionEncoder(backbone, backbone_options=BACKBONES[backbone], **options)


def make(name: str, encoder: FusionEncoder, **options) -> Objective:
    torch.manual_seed(1)
    options = OPTIONS[name] | options
    if name == "distillation":
        options = {"teachers": (make_encoder(embed_dim=12).eval(),), **options}
    return make_objective(name, encoder, options)


def make_batch(count: int = 4, size: int | tuple[int, int] = 32, seed: int = 0) -> dict:
    """Smooth patches of both sensors, their neighbours, and their places."""
    g = seeded(seed)
    size = (size, size) if isinstance(size, int) else size

    def image(bands: int) -> torch.Tensor:
        coarse = torch.randn(count, bands, 4, 4, generator=g)
        smooth = nn.functional.interpolate(coarse, size, mode="bilinear")
        return smooth + 0.1 * torch.randn(smooth.shape, generator=g)

    metas = [
        PatchMeta(id=f"patch {i}", lon=10.0 + i, lat=50.0, bands_s1=S1_BANDS, bands_s2=S2_BANDS)
        for i in range(count)
    ]
    return {
        "meta": metas,
        "image_s1": -14 + 4 * image(2),
        "image_s2": 0.1 + 0.05 * image(12),
        "neighbour_s1": -14 + 4 * image(2),
        "neighbour_s2": 0.1 + 0.05 * image(12),
    }


def with_bands(batch: dict, **bands: tuple[str, ...]) -> dict:
    """The batch with only these bands of a sensor, its neighbours too."""
    out = dict(batch)
    for sensor, names in bands.items():
        known = S1_BANDS if sensor == "s1" else S2_BANDS
        places = [known.index(b) for b in names]
        for key in (f"image_{sensor}", f"neighbour_{sensor}"):
            out[key] = batch[key][:, places]
        out["meta"] = [replace(m, **{f"bands_{sensor}": names}) for m in out["meta"]]
    return out


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for m in modules for p in m.parameters() if p.requires_grad]


def train(
    encoder: FusionEncoder,
    objective: Objective,
    batch: Callable[[int], dict],
    *,
    steps: int,
    lr: float = 3e-3,
    generator: Callable[[int], torch.Generator] = seeded,
) -> list[dict[str, float]]:
    """Losses of a few steps, each with a batch and a generator of its own."""
    optimiser = torch.optim.Adam(trainable(encoder, objective), lr=lr)
    course = []
    for step in range(steps):
        losses = objective(encoder, batch(step), generator(step))
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        objective.after_step(encoder, step, steps)
        course.append({k: v.item() for k, v in losses.items()})
    return course


@pytest.fixture
def encoder() -> FusionEncoder:
    return make_encoder()
