"""What every model shares: an encoder and a head as one module, with named classes, on disk too.

A saved model is a folder of `config.json` (task, classes, colours, the encoder's own config and
card) and `model.safetensors` (every weight).
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from deepsentinel.bands import SENSORS
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.config import CONFIG_FILE, KINDS
from deepsentinel.encoders.export import Format, export_graph
from deepsentinel.encoders.hub import Access, publish
from deepsentinel.encoders.pretrained import encoder_class, located
from deepsentinel.errors import (
    EncoderNotFoundError,
    SampleError,
    WeightsError,
    nearest,
)
from deepsentinel.features import Encoder, Features, Prediction
from deepsentinel.heads.card import model_card
from deepsentinel.heads.classes import Classes
from deepsentinel.heads.files import read_config, read_weights, write_model
from deepsentinel.sample import IMAGE_KEYS, Batch

FORMAT_VERSION: Final = 1

_MODELS: Final = {
    "classification": ("deepsentinel.heads.classification", "Classifier"),
    "detection": ("deepsentinel.heads.detection", "Detector"),
    "matching": ("deepsentinel.heads.matching", "Matcher"),
    "regression": ("deepsentinel.heads.regression", "Regressor"),
    "segmentation": ("deepsentinel.heads.segmentation", "Segmenter"),
}

P = TypeVar("P", bound=Prediction)


class Model(nn.Module, Generic[P]):
    """An encoder and a head as one; the base of `Segmenter`, `Classifier` and the other models.

    Attributes:
        task: what it does, in one word.
        described: arguments of the constructor that `config.json` shows beside the options.
        exported: parts of the prediction that a graph gives.
        encoder: the encoder, an `nn.Module`.
        head: the head on its features, an `nn.Module`.
        classes: names and colours.
        options: what the head was built with, as plain values.
    """

    task: ClassVar[str]
    described: ClassVar[tuple[str, ...]] = ("num_classes", "class_names", "class_colours")
    exported: ClassVar[tuple[str, ...]] = ("logits", "probabilities")
    options: dict[str, Any]

    def __init__(self, encoder: Encoder, head: nn.Module, classes: Classes) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.head: Any = head
        self.classes = classes

    @property
    def num_classes(self) -> int:
        """K; ids count from 0."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.classes.names

    @property
    def class_colours(self) -> tuple[str, ...] | None:
        """`#rrggbb` of each class, where they were given."""
        return self.classes.colours

    def forward(
        self,
        s1: Tensor | None = None,
        s2: Tensor | None = None,
        *,
        s1_bands: Sequence[str] | None = None,
        s2_bands: Sequence[str] | None = None,
        month: int | Tensor | None = None,
        lonlat: Tensor | None = None,
    ) -> P:
        """Prediction for dB (B, 2, H, W) and reflectance (B, 12, H, W); either may be `None`.

        `month` (1 to 12) and `lonlat` (B, 2), in degrees, are for encoders whose card lists them.
        """
        extra = {k: v for k, v in (("month", month), ("lonlat", lonlat)) if v is not None}
        features = self.features(s1, s2, s1_bands=s1_bands, s2_bands=s2_bands, **extra)
        given = s1 if s1 is not None else s2
        assert given is not None  # noqa: S101 - the encoder has refused to see nothing
        prediction: P = self.head.decode(self.head(features, (given.shape[-2], given.shape[-1])))
        return prediction

    def features(self, s1: Tensor | None, s2: Tensor | None, **options: Any) -> Features:
        """What the head is given: the encoder's features, with its own options."""
        features: Features = self.encoder(s1, s2, **options)
        return features

    def predict(self, batch: Batch) -> P:
        """Prediction for a batch, in evaluation mode and without gradients whatever the mode.

        Raises:
            SampleError: the batch holds no image.
        """
        modes = [(m, m.training) for m in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                prediction: P = self.head.decode(self.logits(batch))
        finally:
            for module, training in modes:
                module.training = training
        return prediction

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses by name; `"loss"` is what training minimises.

        Raises:
            SampleError: the batch lacks an image or the target.
            LabelError: the target does not fit the model.
        """
        losses: dict[str, Tensor] = self.head.loss(self.logits(batch), batch)
        return losses

    def logits(self, batch: Batch) -> Tensor:
        """Logits of the head for a batch."""
        size = image_size(batch)
        logits: Tensor = self.head(self.encoder.encode(batch), size)
        return logits

    def config(self) -> dict[str, Any]:
        """Everything but the weights, as plain values."""
        return {
            "format_version": FORMAT_VERSION,
            "task": self.task,
            **{name: _plain(getattr(self, name)) for name in self.described},
            "options": self.options,
            "encoder": _encoder_config(self.encoder),
        }

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json` and `model.safetensors` into a folder, which is made if need be.

        The config states the sha256 of the weights, which `load_model` compares.

        Returns:
            The folder; `deepsentinel.load_model` opens it.
        """
        return write_model(folder, self.config(), self.state_dict(), sealed=True)

    def export(
        self,
        path: str | Path,
        *,
        format: Format = "onnx",  # noqa: A002 - as of encoders
        size: tuple[int, int] | None = None,
    ) -> Path:
        """Write the model as one graph for other runtimes, normalisation and NaN handling inside.

        Inputs are those of `encoder.export`; outputs are `logits` and `probabilities`, those of a
        `Regressor` `values`.

        Args:
            path: of the file, such as `model.onnx`, or `model.pt2` for `torch.export.load`.
            format: `"onnx"` (needs the extra `onnx`) or `"torch"`.
            size: (H, W) of a graph of one size; any size if `None`, where the network allows it.

        Returns:
            The path.

        Raises:
            ExportError: the network cannot be traced with free height and width.
            MissingExtraError: the packages for ONNX are not installed.
        """
        return export_graph(
            ExportableModel(self),
            path,
            form=format,
            bands=self.encoder.bands,
            least=getattr(self.encoder, "export_min", 33),
            size=size,
            facts={"task": self.task, "classes": list(self.class_names)},
        )

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Publish a model",
        token: str | bool | None = None,
    ) -> str:
        """Publish weights, config and a model card made from them on the Hugging Face Hub.

        Args:
            name: `<user>/<repo>`, made if need be.
            private: of a new repository; the account's default if `None`.
            revision: branch to publish on, made if need be; `main` if `None`.
            message: of the commit.
            token: instead of `HF_TOKEN` or the stored login.

        Returns:
            The commit: `load_model("hf://<user>/<repo>@<commit>")` opens exactly this.

        Raises:
            HubError: the Hub cannot be reached or does not allow it.
        """
        with TemporaryDirectory() as folder:
            place = self.save_pretrained(folder)
            text = model_card(name, self.config())
            (place / "README.md").write_text(text, encoding="utf-8")
            return publish(
                place, name, private=private, revision=revision, message=message, token=token
            )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        encoder: Encoder | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """The model of this class that a folder or the Hub holds, as `load_model` finds it.

        Raises:
            HubError: the Hub cannot be reached, does not have it or does not allow it.
            WeightsError: the folder holds no model, or one of another task.
        """
        model = load_model(
            folder,
            encoder=encoder,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        if not isinstance(model, cls):
            raise WeightsError(
                f"{folder} holds a model for {model.task}, not for {cls.task}. "
                "Open it with deepsentinel.load_model."
            )
        return model


class ExportableModel(nn.Module):
    """A model as `torch.export` and other runtimes want it: tensors in, a tuple of tensors out."""

    def __init__(self, model: "Model[Any]") -> None:
        super().__init__()
        self.model = model
        self.outputs = model.exported

    def forward(self, s1: Tensor | None, s2: Tensor | None) -> tuple[Tensor, ...]:
        """Logits and probabilities, or whatever of the prediction the model's task exports."""
        encoder: Any = self.model.encoder
        features = self.model.features(
            s1,
            s2,
            s1_bands=encoder.bands.get("s1"),
            s2_bands=encoder.bands.get("s2"),
            check="never",
            empty="nan",
        )
        given = s1 if s1 is not None else s2
        assert given is not None  # noqa: S101 - the encoder has refused to see nothing
        found = self.model.head.decode(self.model.head(features, given.shape[-2:]))
        return tuple(getattr(found, name) for name in self.outputs)


def load_model(
    folder: str | Path,
    *,
    encoder: Encoder | None = None,
    sha256: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> "Model[Any]":
    """The model that `save_pretrained`, `push_to_hub` or `finetune` wrote.

    Args:
        folder: with `config.json` and `model.safetensors`; or the `out_dir` of a fine-tuning, whose
            best checkpoint is then taken; or a repository on the Hub, `<user>/<repo>` or
            `hf://<user>/<repo>@<revision>`.
        encoder: an encoder of the same architecture, for one that is not the library's own. Its
            weights are replaced by the stored ones.
        sha256: that the weights must have; what the config says by default.
        revision: commit, branch or tag on the Hub; `main` if `None`.
        cache_dir: instead of the Hub's cache in `HF_HOME`.
        local_files_only: take what is in the cache and ask nobody.
        token: for private repositories, instead of `HF_TOKEN` or the stored login.

    Returns:
        A `Segmenter`, `Classifier` or other model in evaluation mode.

    Raises:
        HubError: the Hub cannot be reached, does not have it or does not allow it.
        WeightsError: there is no model, or weights and config disagree.

    Example:
        >>> import tempfile
        >>> from deepsentinel import Classifier, FusionEncoder
        >>> model = Classifier(FusionEncoder("resnet10t", levels=(1,)), 2, class_names=("sea", "land"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_model(model.save_pretrained(folder)).class_names
        ('sea', 'land')
    """
    access = Access(cache_dir=cache_dir, local_files_only=local_files_only, token=token)
    path, _ = located(folder, revision, access)
    if not (path / CONFIG_FILE).exists() and (path / "best" / CONFIG_FILE).exists():
        path = path / "best"
    config = read_config(path)
    if config.get("format_version") != FORMAT_VERSION or config.get("task") not in _MODELS:
        raise WeightsError(
            f"{path}: config.json has format {config.get('format_version')!r} and task "
            f"{config.get('task')!r}; this version reads format {FORMAT_VERSION} and the tasks "
            f"{' '.join(_MODELS)}. An encoder is opened with deepsentinel.load_encoder."
        )
    module, name = _MODELS[config["task"]]
    kind: type[Model[Any]] = getattr(import_module(module), name)
    build: Any = kind  # each has its own arguments
    model: Model[Any] = build(
        encoder if encoder is not None else _build_encoder(config["encoder"], path),
        **{name: config[name] for name in kind.described},
        **config["options"],
    )
    load_weights(model, read_weights(path, sha256 or config.get("sha256")), path)
    return model.eval()


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Put weights into a model, strictly.

    Raises:
        WeightsError: names or shapes differ.
    """
    own = model.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    if missing or extra or shapes:
        raise WeightsError(
            f"the weights of {source} do not fit the model: missing {missing[:5]}, unknown "
            f"{extra[:5]}, of another shape {shapes[:5]}. They belong to another encoder or head."
        )
    model.load_state_dict(dict(weights))


def image_size(batch: Batch) -> tuple[int, int]:
    """(H, W) of a batch's images.

    Raises:
        SampleError: there is none.

    Example:
        >>> image_size({"image_s1": torch.zeros(1, 2, 32, 48)})
        (32, 48)
    """
    for sensor in SENSORS:
        image = batch.get(IMAGE_KEYS[sensor])
        if image is not None:
            return image.shape[-2], image.shape[-1]
    raise SampleError(
        f"the batch holds neither {' nor '.join(IMAGE_KEYS.values())}; found {sorted(batch)}."
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _encoder_config(encoder: Any) -> dict[str, Any]:
    kind = type(encoder).__name__
    if kind not in KINDS:
        return {"kind": kind}
    return {"kind": kind, "config": encoder.config, "card": encoder.card.to_json()}


def _build_encoder(config: Mapping[str, Any], path: Path) -> Encoder:
    kind = str(config["kind"])
    if kind not in KINDS:
        raise EncoderNotFoundError(
            f"{path} was saved with an encoder of class {kind}, which the library cannot build. "
            f"Pass load_model(..., encoder=...) with one of that class. "
            f"{nearest(kind, KINDS)}"
        )
    card = Card.from_json(config["card"])
    return encoder_class(kind).from_config(config["config"], card=card)
