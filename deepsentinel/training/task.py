"""The fine-tuning loop as Lightning runs it: one module, one callback, one progress bar."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, isfinite, pi
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from deepsentinel.errors import TrainingError
from deepsentinel.heads.model import Model
from deepsentinel.sample import Batch
from deepsentinel.training.checkpoint import Row, RunFolder, State
from deepsentinel.training.loader import derive
from deepsentinel.training.scores import Scores, scores_for


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides the course of a run."""

    epochs: int
    steps_per_epoch: int
    lr: float
    encoder_lr: float
    weight_decay: float
    warmup: float
    freeze_encoder: bool
    patience: int | None
    seed: int

    def lr_factor(self, step: int) -> float:
        """Share of the learning rate at a step: a linear warm-up, then half a cosine to 0."""
        total = self.epochs * self.steps_per_epoch
        warm = max(1, round(self.warmup * total))
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + cos(pi * (step - warm) / max(1, total - warm)))


def best_epoch(history: Sequence[Row], metric: str) -> int:
    """Place of the first best epoch in the history.

    Example:
        >>> best_epoch([{"miou": 0.1}, {"miou": 0.4}, {"miou": 0.4}], "miou")
        1
    """
    return max(range(len(history)), key=lambda i: (history[i][metric], -i))


def is_finished(history: Sequence[Row], metric: str, plan: Plan) -> bool:
    """Whether all epochs are done, or too many have passed without a better score."""
    if len(history) >= plan.epochs:
        return True
    if plan.patience is None or not history:
        return False
    return len(history) - 1 - best_epoch(history, metric) >= plan.patience


class Task(LightningModule):  # type: ignore[misc]  # lightning is untyped to mypy
    """Trains a model, scores it on the validation batches and keeps a checkpoint an epoch."""

    def __init__(self, model: Model[Any], plan: Plan, folder: RunFolder, state: State) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.folder = folder
        self.run = state
        self.scores: Scores = scores_for(model)
        self.train_loss, self.val_loss = Mean(), Mean()
        self.labelled = 0
        self.row: Row = {}

    @property
    def epoch(self) -> int:
        """The epoch of the run that is going on, counted from 1."""
        return len(self.run.history) + 1

    def describe(self) -> str:
        """Where the run stands, in a few words."""
        name, history = self.scores.headline, self.run.history
        words = [f"epoch {min(self.epoch, self.plan.epochs)}/{self.plan.epochs}"]
        if self.train_loss.count:
            words.append(f"loss {self.train_loss.value():.3f}")
        if history:
            best = history[best_epoch(history, name)][name]
            words.append(f"{name} {history[-1][name]:.3f}, best {best:.3f}")
        return "  ".join(words)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW under a warm-up and a cosine, as they were left by the session before."""
        optimiser = torch.optim.AdamW(parameter_groups(self.model, self.plan), lr=self.plan.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, self.plan.lr_factor)
        if self.run.optimiser is not None and self.run.scheduler is not None:
            optimiser.load_state_dict(dict(self.run.optimiser))
            scheduler.load_state_dict(dict(self.run.scheduler))
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_epoch_start(self) -> None:
        """Seed what is drawn in this epoch; a frozen encoder keeps its statistics too."""
        torch.manual_seed(derive(self.plan.seed, self.epoch))
        self.model.train()
        if self.plan.freeze_encoder:
            self.model.encoder.eval()
        self.train_loss, self.labelled = Mean(), 0

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch."""
        loss = self.model.loss(batch)["loss"]
        value = loss.item()
        if not isfinite(value):
            raise TrainingError(_not_finite("training", self.epoch, index, batch, value))
        self.train_loss.add(value, _size(batch))
        self.labelled += self.model.head.labelled(batch)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to score."""
        self.scores, self.val_loss = scores_for(self.model), Mean()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Score one batch."""
        logits = self.model.logits(batch)
        value = self.model.head.loss(logits, batch)["loss"].item()
        if not isfinite(value):
            raise TrainingError(_not_finite("validation", self.epoch, index, batch, value))
        self.val_loss.add(value, _size(batch))
        self.scores.update(self.model.head.decode(logits), batch)

    def on_validation_epoch_end(self) -> None:
        """The scores of the epoch."""
        self.row = {"val_loss": self.val_loss.value(), **self.scores.compute()}

    def on_train_epoch_end(self) -> None:
        """Write the best and the last checkpoint; stop where nothing improves any more."""
        if self.labelled == 0:
            raise TrainingError(
                f"nothing was labelled in the whole of epoch {self.epoch}: every target is -1. "
                "Look at the split with `deepsentinel stats`, or take other labels=...."
            )
        row = {"epoch": self.epoch, "train_loss": self.train_loss.value(), **self.row}
        history = (*self.run.history, row | {"lr": self.optimizers().param_groups[0]["lr"]})
        weights = self.model.state_dict()
        if best_epoch(history, self.scores.headline) == len(history) - 1:
            self.folder.write_best(self.model.config(), weights, epoch=len(history))
        self.run = replace(
            self.run,
            model=weights,
            optimiser=self.optimizers().optimizer.state_dict(),
            scheduler=self.lr_schedulers().state_dict(),
            history=history,
        )
        self.folder.write(self.run)
        for logger in self.trainer.loggers:
            logger.log_metrics(history[-1], step=len(history))
        self.trainer.should_stop = is_finished(history, self.scores.headline, self.plan)


class Interrupts(Callback):  # type: ignore[misc]  # lightning is untyped to mypy
    """Remembers that Ctrl-C ended the fit, which Lightning turns into an exit of the process."""

    def __init__(self) -> None:
        self.caught = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Called by Lightning before it exits."""
        self.caught = isinstance(exception, KeyboardInterrupt)


class ProgressBar(Callback):  # type: ignore[misc]  # lightning is untyped to mypy
    """One bar for the whole run, with the loss and the score that matters."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )

    def on_train_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Show the bar, where the run stands."""
        plan = pl_module.plan
        self.bar.start()
        self.line = self.bar.add_task(
            pl_module.describe(),
            total=plan.epochs * plan.steps_per_epoch,
            completed=len(pl_module.run.history) * plan.steps_per_epoch,
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: Task, *_: object) -> None:
        """One batch further."""
        self.bar.update(self.line, advance=1, description=pl_module.describe())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After the fit, or after what ended it."""
        self.bar.stop()


class Mean:
    """A mean over patches, added batch by batch.

    Example:
        >>> mean = Mean()
        >>> mean.add(1.0, 3)
        >>> mean.add(5.0, 1)
        >>> mean.value()
        2.0
    """

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float, count: int) -> None:
        """Add the mean of `count` patches."""
        self.total += value * count
        self.count += count

    def value(self) -> float:
        """The mean of all."""
        return self.total / max(1, self.count)


def parameter_groups(model: Model[Any], plan: Plan) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and decay: none on biases, norms and other vectors."""
    groups: list[dict[str, Any]] = []
    for part, lr in ((model.head, plan.lr), (model.encoder, plan.encoder_lr)):
        trainable: list[nn.Parameter] = [p for p in part.parameters() if p.requires_grad]
        for decayed in (True, False):
            chosen = [p for p in trainable if (p.ndim > 1) == decayed]
            if chosen:
                decay = plan.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "lr": lr, "weight_decay": decay})
    return groups


def _size(batch: Batch) -> int:
    return next(len(v) for v in batch.values() if isinstance(v, Tensor | list))


def _not_finite(stage: str, epoch: int, index: int, batch: Batch, value: float) -> str:
    ids = [m.id for m in batch.get("meta", ())][:8]
    return (
        f"the {stage} loss is {value} in epoch {epoch}, batch {index} (patches "
        f"{' '.join(ids) if ids else 'without meta'}). Try a lower lr (a tenth), a smaller "
        'grad_clip, precision="32-true"; and look at these patches: `deepsentinel plot CORPUS ID`, '
        "values far outside the rest, or an encoder built with empty='nan'. "
        "The checkpoint of the epoch before is kept."
    )
