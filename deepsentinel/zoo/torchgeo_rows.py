"""Rows of public encoders whose files torchgeo 0.8 lists: where they are, what they saw; no torch.

Addresses and hash prefixes are those of torchgeo's weights, licences those of its documentation.
Normalisation is the authors' (see `encoders.scaling`), which is not always torchgeo's: it gives
standard scores of radar to weights that were trained on 0-1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.encoders.card import FREE_USE, Card, Source
from deepsentinel.encoders.config import KINDS
from deepsentinel.encoders.scaling import scaling

if TYPE_CHECKING:
    from deepsentinel.encoders.door import Check, Empty
    from deepsentinel.encoders.public import PublicEncoder


@dataclass(frozen=True, kw_only=True)
class PublicRow:
    """One public encoder: its card, the class that reads it, and how that is built."""

    card: Card
    kind: str
    """Class name in `encoders.config.KINDS`."""
    arguments: Mapping[str, Any]
    """Of the class; `fusion`, where it is among them, is an option of `load_encoder`."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that a caller may choose, with their defaults."""
        return {k: v for k, v in self.arguments.items() if k == "fusion"}

    def build(
        self,
        files: Mapping[str, Path],
        options: Mapping[str, Any],
        *,
        check: "Check" = "first",
        empty: "Empty" = "error",
    ) -> "PublicEncoder":
        """The encoder on its files, which have been verified; every key accounted for.

        Raises:
            WeightsError: a file holds more than tensors, or others than the network has.
        """
        # Only here: listing encoders needs no torch.
        from deepsentinel.encoders.public import read_tensors

        made: type[PublicEncoder] = getattr(import_module(KINDS[self.kind]), self.kind)
        arguments = {**self.arguments, **options}
        card = self.card
        if arguments != self.arguments:
            card = replace(card, fusion=_FUSION[arguments["fusion"]], macs_per_px=None)
        encoder = made(**arguments, check=check, empty=empty, card=card)
        published = {key: read_tensors(file) for key, file in files.items()}
        return encoder.load_published(published, origin=self.card.name)


_FUSION = {
    "concat": "late: both vectors side by side, zeros for a sensor that saw nothing, then one flag a "
    "sensor that is 1 where it saw something",
    "mean": "late: mean of the sensors that saw something",
}
_LEVELS: dict[str, Mapping[Sensor, tuple[str, ...]]] = {
    "L1C": {"s1": ("GRD",), "s2": ("L1C",)},
    "L2A": {"s1": ("GRD",), "s2": ("L2A",)},
    "both": {"s1": ("GRD",), "s2": ("L1C", "L2A")},
}
_SSL4EO_DATA = "CC-BY-4.0 (SSL4EO-S12)"
_B10 = "B10, which Level-2A lacks, and whatever else was not observed enter as the training mean. "
_DARKER = "It saw Level-1C before baseline 04.00: Level-2A is darker in the visible bands. "


def _source(url: str) -> Source:
    """A file by its address: repository, commit, path, and the hash prefix that its name may end in."""
    repository, _, rest = url.removeprefix("hf://").partition("@")
    revision, _, path = rest.partition("/")
    prefix = path.rpartition(".")[0].rpartition("-")[2]
    known = len(prefix) == 8 and set(prefix) <= set("0123456789abcdef")
    return Source(
        repository=repository,
        path=path,
        revision=revision,
        sha256_prefix=prefix if known else None,
    )


def _normalisation(name: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each band, as the card shows them."""
    return {
        band: pair
        for facts in scaling(name).values()
        for band, pair in zip(facts.bands, facts.statistics, strict=True)
    }


def _card(*, name: str, scaled: str, sources: Mapping[str, str], **facts: Any) -> Card:
    known = scaling(scaled)
    return Card(
        name=name,
        sensors=tuple(s for s in SENSORS if s in known),
        bands={s: facts_.bands for s, facts_ in known.items()},
        normalisation=_normalisation(scaled),
        sources={key: _source(url) for key, url in sources.items()},
        resolution_m=10,
        min_size=16,
        proved_on="shapes only",
        **facts,
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
    data_licence: str = _SSL4EO_DATA
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
        preprocessing=_UNIT_S1
        + "reflectance as it is (digital numbers / 10000). "
        + _B10
        + _NO_CUT,
        level="L1C",
        licence="CC-BY-4.0",
        citation="Wang et al., SSL4EO-S12: A Large-Scale Multi-Modal, Multi-Temporal Dataset for "
        "Self-Supervised Learning in Earth Observation. arXiv 2211.07044, 2022.",
        limits="Use this when you want the best known baseline for Sentinel-2. " + _DARKER,
    ),
    "decur": Family(
        title="DeCUR",
        scaling="ssl4eo",
        source="github.com/zhu-xlab/DeCUR, src/pretrain/datasets/SSL4EO/ssl4eo_dataset_lmdb_mm_norm.py",
        preprocessing=_UNIT_S1
        + "reflectance as it is (digital numbers / 10000). "
        + _B10
        + _NO_CUT,
        level="L1C",
        licence="Apache-2.0",
        citation="Wang et al., Decoupling Common and Unique Representations for Multimodal "
        "Self-supervised Learning. arXiv 2309.05300, 2023.",
        limits="Use this when both sensors are there: the towers were trained together. " + _DARKER,
    ),
    "softcon": Family(
        title="SoftCon",
        scaling="softcon",
        source="github.com/zhu-xlab/Copernicus-FM, Copernicus-Bench (norm_form softcon), by SoftCon's "
        "first author; statistics of SSL4EO-S12",
        preprocessing="Both sensors to 0-1 by mean and 2 standard deviations of each band, clipped. "
        + _B10
        + _NO_CUT,
        level="L1C",
        licence="CC-BY-4.0",
        citation="Wang et al., Multi-Label Guided Soft Contrastive Learning for Efficient Earth "
        "Observation Pretraining. arXiv 2405.20462, 2024.",
        limits="Use this when labels are of land cover: it was guided by such labels. " + _DARKER,
    ),
    "mae": Family(
        title="Masked autoencoder of SSL4EO-S12",
        scaling="ssl4eo",
        source="github.com/zhu-xlab/SSL4EO-S12, src/benchmark/pretrain_ssl/datasets/SSL4EO",
        preprocessing=_UNIT_S1
        + "reflectance as it is (digital numbers / 10000). "
        + _B10
        + _NO_CUT,
        level="L1C",
        licence="CC-BY-4.0",
        citation="Wang et al., SSL4EO-S12: A Large-Scale Multi-Modal, Multi-Temporal Dataset for "
        "Self-Supervised Learning in Earth Observation. arXiv 2211.07044, 2022.",
        limits="Use this when you fine-tune: masked autoencoders are weak as they are. " + _DARKER,
    ),
    "fgmae": Family(
        title="Feature guided masked autoencoder",
        scaling="ssl4eo",
        source="github.com/zhu-xlab/FGMAE, src/pretrain_ssl/datasets/SSL4EO/ssl4eo_dataset_lmdb.py",
        preprocessing=_UNIT_S1
        + "reflectance as it is (digital numbers / 10000). "
        + _B10
        + _NO_CUT,
        level="L1C",
        licence="CC-BY-4.0",
        citation="Wang et al., Feature Guided Masked Autoencoder for Self-supervised Learning in "
        "Remote Sensing. arXiv 2310.18653, 2023.",
        limits="Use this when you fine-tune and radar matters. " + _DARKER,
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
    card = _card(
        name=name,
        scaled=facts.scaling,
        sources={"s1": s1, "s2": s2},
        title=f"{facts.title}, a {towers.backbone} for each sensor",
        normalisation_source=facts.source,
        preprocessing=facts.preprocessing.strip(),
        levels=_LEVELS[facts.level],
        input_px=towers.input_px,
        backbone=towers.backbone,
        fusion=_FUSION["concat"],
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


def _whole(
    name: str, kind: str, arguments: Mapping[str, Any], url: str, stride: int, **facts: Any
) -> PublicRow:
    width = facts.pop("width")
    card = _card(
        name=name,
        sources={"both": url},
        embed_dim=width,
        out_channels=(width,),
        strides=(stride,),
        **facts,
    )
    return PublicRow(card=card, kind=kind, arguments=arguments)


_HF_MAE = "hf://wangyi111/SSL4EO-S12@75c72195d35201dc1fb210818993518c25da566b/"
_HF_FGMAE = "hf://wangyi111/FGMAE@24dd3077d7a99ecd454eaec7adb83d045d7fa122/"
_HF_SOFTCON = "hf://wangyi111/softcon@bae909781911f8ec034b4b959992fae17b973c0c/"
_HF_SOFTCON_RN = "hf://wangyi111/softcon@62ff465b2e7467dbfc70758ec1e9d08ab87fc46b/"
_HF_CLOSP = "hf://DarthReca/CLOSP-Visual@3bb8677c21dac56bea2dd7baa08d7871272db440/"
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
    "levels": _LEVELS["L2A"],
    "fusion": "joint transformer where both sensors saw the patch, else the one sensor's own",
    "licence": "CC-BY-4.0",
    "restrictions": FREE_USE["CC-BY-4.0"],
    "data_licence": _SSL4EO_DATA,
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
    "the gain is that of mid-swath (680 to 559 from near to far) and the thermal noise ESA's limit. "
    "What was not observed enters as the mean.",
    "levels": _LEVELS["L1C"],
    "fusion": "late: each sensor through the one network, mean of those that saw something",
    "licence": "CC-BY-4.0",
    "restrictions": FREE_USE["CC-BY-4.0"],
    "data_licence": "ODC-BY (SatlasPretrain), CC0-1.0 (HySpecNet-11k); Five-Billion-Pixels has terms of "
    "its own, not looked at here",
    "citation": "Xiong et al., Neural Plasticity-Inspired Foundation Model for Observing the Earth "
    "Crossing Modalities. arXiv 2403.15356, 2024.",
    "limits": "Use this when bands vary and Sentinel-2 leads, of which it reads nine: Sentinel-1 enters "
    "through an approximate calibration. Patches are resized to 224 x 224 px inside. "
    + _DARKER.strip(),
}

TORCHGEO: tuple[PublicRow, ...] = (
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
        levels=_LEVELS["both"],
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
        preprocessing="Standard scores of both sensors. " + _B10.strip(),
        inputs={
            "month": "the learned token for an unknown time; a month is its 15th day in 2021",
            "lonlat": "the learned token for an unknown place",
        },
        levels=_LEVELS["L1C"],
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
        + _DARKER.strip(),
    ),
)
"""Public encoders, in the order of the table."""
