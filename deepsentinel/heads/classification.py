"""Classes of whole patches: `ClassificationHead` on the embedding, and `Classifier`."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from deepsentinel.errors import UnknownNameError, nearest
from deepsentinel.features import Classification, Encoder, Features
from deepsentinel.heads.classes import check_classes, check_share, check_weights
from deepsentinel.heads.losses import binary_cross_entropy, cross_entropy
from deepsentinel.heads.model import Model
from deepsentinel.heads.targets import label_target, multilabel_target
from deepsentinel.sample import IGNORE_INDEX, Batch

HeadName = Literal["linear", "mlp"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)


class ClassificationHead(nn.Module):
    """The embedding to logits of every class.

    Args:
        embed_dim: D of the embedding.
        num_classes: K.
        multilabel: several classes a patch.
        head: `"linear"`, one linear layer, or `"mlp"`, with one hidden layer of D units.
        dropout: in front of the last layer.
        class_weights: K weights of the loss.
        label_smoothing: share of each target spread over all classes, 0 to 1.

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
        dropout: float = 0.0,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise UnknownNameError(f"unknown classification head {head!r}. {nearest(head, HEADS)}")
        self.num_classes = num_classes
        self.multilabel = multilabel
        self.label_smoothing = check_share("label_smoothing", label_smoothing)
        # The norm makes one learning rate suit every encoder, whatever its embedding's scale.
        layers: list[nn.Module] = [nn.LayerNorm(embed_dim)]
        if head == "mlp":
            layers += [nn.Linear(embed_dim, embed_dim), nn.GELU()]
        layers += [nn.Dropout(check_share("dropout", dropout)), nn.Linear(embed_dim, num_classes)]
        self.layers = nn.Sequential(*layers)
        weights = check_weights(class_weights, num_classes)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Logits (B, K); `size` is not used."""
        logits: Tensor = self.layers(features.embedding)
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss` against `label`; -1 counts nothing.

        Raises:
            SampleError: the batch has no `label`.
            LabelError: labels that the model cannot have: ids, number of classes, dtype.
        """
        loss = binary_cross_entropy if self.multilabel else cross_entropy
        value = loss(
            logits,
            self._target(batch),
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
        )
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
        head: `"linear"` or `"mlp"`.
        class_names: K names.
        class_colours: K colours, `"#rrggbb"`.
        dropout: in front of the last layer.
        class_weights: K weights of the loss.
        label_smoothing: share of each target spread over all classes, 0 to 1.

    Raises:
        LabelError: names, colours or weights that do not fit `num_classes`.
        UnknownNameError: an unknown head.

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
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        classes = check_classes(
            num_classes, class_names, class_colours, least=1 if multilabel else 2
        )
        module = ClassificationHead(
            encoder.embed_dim,
            num_classes,
            multilabel=multilabel,
            head=head,
            dropout=dropout,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
        )
        super().__init__(encoder, module, classes)
        self.multilabel = multilabel
        self.options: dict[str, Any] = {
            "multilabel": multilabel,
            "head": head,
            "dropout": dropout,
            "class_weights": None if class_weights is None else list(map(float, class_weights)),
            "label_smoothing": label_smoothing,
        }
