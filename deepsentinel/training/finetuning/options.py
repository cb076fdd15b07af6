"""`FinetuneConfig`: every choice of a fine-tuning, as calls, files and the command line name it."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal

from deepsentinel.errors import ConfigError
from deepsentinel.training.config import plain
from deepsentinel.training.finetuning.lora import LoRA

Precision = Literal["auto", "32-true", "bf16-mixed"]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How a model is trained. The same config gives the same weights.

    Raises:
        ConfigError: a number is out of range, or two choices contradict each other.

    Example:
        >>> FinetuneConfig(epochs=0)
        Traceback (most recent call last):
        deepsentinel.errors.ConfigError: out of range: epochs=0. epochs, ...
    """

    epochs: Annotated[int, "Passes over the train split."] = 20
    batch_size: Annotated[int, "Patches a step, over all processes."] = 16
    lr: Annotated[float, "Learning rate of the head, at its height."] = 1e-3
    encoder_lr: Annotated[
        float | None, "Of the encoder; null: a tenth of lr, or lr itself with lora."
    ] = None
    layer_decay: Annotated[
        float, "The encoder's rate falls by this factor from each block to the one before it."
    ] = 1.0
    freeze_encoder: Annotated[
        bool, "Leave the encoder as it is, running statistics of its normalisation too."
    ] = False
    unfreeze_epoch: Annotated[
        int | None, "Epoch, from 1, in which a frozen encoder begins to learn; null: never."
    ] = None
    lora: Annotated[
        LoRA | None, "Train low-rank changes of the encoder's layers instead of its weights."
    ] = None
    weight_decay: Annotated[float, "Of AdamW, on matrices and kernels only."] = 0.01
    warmup: Annotated[
        float, "Share of all steps over which the learning rate rises; then it falls as a cosine."
    ] = 0.05
    grad_clip: Annotated[float, "Greatest norm of the gradient."] = 1.0
    patience: Annotated[
        int | None, "Epochs without a better score after which to stop; null never stops early."
    ] = 10
    seed: Annotated[int, "Decides order, dropout and random changes."] = 0
    num_workers: Annotated[int, "Worker processes that read; 0 reads in this one."] = 0
    accelerator: Annotated[str, "As Lightning takes it: auto, cpu, gpu."] = "auto"
    precision: Annotated[
        Precision, "Of the computing; auto: bfloat16 where a GPU has it, else float32."
    ] = "auto"
    deterministic: Annotated[
        bool,
        "Deterministic algorithms only; false may be faster on a GPU, and is needed for encoders "
        "with layers that have none.",
    ] = True
    tensorboard: Annotated[bool, "Write the history for TensorBoard too."] = False

    def __post_init__(self) -> None:
        wrong = [name for name, is_wrong in self._wrong().items() if is_wrong]
        if wrong:
            given = ", ".join(f"{name}={getattr(self, name)!r}" for name in wrong)
            raise ConfigError(
                f"out of range: {given}. epochs, patience, unfreeze_epoch and batch_size are at "
                "least 1, lr and grad_clip above 0, encoder_lr, weight_decay, seed and num_workers "
                "not below 0, warmup from 0 to below 1, layer_decay above 0 and up to 1."
            )
        self._agree()

    def _wrong(self) -> dict[str, bool]:
        counts = ("epochs", "batch_size", "patience", "unfreeze_epoch")
        values = {name: getattr(self, name) for name in counts}
        return {name: value is not None and value < 1 for name, value in values.items()} | {
            "lr": not self.lr > 0,
            "encoder_lr": self.encoder_lr is not None and not self.encoder_lr >= 0,
            "layer_decay": not 0 < self.layer_decay <= 1,
            "weight_decay": not self.weight_decay >= 0,
            "warmup": not 0 <= self.warmup < 1,
            "grad_clip": not self.grad_clip > 0,
            "seed": self.seed < 0,
            "num_workers": self.num_workers < 0,
        }

    def _agree(self) -> None:
        if self.unfreeze_epoch is not None and not self.freeze_encoder:
            raise ConfigError(
                f"unfreeze_epoch={self.unfreeze_epoch} is for a frozen encoder: add "
                "freeze_encoder=True, or leave it out."
            )
        if self.unfreeze_epoch is not None and self.unfreeze_epoch > self.epochs:
            raise ConfigError(
                f"unfreeze_epoch={self.unfreeze_epoch} never comes in epochs={self.epochs}. Leave it "
                "out to keep the encoder frozen."
            )
        if self.lora is not None and self.freeze_encoder:
            raise ConfigError(
                "lora trains changes of the encoder and freeze_encoder leaves it as it is; give "
                "one of them. With lora the encoder's own weights are frozen anyway."
            )

    @property
    def rate_of_encoder(self) -> float:
        """`encoder_lr`, or what stands for it."""
        if self.encoder_lr is not None:
            return self.encoder_lr
        return self.lr / 10 if self.lora is None else self.lr

    @property
    def changes_encoder(self) -> bool:
        """Whether the encoder is another one afterwards."""
        return not self.freeze_encoder or self.unfreeze_epoch is not None

    def is_frozen(self, epoch: int) -> bool:
        """Whether the encoder stays as it is in an epoch, counted from 1."""
        if not self.freeze_encoder:
            return False
        return self.unfreeze_epoch is None or epoch < self.unfreeze_epoch

    def course(self) -> dict[str, Any]:
        """What decides the weights, as plain values: a run goes on only with the same."""
        names = [f.name for f in fields(FinetuneConfig) if f.name not in _FREE]
        found = {name: plain(getattr(self, name)) for name in names}
        return found | {"encoder_lr": self.rate_of_encoder}


_FREE: Final = frozenset({"num_workers", "accelerator", "tensorboard", "deterministic"})
