"""Classes of whole patches: `ClassificationHead` on the embedding, and `Classifier`."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from deepsentinel.features import Classification, Encoder, Features
from deepsentinel.heads.classes import (
    check_classes,
    check_gamma,
    check_smoothing,
    check_weights,
)
from deepsentinel.heads.losses import (
    CLASSIFICATION_LOSSES,
    binary_cross_entropy,
    binary_focal,
    check_loss,
    cross_entropy,
    focal,
)
from deepsentinel.heads.model import Model
from deepsentinel.heads.readout import HEADS, Readout
from deepsentinel.heads.targets import label_target, multilabel_target
from deepsentinel.sample import IGNORE_INDEX, Batch

__all__ = ["HEADS", "ClassificationHead", "Classifier"]


class ClassificationHead(nn.Module):
    """Features to logits of every class of the patch.

    Args:
        embed_dim: D of the embedding.
        num_classes: K.
        multilabel: several classes a patch.
        head: `"linear"`, `"mlp"` or `"attention"`, as in `Readout`.
        in_channels: C_i of the encoder's maps, for `"attention"`.
        dropout: in front of the last layer.
        loss: `"cross_entropy"` or `"focal"`; with `multilabel` the binary one of each class.
        focal_gamma: how much less the focal loss counts what is already right; 0 is no less.
        class_weights: K weights of the loss.
        label_smoothing: share of each target spread over all classes, 0 to 1; cross entropy only.

    Example:
        >>> import torch
        >>> head = ClassificationHead(16, 5)
        >>> head(Features(torch.zeros(2, 16), (), ()), (64, 64)).shape
        torch.Size([2, 5])
    """

    class_weights: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        multilabel: bool = False,
        head: str = "linear",
        in_channels: Sequence[int] = (),
        dropout: float = 0.0,
        loss: str = "cross_entropy",
        focal_gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.multilabel = multilabel
        self.loss_name = check_loss(loss, CLASSIFICATION_LOSSES)
        self.focal_gamma = check_gamma(focal_gamma)
        self.label_smoothing = check_smoothing(label_smoothing, loss)
        self.readout = Readout(
            embed_dim, num_classes, head=head, in_channels=in_channels, dropout=dropout
        )
        weights = check_weights(class_weights, num_classes)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Logits (B, K); `size` is not used."""
        logits: Tensor = self.readout(features)
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss` against `label`; -1 counts nothing.

        Raises:
            SampleError: the batch has no `label`.
            LabelError: labels that the model cannot have: ids, number of classes, dtype.
        """
        target, weights = self._target(batch), self.class_weights
        if self.loss_name == "focal":
            hard = binary_focal if self.multilabel else focal
            value = hard(logits, target, gamma=self.focal_gamma, class_weights=weights)
        else:
            even = binary_cross_entropy if self.multilabel else cross_entropy
            smoothing = self.label_smoothing
            value = even(logits, target, class_weights=weights, label_smoothing=smoothing)
        return {"loss": value}

    def decode(self, logits: Tensor) -> Classification:
        """Probabilities and classes; multi-label: those of at least one half."""
        if self.multilabel:
            probabilities = logits.float().sigmoid()
            return Classification(logits, probabilities, probabilities >= 0.5)
        return Classification(logits, logits.float().softmax(1), logits.argmax(1))

    def labelled(self, batch: Batch) -> int:
        """How many labels of the batch count."""
        return int((batch["label"] != IGNORE_INDEX).sum())

    def _target(self, batch: Batch) -> Tensor:
        target = multilabel_target if self.multilabel else label_target
        return target(batch, self.num_classes)


class Classifier(Model[Classification]):
    """Encoder and head: Sentinel-1 and Sentinel-2 patches to classes of the patch.

    Args:
        encoder: any encoder, such as `deepsentinel.load_encoder()`.
        num_classes: K; ids count from 0.
        multilabel: several classes a patch; `label` is then multi-hot (B, K).
        head: `"linear"`, one linear layer on the embedding; `"mlp"`, with a hidden layer;
            `"attention"`, which also weighs the cells of the coarsest map, for what fills only a
            part of the patch.
        class_names: K names.
        class_colours: K colours, `"#rrggbb"`.
        dropout: in front of the last layer.
        loss: `"cross_entropy"` or `"focal"`; with `multilabel` the binary one of each class.
        focal_gamma: how much less the focal loss counts what is already right; 0 is no less.
        class_weights: K weights of the loss, such as `training.finetuning.labels.class_weights` counts.
        label_smoothing: share of each target spread over all classes, 0 to 1; cross entropy only.

    Raises:
        LabelError: names, colours, weights or numbers that do not fit.
        UnknownNameError: an unknown head or loss.
        ShapeError: attention with an encoder that has no maps.

    Example:
        >>> import torch
        >>> from deepsentinel import FusionEncoder
        >>> model = Classifier(FusionEncoder("resnet10t", levels=(1, 2)), 19, multilabel=True)
        >>> model(s2=torch.full((2, 12, 32, 32), 0.05)).probabilities.shape
        torch.Size([2, 19])
    """

    task = "classification"

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        multilabel: bool = False,  # noqa: FBT001, FBT002 - the public signature of DESIGN.md
        *,
        head: str = "linear",
        class_names: Sequence[str] | None = None,
        class_colours: Sequence[str] | None = None,
        dropout: float = 0.0,
        loss: str = "cross_entropy",
        focal_gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        classes = check_classes(
            num_classes, class_names, class_colours, least=1 if multilabel else 2
        )
        options: dict[str, Any] = {
            "multilabel": multilabel,
            "head": head,
            "dropout": dropout,
            "loss": loss,
            "focal_gamma": focal_gamma,
            "class_weights": None if class_weights is None else list(map(float, class_weights)),
            "label_smoothing": label_smoothing,
        }
        maps = encoder.out_channels
        module = ClassificationHead(encoder.embed_dim, num_classes, in_channels=maps, **options)
        super().__init__(encoder, module, classes)
        self.multilabel = multilabel
        self.options = options
