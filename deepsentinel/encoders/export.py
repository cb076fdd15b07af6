"""An encoder as `torch.export` wants it."""

from typing import Any

from torch import Tensor, nn


class Exportable(nn.Module):
    """An encoder as `torch.export` and other runtimes want it: tensors in, a tuple of tensors out.

    Bands are those of the encoder in its own order, an absent sensor is all NaN, and a patch that
    was observed nowhere gives NaN. The number of patches and their size can be dynamic: height and
    width from one pixel above the backbone's divisor (33 px for most); smaller ones, and Swin
    backbones, export with a fixed size.

    Example:
        >>> import torch
        >>> from torch.export import Dim, export
        >>> from deepsentinel.encoders.fusion import FusionEncoder
        >>> encoder = FusionEncoder("mobilenetv4_conv_small_050").eval()
        >>> example = (torch.full((2, 2, 64, 96), -12.0), torch.full((2, 12, 64, 96), 0.1))
        >>> axes = {0: Dim("B"), 2: Dim("H", min=33), 3: Dim("W", min=33)}
        >>> program = export(encoder.exportable(), example, dynamic_shapes=(axes, axes))
        >>> absent = torch.full((1, 12, 47, 61), float("nan"))
        >>> embedding, *maps = program.module()(torch.full((1, 2, 47, 61), -12.0), absent)
        >>> embedding.shape, len(maps)
        (torch.Size([1, 480]), 5)
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, s1: Tensor | None, s2: Tensor | None) -> tuple[Tensor, ...]:
        """Embedding (B, D), then the maps, fine to coarse."""
        bands: Any = self.encoder.bands
        features = self.encoder(
            s1, s2, s1_bands=bands.get("s1"), s2_bands=bands.get("s2"), check="never", empty="nan"
        )
        return (features.embedding, *features.maps)
