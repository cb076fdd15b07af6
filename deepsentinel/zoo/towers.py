"""Rows of two public towers, one a sensor: what towers of one paper share, and their files; no torch."""

from dataclasses import dataclass

from deepsentinel.encoders.card import FREE_USE
from deepsentinel.zoo.public import (
    B10,
    DARKER,
    FUSION,
    LEVELS,
    SSL4EO_DATA,
    PublicRow,
    public_card,
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What towers of one paper share."""

    title: str
    scaling: str
    source: str
    """Of the normalisation."""
    preprocessing: str
    level: str
    licence: str
    data_licence: str = SSL4EO_DATA
    restrictions: str | None = None
    """What an uncommon licence forbids."""
    citation: str
    limits: str


_UNIT_S1 = "dB to 0-1 by mean and 2 standard deviations of each band, clipped; "
_NO_CUT = (
    "The authors first clip radar to the 1st and 99th percentile of each patch, which is left out. "
)
FAMILIES: dict[str, Family] = {
    "moco": Family(
        title="MoCo v2 of SSL4EO-S12",
        scaling="ssl4eo",
        source="github.com/zhu-xlab/SSL4EO-S12, src/benchmark/pretrain_ssl/datasets/SSL4EO",
        preprocessing=_UNIT_S1 + "reflectance as it is (digital numbers / 10000). " + B10 + _NO_CUT,
        level="L1C",
        licence="CC-BY-4.0",
        citation="Wang et al., SSL4EO-S12: A Large-Scale Multi-Modal, Multi-Temporal Dataset for "
        "Self-Supervised Learning in Earth Observation. arXiv 2211.07044, 2022.",
        limits="Use this when you want the best known baseline for Sentinel-2. " + DARKER,
    ),
    "decur": Family(
        title="DeCUR",
        scaling="ssl4eo",
        source="github.com/zhu-xlab/DeCUR, src/pretrain/datasets/SSL4EO/ssl4eo_dataset_lmdb_mm_norm.py",
        preprocessing=_UNIT_S1 + "reflectance as it is (digital numbers / 10000). " + B10 + _NO_CUT,
        level="L1C",
        licence="Apache-2.0",
        citation="Wang et al., Decoupling Common and Unique Representations for Multimodal "
        "Self-supervised Learning. arXiv 2309.05300, 2023.",
        limits="Use this when both sensors are there: the towers were trained together. " + DARKER,
    ),
    "softcon": Family(
        title="SoftCon",
        scaling="softcon",
        source="github.com/zhu-xlab/Copernicus-FM, Copernicus-Bench (norm_form softcon), by SoftCon's "
        "first author; statistics of SSL4EO-S12",
        preprocessing="Both sensors to 0-1 by mean and 2 standard deviations of each band, clipped. "
        + B10
        + _NO_CUT,
        level="L1C",
        licence="CC-BY-4.0",
        citation="Wang et al., Multi-Label Guided Soft Contrastive Learning for Efficient Earth "
        "Observation Pretraining. arXiv 2405.20462, 2024.",
        limits="Use this when labels are of land cover: it was guided by such labels. " + DARKER,
    ),
    "mae": Family(
        title="Masked autoencoder of SSL4EO-S12",
        scaling="ssl4eo",
        source="github.com/zhu-xlab/SSL4EO-S12, src/benchmark/pretrain_ssl/datasets/SSL4EO",
        preprocessing=_UNIT_S1 + "reflectance as it is (digital numbers / 10000). " + B10 + _NO_CUT,
        level="L1C",
        licence="CC-BY-4.0",
        citation="Wang et al., SSL4EO-S12: A Large-Scale Multi-Modal, Multi-Temporal Dataset for "
        "Self-Supervised Learning in Earth Observation. arXiv 2211.07044, 2022.",
        limits="Use this when you fine-tune: masked autoencoders are weak as they are. " + DARKER,
    ),
    "fgmae": Family(
        title="Feature guided masked autoencoder",
        scaling="ssl4eo",
        source="github.com/zhu-xlab/FGMAE, src/pretrain_ssl/datasets/SSL4EO/ssl4eo_dataset_lmdb.py",
        preprocessing=_UNIT_S1 + "reflectance as it is (digital numbers / 10000). " + B10 + _NO_CUT,
        level="L1C",
        licence="CC-BY-4.0",
        citation="Wang et al., Feature Guided Masked Autoencoder for Self-supervised Learning in "
        "Remote Sensing. arXiv 2310.18653, 2023.",
        limits="Use this when you fine-tune and radar matters. " + DARKER,
    ),
    "closp": Family(
        title="CLOSP",
        scaling="closp",
        source="github.com/DarthReca/closp, models/closp.py and dataset/crisis_land_mark.py",
        preprocessing="dB and reflectance as they are; B10 is 0, as in training. What was not observed "
        "enters as the mean of SSL4EO-S12, as none is published of the training data.",
        level="L2A",
        licence="OpenRAIL",
        data_licence="CrisisLandMark: those of its parts (BigEarthNet v2 and others)",
        restrictions="OpenRAIL lists uses that it forbids: read it before you deploy",
        citation="Rege Cambrin et al., Text-to-Remote-Sensing-Image Retrieval beyond RGB Sources. "
        "arXiv 2507.10403, 2025.",
        limits="Use this when Level-2A comes in, and for crises: it was trained with texts of land "
        "cover, floods, fires and earthquakes. The text side is not here. ",
    ),
}

_APART = "Vectors of both towers are put side by side; fusion='mean' averages them. "
_RESIZED = (
    "Patches are resized to 224 x 224 px inside: cut larger ones, small ones are shown enlarged. "
)


@dataclass(frozen=True, kw_only=True)
class Towers:
    """A timm network that a pair of files fills."""

    backbone: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    input_px: int | None
    parameters: int
    macs_per_px: float


_RESNET50 = Towers(
    backbone="resnet50",
    channels=(64, 256, 512, 1024, 2048),
    strides=(2, 4, 8, 16, 32),
    input_px=None,
    parameters=47_044_288,
    macs_per_px=169_968.0,
)
_S16 = Towers(
    backbone="vit_small_patch16_224",
    channels=(384,),
    strides=(16,),
    input_px=224,
    parameters=44_216_064,
    macs_per_px=2_287_696.5,
)
_B16 = Towers(
    backbone="vit_base_patch16_224",
    channels=(768,),
    strides=(16,),
    input_px=224,
    parameters=173_366_784,
    macs_per_px=8_660_385.0,
)
_L16 = Towers(
    backbone="vit_large_patch16_224",
    channels=(1024,),
    strides=(16,),
    input_px=224,
    parameters=608_962_560,
    macs_per_px=30_168_408.0,
)
_S14 = Towers(
    backbone="vit_small_patch14_dinov2",
    channels=(384,),
    strides=(14,),
    input_px=224,
    parameters=43_934_976,
    macs_per_px=3_032_356.5,
)
_B14 = Towers(
    backbone="vit_base_patch14_dinov2",
    channels=(768,),
    strides=(14,),
    input_px=224,
    parameters=172_804_608,
    macs_per_px=11_393_865.0,
)


def _pair(name: str, family: str, towers: Towers, s1: str, s2: str) -> PublicRow:
    facts = FAMILIES[family]
    resized = _RESIZED if towers.input_px else ""
    card = public_card(
        name=name,
        scaled=facts.scaling,
        sources={"s1": s1, "s2": s2},
        title=f"{facts.title}, a {towers.backbone} for each sensor",
        normalisation_source=facts.source,
        preprocessing=facts.preprocessing.strip(),
        levels=LEVELS[facts.level],
        input_px=towers.input_px,
        backbone=towers.backbone,
        fusion=FUSION["concat"],
        embed_dim=2 * towers.channels[-1] + 2,
        out_channels=tuple(2 * c + 2 for c in towers.channels),
        strides=towers.strides,
        parameters=towers.parameters,
        macs_per_px=towers.macs_per_px,
        licence=facts.licence,
        data_licence=facts.data_licence,
        restrictions=facts.restrictions or FREE_USE[facts.licence],
        citation=facts.citation,
        limits=(facts.limits + resized + _APART).strip(),
    )
    arguments = {"backbone": towers.backbone, "scaling": facts.scaling, "fusion": "concat"}
    return PublicRow(card=card, kind="TwoTowerEncoder", arguments=arguments)


_HF_MAE = "hf://wangyi111/SSL4EO-S12@75c72195d35201dc1fb210818993518c25da566b/"
_HF_FGMAE = "hf://wangyi111/FGMAE@24dd3077d7a99ecd454eaec7adb83d045d7fa122/"
_HF_SOFTCON = "hf://wangyi111/softcon@bae909781911f8ec034b4b959992fae17b973c0c/"
_HF_SOFTCON_RN = "hf://wangyi111/softcon@62ff465b2e7467dbfc70758ec1e9d08ab87fc46b/"
_HF_CLOSP = "hf://DarthReca/CLOSP-Visual@3bb8677c21dac56bea2dd7baa08d7871272db440/"

TOWERS: tuple[PublicRow, ...] = (
    _pair(
        "resnet50-moco",
        "moco",
        _RESNET50,
        "hf://torchgeo/resnet50_sentinel1_all_moco@e79862c667853c10a709bdd77ea8ffbad0e0f1cf/"
        "resnet50_sentinel1_all_moco-906e4356.pth",
        "hf://torchgeo/resnet50_sentinel2_all_moco@da4f3c9dbe09272eb902f3b37f46635fa4726879/"
        "resnet50_sentinel2_all_moco-df8b932e.pth",
    ),
    _pair(
        "resnet50-decur",
        "decur",
        _RESNET50,
        "hf://torchgeo/decur@9328eeb90c686a88b30f8526ed757b4bc0f12027/"
        "rn50_ssl4eo-s12_sar_decur_ep100-f0e69ba2.pth",
        "hf://torchgeo/decur@eba7ae5945d482a4319be046d34b552db5dd9950/"
        "rn50_ssl4eo-s12_ms_decur_ep100-fc6b09ff.pth",
    ),
    _pair(
        "resnet50-softcon",
        "softcon",
        _RESNET50,
        _HF_SOFTCON_RN + "B2_rn50_softcon.pth",
        _HF_SOFTCON_RN + "B13_rn50_softcon.pth",
    ),
    _pair(
        "resnet50-closp",
        "closp",
        _RESNET50,
        _HF_CLOSP + "closp-rn_s1_encoder-cacc90bc.pth",
        _HF_CLOSP + "closp-rn_s2_encoder-183922a5.pth",
    ),
    _pair(
        "vit-small-softcon",
        "softcon",
        _S14,
        _HF_SOFTCON + "B2_vits14_softcon_enc.pth",
        _HF_SOFTCON + "B13_vits14_softcon_enc.pth",
    ),
    _pair(
        "vit-base-softcon",
        "softcon",
        _B14,
        _HF_SOFTCON + "B2_vitb14_softcon_enc.pth",
        _HF_SOFTCON + "B13_vitb14_softcon_enc.pth",
    ),
    *(
        _pair(
            f"vit-{size}-{family}",
            family,
            towers,
            f"{where}B2_vit{size[0]}16_{family}_ep99_enc.pth",
            f"{where}B13_vit{size[0]}16_{family}_ep99_enc.pth",
        )
        for family, where in (("mae", _HF_MAE), ("fgmae", _HF_FGMAE))
        for size, towers in (("small", _S16), ("base", _B16), ("large", _L16))
    ),
)
"""Pairs of towers, in the order of the table."""
