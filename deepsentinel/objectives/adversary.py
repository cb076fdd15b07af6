"""What adversarial objectives share: players that do not move each other, and a patch discriminator."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from deepsentinel.errors import ShapeError


def held(player: nn.Module) -> Callable[..., Any]:
    """A network as its opponent sees it: gradients pass through, its own parameters get none.

    Example:
        >>> import torch
        >>> player, x = nn.Linear(1, 1), torch.ones(1, 1, requires_grad=True)
        >>> held(player)(x).sum().backward()
        >>> x.grad is None, player.weight.grad is None
        (False, True)
    """
    fixed: Mapping[str, Tensor] = {k: p.detach() for k, p in player.named_parameters()}

    def call(*values: Any, **named: Any) -> Any:
        return functional_call(player, dict(fixed), values, named)

    return call


def weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over patches of the mean of each, with 0 or 1 as weight; 0 where no weight is left.

    Example:
        >>> import torch
        >>> weighted(torch.tensor([[2.0, 4.0], [9.0, 9.0]]), torch.tensor([1.0, 0.0])).item()
        3.0
    """
    means = values.flatten(1).mean(dim=1)
    return (means * weights).sum() / weights.sum().clamp_min(1)


def called_real(logits: Tensor) -> Tensor:
    """Cross-entropy of logits with "real", element by element.

    Example:
        >>> import torch
        >>> round(called_real(torch.zeros(1)).item(), 4)
        0.6931
    """
    return F.softplus(-logits)


def called_false(logits: Tensor) -> Tensor:
    """Cross-entropy of logits with "drawn", element by element.

    Example:
        >>> import torch
        >>> round(called_false(torch.tensor([-50.0])).item(), 4)
        0.0
    """
    return F.softplus(logits)


class PatchDiscriminator(nn.Module):
    """Real or drawn, for each of many overlapping squares of an image.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", arXiv
    1611.07004, appendix: 4 x 4 convolutions, `layers` of stride 2 and two of stride 1; with three layers
    each square is 70 pixels wide. Instance norm, as its batches are small.

    Args:
        channels: of the image and its condition.
        layers: convolutions of stride 2.
        width: channels of the first.

    Raises:
        ShapeError: called with an image too small for its layers.

    Example:
        >>> import torch
        >>> PatchDiscriminator(5)(torch.zeros(2, 5, 64, 64)).shape
        torch.Size([2, 1, 6, 6])
    """

    def __init__(self, channels: int, *, layers: int = 3, width: int = 64) -> None:
        super().__init__()
        self.least = 2 ** (layers + 2)
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        stack: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for place, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            stack += [
                nn.Conv2d(inputs, outputs, 4, 2 if place < layers else 1, 1),
                nn.InstanceNorm2d(outputs, affine=True),
                nn.LeakyReLU(0.2),
            ]
        self.stack = nn.Sequential(*stack, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 1, h, w)."""
        if min(image.shape[2:]) < self.least:
            raise ShapeError(
                f"patches of {image.shape[2]} x {image.shape[3]} px are too small for the "
                f"discriminator; {self.least} px are needed. Read larger patches, or give it fewer "
                "layers."
            )
        logits: Tensor = self.stack(image)
        return logits
