"""A second network that follows the first as a moving average, and facts about the process group."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.objectives.views import encode
from deepsentinel.sample import Batch

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Target(nn.Module):
    """An encoder and the layers behind it, copied, to follow theirs as a moving average.

    Example:
        >>> from deepsentinel.objectives.summary import Summary
        >>> encoder = FusionEncoder("resnet10t")
        >>> online = nn.Sequential(Summary(encoder), nn.Linear(512, 4))
        >>> target = Target(encoder, online)
        >>> target({"image_s1": torch.full((2, 2, 32, 32), -9.0)}).requires_grad
        False
    """

    def __init__(self, encoder: FusionEncoder, layers: nn.Module) -> None:
        super().__init__()
        self.encoder = frozen_copy(encoder)
        self.layers = frozen_copy(layers)

    @torch.no_grad()
    def forward(self, images: Batch) -> Tensor:
        """What the layers make of the features of images in the encoder's own bands."""
        seen: Tensor = self.layers(encode(self.encoder, images))
        return seen

    def follow(self, encoder: FusionEncoder, layers: nn.Module, momentum: float) -> None:
        """One step towards the encoder and layers that are trained."""
        follow(self.encoder, encoder, momentum)
        follow(self.layers, layers, momentum)


def frozen_copy(module: ModuleT) -> ModuleT:
    """A copy that no optimiser touches."""
    copied = copy.deepcopy(module)
    for parameter in copied.parameters():
        parameter.requires_grad = False
    return copied


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Move parameters to momentum * target + (1 - momentum) * source; buffers are copied.

    Example:
        >>> source, target = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = source.weight.data.fill_(1), target.weight.data.fill_(0)
        >>> follow(target, source, 0.9)
        >>> round(target.weight.item(), 4)
        0.1
    """
    pairs = zip(target.parameters(), source.parameters(), strict=True)
    for mine, theirs in pairs:
        mine.lerp_(theirs.detach().to(mine.dtype), 1 - momentum)
    for kept, given in zip(target.buffers(), source.buffers(), strict=True):
        kept.copy_(given)


def world_size() -> int:
    """Processes that train together; 1 where none were started."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def rank() -> int:
    """Which of the processes this is; 0 where none were started."""
    return distributed.get_rank() if world_size() > 1 else 0
