"""deepsentinel: Sentinel-1 and Sentinel-2 patches to embeddings, trained heads and maps.

Public names are resolved when first used, so that importing the package is fast and imports
neither torch nor torchgeo.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC: dict[str, str] = {
    "Classifier": "deepsentinel.heads.classification",
    "DeepSentinelDataModule": "deepsentinel.datasets.datamodule",
    "DeepSentinelDataset": "deepsentinel.datasets.dataset",
    "DeepSentinelStream": "deepsentinel.datasets.stream",
    "Detector": "deepsentinel.heads.detection",
    "Encoder": "deepsentinel.encoders.pretrained",
    "Features": "deepsentinel.features",
    "FusionEncoder": "deepsentinel.encoders.fusion",
    "Matcher": "deepsentinel.heads.matching",
    "Prediction": "deepsentinel.features",
    "Regressor": "deepsentinel.heads.regression",
    "Segmenter": "deepsentinel.heads.segmentation",
    "collate": "deepsentinel.sample",
    "convert": "deepsentinel.corpus.convert",
    "download": "deepsentinel.corpus.transfer",
    "evaluate": "deepsentinel.training.evaluate",
    "finetune": "deepsentinel.training.finetune",
    "list_encoders": "deepsentinel.zoo.load",
    "load_encoder": "deepsentinel.zoo.load",
    "load_model": "deepsentinel.heads.model",
    "pretrain": "deepsentinel.training.pretrain",
    "verify": "deepsentinel.corpus.verify",
}

__all__ = [
    "Classifier",
    "DeepSentinelDataModule",
    "DeepSentinelDataset",
    "DeepSentinelStream",
    "Detector",
    "Encoder",
    "Features",
    "FusionEncoder",
    "Matcher",
    "Prediction",
    "Regressor",
    "Segmenter",
    "__version__",
    "collate",
    "convert",
    "download",
    "evaluate",
    "finetune",
    "list_encoders",
    "load_encoder",
    "load_model",
    "pretrain",
    "verify",
]

if TYPE_CHECKING:
    from deepsentinel.corpus.convert import convert
    from deepsentinel.corpus.transfer import download
    from deepsentinel.corpus.verify import verify
    from deepsentinel.datasets.datamodule import DeepSentinelDataModule
    from deepsentinel.datasets.dataset import DeepSentinelDataset
    from deepsentinel.datasets.stream import DeepSentinelStream
    from deepsentinel.encoders.fusion import FusionEncoder
    from deepsentinel.encoders.pretrained import Encoder
    from deepsentinel.features import Features, Prediction
    from deepsentinel.heads.classification import Classifier
    from deepsentinel.heads.detection import Detector
    from deepsentinel.heads.matching import Matcher
    from deepsentinel.heads.model import load_model
    from deepsentinel.heads.regression import Regressor
    from deepsentinel.heads.segmentation import Segmenter
    from deepsentinel.sample import collate
    from deepsentinel.training.evaluate import evaluate
    from deepsentinel.training.finetune import finetune
    from deepsentinel.training.pretrain import pretrain
    from deepsentinel.zoo.load import list_encoders, load_encoder


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'deepsentinel' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
