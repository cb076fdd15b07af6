"""Rows of public encoders whose files torchgeo 0.8 lists: where they are, what they saw; no torch.

Addresses and hash prefixes are those of torchgeo's weights, licences those of its documentation.
Normalisation is the authors' (see `encoders.scaling`), which is not always torchgeo's: it gives
standard scores of radar to weights that were trained on 0-1.
"""

from collections.abc import Mapping
from typing import Any

from deepsentinel.encoders.card import FREE_USE
from deepsentinel.zoo.public import B10, DARKER, LEVELS, SSL4EO_DATA, PublicRow, public_card
from deepsentinel.zoo.towers import TOWERS


def _whole(
    name: str, kind: str, arguments: Mapping[str, Any], url: str, stride: int, **facts: Any
) -> PublicRow:
    width = facts.pop("width")
    card = public_card(
        name=name,
        sources={"both": url},
        embed_dim=width,
        out_channels=(width,),
        strides=(stride,),
        **facts,
    )
    return PublicRow(card=card, kind=kind, arguments=arguments)


_HF_DOFA = "hf://torchgeo/dofa@b8db318b64a90b9e085ec04ba8851233c5893666/"
_CROMA: dict[str, Any] = {
    "scaled": "croma",
    "stride": 8,
    "input_px": 120,
    "normalisation_source": "github.com/antofuller/CROMA, README (to 0-1 by mean and 2 standard "
    "deviations of the dataset), with those of SSL4EO-S12, GRD and Level-2A",
    "preprocessing": "Both sensors to 0-1 by mean and 2 standard deviations of each band, clipped. The "
    "authors take those of the data at hand; here they are those of the data it was trained on, so "
    "that a patch does not depend on its neighbours. What was not observed enters as the mean.",
    "levels": LEVELS["L2A"],
    "fusion": "joint transformer where both sensors saw the patch, else the one sensor's own",
    "licence": "CC-BY-4.0",
    "restrictions": FREE_USE["CC-BY-4.0"],
    "data_licence": SSL4EO_DATA,
    "citation": "Fuller et al., CROMA: Remote Sensing Representations with Contrastive Radar-Optical "
    "Masked Autoencoders. arXiv 2311.00566, 2023.",
    "limits": "Use this when both sensors are there and patches are near 120 px. Patches are resized "
    "to 120 x 120 px inside: cut larger ones, small ones are shown enlarged.",
}
_DOFA: dict[str, Any] = {
    "scaled": "dofa",
    "stride": 16,
    "input_px": 224,
    "normalisation_source": "github.com/zhu-xlab/DOFA, README (8-bit pictures: VV 166.4 and 64.8, VH "
    "88.5 and 43.1; here in dB to first order); github.com/allenai/satlas, Normalization.md and issue "
    "49; reflectance 0.3558 at 255 of ESA's true colour image",
    "preprocessing": "Both sensors to what the 8-bit pictures of SatlasPretrain hold, then standard "
    "scores by the authors' statistics of these pictures; not rounded. Reflectance is clipped at 0.3558 "
    "in B02, B03, B04, else at 0.816. Radar's pictures are digital numbers of uncalibrated IW GRD, "
    "clipped at 255; dB become such numbers by 602 sqrt(10^(dB/10) + 10^-2.2), which is approximate: "
    "no publication states the gain, which this project derived from the annotation of one product for "
    "mid-swath (680 to 559 from near to far; docs/design/033), and the thermal noise is ESA's limit. "
    "What was not observed enters as the mean.",
    "levels": LEVELS["L1C"],
    "fusion": "late: each sensor through the one network, mean of those that saw something",
    "licence": "CC-BY-4.0",
    "restrictions": FREE_USE["CC-BY-4.0"],
    "data_licence": "ODC-BY (SatlasPretrain), CC0-1.0 (HySpecNet-11k); Five-Billion-Pixels has terms of "
    "its own, not looked at here",
    "citation": "Xiong et al., Neural Plasticity-Inspired Foundation Model for Observing the Earth "
    "Crossing Modalities. arXiv 2403.15356, 2024.",
    "limits": "Use this when bands vary and Sentinel-2 leads, of which it reads nine: Sentinel-1 enters "
    "through an approximate calibration that is this project's own. Patches are resized to 224 x 224 px "
    "inside. " + DARKER.strip(),
}

TORCHGEO: tuple[PublicRow, ...] = (
    *TOWERS,
    _whole(
        "croma-base",
        "CROMAEncoder",
        {"width": 768, "depth": 12},
        "hf://torchgeo/croma@387883f08af79d777167519c57cd826eda89a16f/CROMA_base-0238d814.pt",
        title="CROMA base",
        backbone="a radar and an optical ViT-B/8 and one that joins them",
        width=768,
        parameters=194_365_440,
        macs_per_px=10_718_435.25,
        **_CROMA,
    ),
    _whole(
        "croma-large",
        "CROMAEncoder",
        {"width": 1024, "depth": 24},
        "hf://torchgeo/croma@92cb1a0f4e34c6c01558baf070197c01255382f6/CROMA_large-921e69ad.pt",
        title="CROMA large",
        backbone="a radar and an optical ViT-L/8 and one that joins them",
        width=1024,
        parameters=672_557_056,
        macs_per_px=37_515_646.0,
        **_CROMA,
    ),
    _whole(
        "dofa-base",
        "DOFAEncoder",
        {"width": 768, "depth": 12, "heads": 12},
        _HF_DOFA + "dofa_base_patch16_224-a0275954.pth",
        title="DOFA base",
        backbone="ViT-B/16 with kernels generated from wavelengths",
        width=768,
        parameters=111_312_128,
        macs_per_px=8_731_471.8125,
        **_DOFA,
    ),
    _whole(
        "dofa-large",
        "DOFAEncoder",
        {"width": 1024, "depth": 24, "heads": 16},
        _HF_DOFA + "dofa_large_patch16_224-0ff904d3.pth",
        title="DOFA large",
        backbone="ViT-L/16 with kernels generated from wavelengths",
        width=1024,
        parameters=337_105_408,
        macs_per_px=30_249_494.8125,
        **_DOFA,
    ),
    _whole(
        "panopticon-base",
        "PanopticonEncoder",
        {"attention_width": 2304, "depth": 12},
        "hf://lewaldm/panopticon@c8c2bb9555819e8b2bcedf5b3b00e3bf531554e7/"
        "panopticon_vitb14_teacher.pth",
        14,
        scaled="standard",
        title="Panopticon base",
        normalisation_source="github.com/Panopticon-FM/panopticon, README (standard scores, 224 px); "
        "no statistics are published, those of SSL4EO-S12, GRD and Level-2A, stand in",
        preprocessing="Standard scores of both sensors. A band that a patch lacks altogether is left "
        "out; a missing pixel of a band that is there enters as the training mean. Radar's orbit "
        "direction is given as not known.",
        levels=LEVELS["both"],
        input_px=224,
        backbone="DINOv2 ViT-B/14 after attention over channels",
        fusion="attention over all channels of both sensors",
        width=768,
        parameters=98_120_448,
        macs_per_px=15_425_860.5,
        licence="Apache-2.0",
        restrictions=FREE_USE["Apache-2.0"],
        data_licence="ODC-BY (SatlasPretrain), CC-BY-4.0 (MMEarth); fMoW and SpectralEarth have terms "
        "of their own, not looked at here",
        citation="Waldmann et al., Panopticon: Advancing Any-Sensor Foundation Models for Earth "
        "Observation. arXiv 2503.10845, 2025.",
        limits="Use this when bands vary from patch to patch. Patches are resized to 224 x 224 px "
        "inside. Memory grows with the number of bands: some 35 MB a patch for 14 of them.",
    ),
    _whole(
        "copernicus-fm-base",
        "CopernicusFMEncoder",
        {"width": 768, "depth": 12, "heads": 12},
        "hf://torchgeo/copernicus-fm@f395812cc990ba25a451dbb9c9e6d95c8482947e/"
        "CopernicusFM_ViT_base_varlang-085350e4.pth",
        16,
        scaled="copernicus-fm",
        title="Copernicus-FM base",
        normalisation_source="github.com/zhu-xlab/Copernicus-FM, Copernicus-FM/src/main_pretrain.py",
        preprocessing="Standard scores of both sensors. " + B10.strip(),
        inputs={
            "month": "the learned token for an unknown time; a month is its 15th day in 2021",
            "lonlat": "the learned token for an unknown place",
        },
        levels=LEVELS["L1C"],
        input_px=224,
        backbone="ViT-B/16 with kernels generated from wavelengths and bandwidths",
        fusion="late: each sensor through the one network, mean of those that saw something",
        width=768,
        parameters=113_086_208,
        macs_per_px=8_794_789.8125,
        licence="CC-BY-4.0",
        restrictions=FREE_USE["CC-BY-4.0"],
        data_licence="CC-BY-4.0 (Copernicus-Pretrain)",
        citation="Wang et al., Towards a Unified Copernicus Foundation Model for Earth Vision. arXiv "
        "2503.11849, 2025.",
        limits="Use this when place and season are known. Patches are resized to 224 x 224 px inside. "
        + DARKER.strip(),
    ),
)
"""Public encoders, in the order of the table."""
