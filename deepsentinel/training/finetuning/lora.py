"""Low-rank adaptation: an encoder learns a few numbers beside each of its layers.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021 (arXiv 2106.09685). The weight
of a layer becomes W + alpha / rank * up @ down; W stays as it is, and after training the sum takes
its place, so that the result is the same encoder with other weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deepsentinel.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """What of an encoder is adapted, and by how much.

    Raises:
        ConfigError: a number is out of range.
    """

    rank: Annotated[int, "Rank of each change, at least 1: how much a layer can learn."] = 8
    alpha: Annotated[float, "Scale of the changes, above 0; they count alpha / rank."] = 16.0
    targets: Annotated[
        tuple[str, ...],
        "Words of which a layer's name must hold one, such as qkv; empty: all layers that can be "
        "adapted, which are linear layers and convolutions without groups.",
    ] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ConfigError(
                f"lora: rank={self.rank}, alpha={self.alpha}; rank is at least 1, alpha above 0."
            )


class Change(nn.Module):
    """A low-rank change of a weight; at first it changes nothing.

    Example:
        >>> weight = torch.ones(4, 3, 1, 1)
        >>> torch.equal(Change(weight, LoRA(rank=2), torch.Generator())(weight), weight)
        True
    """

    def __init__(self, weight: Tensor, lora: LoRA, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        down = torch.randn(lora.rank, columns, generator=generator) / columns**0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, lora.rank))
        self.scale = lora.alpha / lora.rank

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)


@contextmanager
def adapted(encoder: nn.Module, lora: LoRA | None, *, seed: int) -> Iterator[None]:
    """Changes beside the layers of an encoder, merged into its weights at the end.

    Its own parameters need no gradient meanwhile.

    Args:
        encoder: any encoder.
        lora: what is adapted; nothing if `None`.
        seed: decides the first values.

    Raises:
        ConfigError: no layer can be adapted.
    """
    if lora is None:
        yield
        return
    layers = adaptable(encoder, lora)
    generator = torch.Generator().manual_seed(seed)
    needed = [(p, p.requires_grad) for p in encoder.parameters()]
    encoder.requires_grad_(False)  # noqa: FBT003 - torch's signature
    for layer in layers:
        change = Change(layer.weight, lora, generator)
        parametrize.register_parametrization(layer, "weight", change)
    try:
        yield
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight")
        for parameter, was_needed in needed:
            parameter.requires_grad_(was_needed)


def adaptable(encoder: nn.Module, lora: LoRA) -> list[Any]:
    """The layers of an encoder that are adapted.

    Raises:
        ConfigError: there is none.
    """
    named = [
        (name, m)
        for name, m in encoder.named_modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)
    ]
    chosen = [
        m
        for name, m in named
        if (not lora.targets or any(word in name for word in lora.targets))
        and not parametrize.is_parametrized(m)
        and min(m.weight.shape[0], m.weight[0].numel()) > lora.rank
    ]
    if not chosen:
        last = [name for name, _ in named][-4:]
        raise ConfigError(
            f"lora: no layer of this {type(encoder).__name__} is wider than rank={lora.rank} and "
            f"has one of targets={lora.targets} in its name; the last of its {len(named)} layers "
            f"are {' '.join(last)}. Name other targets or a lower rank, or train without lora."
        )
    return chosen


def merged(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with all changes merged, under the names that it has without them.

    Example:
        >>> layer = nn.Sequential(nn.Linear(9, 9))
        >>> with adapted(layer, LoRA(), seed=0):
        ...     len(layer.state_dict()), sorted(merged(layer))
        (4, ['0.bias', '0.weight'])
    """
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        path, _, inner = name.partition(".parametrizations.weight.")
        module: Any = model.get_submodule(path) if inner else None
        if module is None or not _changed(module):
            state[name] = value
        elif inner == "original":
            with torch.no_grad():
                state[f"{path}.weight"] = module.weight.detach()
    return state


def _changed(module: Any) -> bool:
    return isinstance(module.parametrizations["weight"][-1], Change)
