"""One vector a patch that every parameter of an encoder has a part in."""

import torch
from torch import Tensor, nn

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.features import Features


class Summary(nn.Module):
    """The embedding, with what it does not read of the encoder's maps added to it.

    Most embeddings depend on the whole network, and are returned as they are. Where some levels
    feed the maps only (the gates of mid fusion, the branches of HRNet), the means of those maps
    are added through a linear layer each, so that they learn too.

    Attributes:
        levels: maps that are added.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> summary = Summary(encoder)
        >>> summary.levels, summary(encoder(s1=torch.full((2, 2, 32, 32), -9.0))).shape
        ((), torch.Size([2, 512]))
    """

    def __init__(self, encoder: FusionEncoder) -> None:
        super().__init__()
        self.levels = unread_levels(encoder)
        self.joins = nn.ModuleList(
            nn.Linear(encoder.out_channels[i], encoder.embed_dim, bias=False) for i in self.levels
        )

    def forward(self, features: Features) -> Tensor:
        """(B, D)."""
        vector = features.embedding
        for level, join in zip(self.levels, self.joins, strict=True):
            vector = vector + join(features.maps[level].mean(dim=(2, 3)))
        return vector


def unread_levels(encoder: FusionEncoder) -> tuple[int, ...]:
    """Maps that depend on parameters which neither the embedding nor a map before does.

    Found by one forward and backward pass of an empty patch.

    Example:
        >>> unread_levels(FusionEncoder("resnet10t", fusion="mid"))
        (0, 1, 2, 3)
    """
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    weight = next(encoder.parameters())
    images = {
        s: torch.full((1, len(encoder.bands[s]), 32, 32), 0.1, device=weight.device)
        for s in encoder.sensors
    }
    training = encoder.training
    encoder.eval()
    try:
        with torch.enable_grad():
            features = encoder(
                **images,
                s1_bands=encoder.bands.get("s1"),
                s2_bands=encoder.bands.get("s2"),
                check="never",
            )
            known = _reached(features.embedding, parameters)
            unread: list[int] = []
            for level in reversed(range(len(features.maps))):
                found = _reached(features.maps[level], parameters)
                if found - known:
                    unread.append(level)
                    known |= found
    finally:
        encoder.train(training)
    return tuple(sorted(unread))


def _reached(output: Tensor, parameters: list[nn.Parameter]) -> set[int]:
    if not parameters:
        return set()
    grads = torch.autograd.grad(output.sum(), parameters, retain_graph=True, allow_unused=True)
    return {i for i, grad in enumerate(grads) if grad is not None}
