"""Backbones where parts of the input were not observed."""

import pytest
import torch

from deepsentinel.encoders.backbones import Backbone


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_places_that_were_not_observed_do_not_drown_the_gradient(name):
    """Where the input is 0 the stem's output was too, and its LayerNorm divided by nothing."""
    options = {"depths": (1, 1, 1, 1)}
    options |= {"dims": (8, 16, 24, 32)} if name == "convnext_atto" else {"embed_dim": 24}
    torch.manual_seed(0)
    backbone = Backbone(name, in_channels=4, options=options)
    x = torch.randn(2, 4, 64, 64)

    def greatest(x: torch.Tensor) -> float:
        backbone.zero_grad()
        sum(m.square().mean() for m in backbone(x)).backward()
        return max(float(p.grad.norm()) for p in backbone.parameters() if p.grad is not None)

    usual = greatest(x)
    x[:, :, 16:48, 16:48] = 0
    assert greatest(x) < 50 * usual
    stem = next(m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        stem.bias.zero_()  # as timm begins
    assert greatest(x) > 1000 * usual
