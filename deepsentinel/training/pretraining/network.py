"""The networks of a pretraining: as one module, on one device or several, at rest, in less memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deepsentinel.encoders.backbones import Backbone
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import TrainingError
from deepsentinel.objectives.objective import Objective
from deepsentinel.sample import Batch


class Step(nn.Module):
    """Encoder and objective as one module, so that one wrapper keeps both alike on all devices."""

    def __init__(self, encoder: FusionEncoder, objective: Objective) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """The losses of one batch."""
        losses: dict[str, Tensor] = self.objective(self.encoder, batch, generator)
        return losses


def joined(step: Step, fabric: Fabric) -> nn.Module:
    """A step whose gradients are averaged over all processes, where there are several."""
    if fabric.world_size == 1:
        return step
    if fabric.device.type == "cuda":
        share_batch_statistics(step)
    # What an objective does not read, such as the finest map, gets no gradient.
    return DistributedDataParallel(step, find_unused_parameters=True)


def share_batch_statistics(step: Step) -> None:
    """Let batch normalisation count over the patches of all processes instead of its own.

    In place; names, weights and what is computed at rest stay as they are. torch does it on GPUs
    only.

    Example:
        >>> from deepsentinel.objectives.registry import make_objective
        >>> encoder = FusionEncoder("resnet10t")
        >>> share_batch_statistics(Step(encoder, make_objective("byol", encoder)))
        >>> any(type(part) is nn.BatchNorm2d for part in encoder.modules())
        False
    """
    convert_sync_batchnorm(step)


@contextmanager
def at_rest(fabric: Fabric, *modules: nn.Module) -> Iterator[None]:
    """Modules that are looked at: evaluation mode, no gradient, not compiled anew for it."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), fabric.autocast(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for part, training in modes:
            part.training = training


def parameter_groups(modules: list[nn.Module], decay: float) -> list[dict[str, Any]]:
    """Trainable parameters by decay: none on biases, norms and other vectors."""
    trainable = [p for m in modules for p in m.parameters() if p.requires_grad]
    groups = [(decay, [p for p in trainable if p.ndim > 1])]
    groups += [(0.0, [p for p in trainable if p.ndim < 2])]
    return [{"params": found, "weight_decay": d} for d, found in groups if found]


def checkpoint_activations(encoder: nn.Module) -> None:
    """Let the backbones compute their activations twice instead of keeping them.

    Raises:
        TrainingError: timm cannot do that with this backbone.

    Example:
        >>> checkpoint_activations(FusionEncoder("resnet10t"))
    """
    for backbone in [m for m in encoder.modules() if isinstance(m, Backbone)]:
        net: Any = backbone.net
        network: Any = (
            net if hasattr(net, "set_grad_checkpointing") else getattr(net, "model", None)
        )
        if not hasattr(network, "set_grad_checkpointing"):
            raise TrainingError(
                f"timm cannot recompute activations of {backbone.name!r}. Leave out "
                "checkpointing, or choose another backbone (ResNet, ConvNeXt, ViT and Swin can)."
            )
        network.set_grad_checkpointing(True)
