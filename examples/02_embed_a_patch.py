"""Embed a patch from either sensor or both, with clouds and few bands. Runs offline."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import deepsentinel
from deepsentinel.bands import S2_BANDS
from deepsentinel.errors import UnitsError


def scene() -> tuple[Tensor, Tensor]:
    """A made-up patch of 100 x 80 px, a field beside water: dB (2, H, W), reflectance (12, H, W)."""
    generator = torch.Generator().manual_seed(0)
    field = torch.tensor([0.03, 0.04, 0.07, 0.06, 0.1, 0.25, 0.32, 0.34, 0.36, 0.36, 0.2, 0.1])
    water = torch.tensor([0.05, 0.05, 0.04, 0.03, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.0])
    land = torch.arange(80).expand(100, 80) < 50
    s2 = torch.where(land, field[:, None, None], water[:, None, None])
    s1 = torch.where(land, torch.tensor([-10.0, -16.0])[:, None, None], -22.0)
    noise = torch.randn(14, 100, 80, generator=generator)
    return s1 + 1.5 * noise[:2], s2 + 0.005 * noise[2:]


def main() -> None:
    encoder = deepsentinel.load_encoder()
    card = encoder.card
    print(f"{card.name}: {card.parameters:,} parameters, {card.macs_per_px:,.0f} MACs a pixel")
    print("bands:     ", {sensor: " ".join(bands) for sensor, bands in encoder.bands.items()})

    s1, s2 = scene()
    cloudy = s2.clone()
    cloudy[:, 20:60, 10:60] = float("nan")  # what was not observed is NaN
    rgb = ("B04", "B03", "B02")
    chosen = s2[[S2_BANDS.index(name) for name in rgb]]

    with torch.inference_mode():
        both = encoder(s1=s1[None], s2=s2[None])
        views = {
            "s1 alone": encoder(s1=s1[None]),
            "s2 alone": encoder(s2=s2[None]),
            "both, clouds": encoder(s1=s1[None], s2=cloudy[None]),
            "only RGB": encoder(s2=chosen[None], s2_bands=rgb),
        }
    print("embedding: ", tuple(both.embedding.shape))
    for level, stride in zip(both.maps, both.strides, strict=True):
        print(f"map:        {tuple(level.shape)} at stride {stride}")
    for name, view in views.items():
        likeness = cosine_similarity(view.embedding, both.embedding).item()
        print(f"{name:12s} to both: cosine similarity {likeness:.3f}")

    try:
        encoder(s2=s2[None] * 10_000)
    except UnitsError as error:
        print("refused:   ", error)


if __name__ == "__main__":
    main()
