"""What every pretraining objective is, and the one contract that the training loop knows."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import SampleError
from deepsentinel.sample import Batch


class Objective(nn.Module, ABC):
    """A loss on an encoder and a batch without labels, with the heads that it needs.

    One optimiser and one backward pass serve every objective, adversarial ones too: the terms
    of `loss` that a discriminator minimises reach nothing but the discriminator, and the terms
    that the encoder minimises reach everything but it. A loop is therefore

        parameters = [*encoder.parameters(), *objective.parameters()]
        losses = objective(encoder, batch, generator)
        losses["loss"].backward()
        optimiser.step()
        objective.after_step(encoder, step, total)

    What must survive a kill (momentum encoders, queues, centres) is in `state_dict()`. The encoder
    is given to each call and not registered, so that it is saved and optimised once. All
    randomness comes from the generator, which is a CPU generator whatever the device, except that
    of layers inside the encoder (dropout, drop path), which draw from torch's own.
    """

    @abstractmethod
    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """Scalars by name: `loss` is to be minimised; the others, detached, are logged.

        Args:
            encoder: what is trained; it gets all sensors that it reads, NaN for an absent one.
            batch: as `deepsentinel.collate` makes it, on the device of the encoder. NaN, absent
                sensors and subsets of bands are welcome.
            generator: on the CPU; decides every draw.
        """

    def after_step(self, encoder: FusionEncoder, step: int, total: int) -> None:
        """Called after each step of the optimiser, `step` from 0 to `total` - 1."""

    def adversary(self) -> list[nn.Parameter]:
        """Parameters that play against the encoder, for a loop that gives them their own rate."""
        return []

    def scores(self, encoder: FusionEncoder, batch: Batch) -> dict[str, Tensor]:
        """Quality on a batch that is not trained on, such as PSNR; empty where there is none."""
        return {}

    def images(self, encoder: FusionEncoder, batch: Batch) -> dict[str, Tensor]:
        """Pictures by name, float (B, 3, H, W) from 0 to 1; empty where there are none."""
        return {}


def on_device(generator: Generator, device: torch.device) -> Generator:
    """A generator on a device that continues a CPU generator, for draws as large as an image.

    Example:
        >>> first, second = (
        ...     on_device(torch.Generator().manual_seed(1), torch.device("cpu")) for _ in range(2)
        ... )
        >>> torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))
        True
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    return Generator(device).manual_seed(seed)


def needs(patches: Tensor, least: int, reason: str) -> None:
    """Raise where a batch is too small for an objective.

    Raises:
        SampleError: fewer patches than `least`.
    """
    if len(patches) < least:
        raise SampleError(
            f"a batch of {len(patches)} patch was given, but {reason}: {least} or more are needed. "
            "Enlarge the batch; leave out the last, smaller one (drop_last=True)."
        )


def in_float32(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The function of tensors in float32, under autocast too: exponentials and logarithms need it.

    Example:
        >>> in_float32(torch.add, torch.ones(1).bfloat16(), torch.ones(1).bfloat16()).dtype
        torch.float32
    """
    with torch.autocast(tensors[0].device.type, enabled=False):
        return function(*(t.float() for t in tensors))


def detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses as they are returned: `loss` with its graph, all others without."""
    return {k: v if k == "loss" else v.detach() for k, v in losses.items()}
