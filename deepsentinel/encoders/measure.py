"""What an encoder costs, measured and not estimated."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deepsentinel.bands import Sensor

_SIZE = 64
_LEVELS: dict[Sensor, float] = {"s1": -12.0, "s2": 0.05}


def macs_per_px(encoder: nn.Module, bands: Mapping[Sensor, Sequence[str]]) -> float:
    """Multiply-accumulates of convolutions and matrix products a pixel, at 64 x 64 px.

    Example:
        >>> from deepsentinel.encoders.fusion import FusionEncoder
        >>> encoder = FusionEncoder("convnext_atto")
        >>> macs_per_px(encoder, encoder.bands)
        11902.1875
    """
    device = next(encoder.parameters()).device
    inputs: dict[str, object] = {}
    for sensor, names in bands.items():
        shape = (1, len(names), _SIZE, _SIZE)
        inputs[sensor] = torch.full(shape, _LEVELS[sensor], device=device)
        inputs[f"{sensor}_bands"] = names
    training = encoder.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.eval()(**inputs)
    encoder.train(training)
    return float(counter.get_total_flops()) / 2 / _SIZE**2
