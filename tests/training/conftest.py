"""Small labelled patches whose class is in their pixels, and small models for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.heads.classification import Classifier
from deepsentinel.heads.segmentation import Segmenter
from deepsentinel.sample import PatchMeta, Sample


def make_samples(count: int, seed: int = 0) -> list[Sample]:
    """Three land covers, some bright in reflectance, some in radar; some pixels not labelled."""
    g = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(count):
        mask = torch.randint(0, 3, (2, 2), generator=g).repeat_interleave(16, 0)
        mask = mask.repeat_interleave(16, 1)
        s2 = 0.02 + 0.2 * (mask == 1) + 0.05 * torch.rand(12, 32, 32, generator=g)
        s1 = -15.0 + 6 * (mask == 2) + torch.randn(2, 32, 32, generator=g)
        label = mask.flatten().mode().values
        mask[:2] = -1
        meta = PatchMeta(id=f"p{seed}-{i}", lon=10 + 0.1 * i, lat=50.0)
        samples.append({"meta": meta, "image_s1": s1, "image_s2": s2, "mask": mask, "label": label})
    return samples


def make_model(kind: str = "linear", seed: int = 0) -> Any:
    """A segmenter of that decoder, or with "classifier" a classifier, on a small encoder."""
    torch.manual_seed(seed)
    options = {"drop_path_rate": 0.1}
    encoder = FusionEncoder("resnet10t", levels=(1, 2), embed_dim=16, backbone_options=options)
    if kind == "classifier":
        return Classifier(encoder, 3, head="mlp", dropout=0.2)
    return Segmenter(encoder, 3, kind, channels=32, class_names=("a", "b", "c"))


@pytest.fixture
def samples() -> Callable[..., list[Sample]]:
    return make_samples


@pytest.fixture
def model() -> Callable[..., Any]:
    return make_model
