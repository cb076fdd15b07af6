"""Which parameter learns how fast at which step."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

from torch import nn

from deepsentinel.bands import SENSORS
from deepsentinel.errors import ConfigError
from deepsentinel.training.finetuning.options import FinetuneConfig


@dataclass(frozen=True)
class Schedule:
    """Shares of the learning rate: a linear warm-up, then half a cosine to 0.

    Example:
        >>> schedule = Schedule(steps=100, warmup=4)
        >>> [round(schedule.factor(step), 2) for step in (0, 3, 4, 52, 100)]
        [0.2, 0.8, 1.0, 0.5, 0.0]
    """

    steps: int
    warmup: int
    start: int = 0
    """Step before which it is 0; the warm-up begins there, the cosine is as for all."""

    def factor(self, step: int) -> float:
        """Share of the learning rate at a step."""
        if step < self.start:
            return 0.0
        rise = min(1.0, (step - self.start + 1) / (self.warmup + 1))
        fallen = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return rise * 0.5 * (1 + cos(pi * fallen))


def factors(
    config: FinetuneConfig, steps_per_epoch: int, groups: list[dict[str, Any]]
) -> list[Callable[[int], float]]:
    """The share of the learning rate at a step, for each group of `parameter_groups`."""
    steps = config.epochs * steps_per_epoch
    warmup = max(1, round(config.warmup * steps))
    start = ((config.unfreeze_epoch or 1) - 1) * steps_per_epoch
    by_part = {
        "head": Schedule(steps, warmup).factor,
        "encoder": Schedule(steps, warmup, start).factor,
    }
    return [by_part[group["part"]] for group in groups]


def parameter_groups(model: Any, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and decay: none on biases, norms and other vectors.

    Raises:
        ConfigError: `layer_decay` for an encoder without blocks that follow each other.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inside = any(name.startswith("encoder.") for name, _ in trained)
    scales = layer_scales(model.encoder, config.layer_decay) if inside else {}
    groups: dict[tuple[str, float, bool], dict[str, Any]] = {}
    for name, parameter in trained:
        part, _, inner = name.partition(".")
        part, decayed = ("encoder" if part == "encoder" else "head"), parameter.ndim > 1
        rate = config.rate_of_encoder * scales[inner] if part == "encoder" else config.lr
        decay = config.weight_decay if decayed else 0.0
        empty = {"params": [], "part": part, "lr": rate, "weight_decay": decay}
        groups.setdefault((part, rate, decayed), empty)["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: group["part"] != "head")


def layer_scales(encoder: nn.Module, decay: float) -> dict[str, float]:
    """The share of the encoder's learning rate that each of its parameters has.

    What lies behind the last block has all of it; each block has `decay` of what the next one has,
    as has what lies before the first block. Towers of several sensors count side by side.

    Raises:
        ConfigError: the encoder has no blocks that follow each other.

    Example:
        >>> block = lambda: nn.Sequential(nn.Linear(2, 2))
        >>> net = nn.ModuleDict({"stem": nn.Linear(2, 2), "blocks": nn.Sequential(block(), block())})
        >>> scales = layer_scales(net, 0.5)
        >>> [scales[f"{n}.weight"] for n in ("stem", "blocks.0.0", "blocks.1.0")]
        [0.25, 0.5, 1.0]
    """
    depths = layer_depths(encoder)
    deepest = max(depths.values(), default=0)
    if decay < 1 and not deepest:
        raise ConfigError(
            f"layer_decay={decay}: this {type(encoder).__name__} has no blocks that follow each "
            "other. Leave it at 1."
        )
    return {name: decay ** (deepest - depth) for name, depth in depths.items()}


def layer_depths(encoder: nn.Module) -> dict[str, int]:
    """How many blocks of its tower each parameter lies behind or in.

    A block is a part with parts of its own in a list or sequence that lies in no other block.
    """
    blocks = _blocks(encoder)
    seen: dict[str, list[str]] = {}
    depths: dict[str, int] = {}
    for name, _ in encoder.named_parameters():
        tower = next((part for part in name.split(".") if part in SENSORS), "")
        passed = seen.setdefault(tower, [])
        block = next((b for b in blocks if name.startswith(f"{b}.")), None)
        if block is not None and block not in passed:
            passed.append(block)
        joined = max(len(found) for found in seen.values())
        depths[name] = len(passed) if tower else joined
    return depths


def _blocks(encoder: nn.Module) -> list[str]:
    found: list[str] = []
    for name, module in encoder.named_modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        if any(name.startswith(f"{block}.") or name == block for block in found):
            continue
        found += [f"{name}.{n}" for n, child in module.named_children() if _has_parts(child)]
    return found


def _has_parts(module: nn.Module) -> bool:
    return any(name != "parametrizations" for name, _ in module.named_children())
