"""The fine-tuning loop as Lightning runs it: one module, one callback, one progress bar."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
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

from deepsentinel.datasets.stream_loader import StreamLoader
from deepsentinel.errors import TrainingError
from deepsentinel.heads.model import Model
from deepsentinel.sample import Batch
from deepsentinel.training.evaluation.embed import observed_patches, take
from deepsentinel.training.finetuning.checkpoint import Row, RunFolder, State
from deepsentinel.training.finetuning.loader import EpochLoader, derive
from deepsentinel.training.finetuning.lora import merged
from deepsentinel.training.finetuning.options import FinetuneConfig
from deepsentinel.training.finetuning.schedule import factors, parameter_groups
from deepsentinel.training.finetuning.tally import Labels, Mean, named, patches
from deepsentinel.training.ranks import from_first, like_first, rank, world_size
from deepsentinel.training.scoring.scores import Scores, scores_for

Augmenter = Callable[[Batch, torch.Generator], Batch]
"""Random changes of a batch where it is, decided by a generator on the CPU alone."""


def best_epoch(history: Sequence[Row], metric: str) -> int:
    """Place of the first best epoch in the history.

    Example:
        >>> best_epoch([{"miou": 0.1}, {"miou": 0.4}, {"miou": 0.4}], "miou")
        1
    """
    return max(range(len(history)), key=lambda i: (history[i][metric], -i))


def is_finished(history: Sequence[Row], metric: str, config: FinetuneConfig) -> bool:
    """Whether all epochs are done, or too many have passed without a better score."""
    if len(history) >= config.epochs:
        return True
    if config.patience is None or not history:
        return False
    return len(history) - 1 - best_epoch(history, metric) >= config.patience


class Task(LightningModule):  # type: ignore[misc]  # lightning is untyped to mypy
    """Trains a model, scores it on the validation batches and keeps a checkpoint an epoch."""

    def __init__(
        self,
        model: Model[Any],
        config: FinetuneConfig,
        *,
        folder: RunFolder,
        state: State,
        loader: EpochLoader | StreamLoader,
        augment: Augmenter | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.folder = folder
        self.run = state
        self.loader = loader
        if isinstance(loader, StreamLoader):
            loader.epoch = lambda: len(self.run.history)
        self.augment = augment
        self.unfrozen = [p for p in model.encoder.parameters() if p.requires_grad]
        if config.freeze_encoder and config.unfreeze_epoch is None:
            set_trained(model, config, 1, self.unfrozen)
        self.scores: Scores = scores_for(model)
        self.train_loss, self.val_loss = Mean(), Mean()
        self.labels, self.augmented = Labels(), 0
        self.row: Row = {}

    @property
    def epoch(self) -> int:
        """The epoch of the run that is going on, counted from 1."""
        return len(self.run.history) + 1

    def describe(self, *, over: bool = False) -> str:
        """Where the run stands, in a few words; `over` where the last epoch was scored."""
        name, history = self.scores.headline, self.run.history
        words = [f"epoch {self.epoch - over}/{self.config.epochs}"]
        if self.train_loss.count:
            words.append(f"loss {self.train_loss.value():.3f}")
        if history:
            best = history[best_epoch(history, name)][name]
            words.append(f"{name} {history[-1][name]:.3f}, best {best:.3f}")
        return "  ".join(words)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW under a warm-up and a cosine, as they were left by the session before."""
        groups = parameter_groups(self.model, self.config)
        optimiser = torch.optim.AdamW(groups, lr=self.config.lr)
        shares = factors(self.config, len(self.loader), groups)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, shares)
        if self.run.optimiser is not None and self.run.scheduler is not None:
            optimiser.load_state_dict(dict(self.run.optimiser))
            scheduler.load_state_dict(dict(self.run.scheduler))
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_epoch_start(self) -> None:
        """Seed what is drawn in this epoch; what is frozen keeps its statistics too."""
        torch.manual_seed(derive(self.config.seed, self.epoch, rank()))
        self.model.train()
        set_trained(self.model, self.config, self.epoch, self.unfrozen)
        self.train_loss, self.augmented = Mean(), 0
        self.labels = Labels(empty_teaches=self.model.task == "detection")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The training batch with random changes, drawn anew from seed, epoch, step and process."""
        if self.augment is None or not self.trainer.training:
            return batch
        generator = torch.Generator()
        step = (self.epoch - 1) * len(self.loader) + self.augmented
        generator.manual_seed(derive(self.config.seed, step, rank() + world_size()))
        self.augmented += 1
        return self.augment(batch, generator)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch, without the patches of which nothing was observed."""
        batch = self._observed(batch)
        if not patches(batch):
            return self._nothing()
        loss = self.model.loss(batch)["loss"]
        value = loss.item()
        if not isfinite(value):
            raise TrainingError(_not_finite("training", self.epoch, index, batch, value))
        self.train_loss.add(value, patches(batch))
        self.labels.add(self.model.head.labelled(batch), batch, self.epoch)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to score; every process scores all of it, with the same statistics."""
        like_first(self.model)
        self.scores, self.val_loss = scores_for(self.model), Mean()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Score one batch, without the patches of which nothing was observed."""
        batch = self._observed(batch)
        if not patches(batch):
            return
        logits = self.model.logits(batch)
        value = self.model.head.loss(logits, batch)["loss"].item()
        if not isfinite(value):
            raise TrainingError(_not_finite("validation", self.epoch, index, batch, value))
        self.val_loss.add(value, patches(batch))
        self.scores.update(self.model.head.decode(logits), batch)

    def _observed(self, batch: Batch) -> Batch:
        """The patches of which something was observed; the others are counted."""
        seen = observed_patches(batch, self.model.encoder)
        if bool(seen.all()):
            return batch
        if self.trainer.training:
            self.labels.leave_out(take(batch, ~seen))
        return take(batch, seen)

    def _nothing(self) -> Tensor:
        """A loss of 0 that depends on every weight, as several processes must all have gradients."""
        return torch.stack([0 * p.sum() for p in self.model.parameters() if p.requires_grad]).sum()

    def on_validation_epoch_end(self) -> None:
        """The scores of the epoch."""
        self.row = {"val_loss": self.val_loss.value(), **self.scores.compute()}

    def on_train_epoch_end(self) -> None:
        """Write the best and the last checkpoint; stop where nothing improves any more."""
        self.labels.end(self.epoch)
        self.train_loss.join()
        row = {"epoch": self.epoch, "train_loss": self.train_loss.value(), **self.row}
        row |= {"lr": self.optimizers().param_groups[0]["lr"]}
        history = (*self.run.history, from_first(lambda: row))
        from_first(lambda: self._keep(history))
        self.run = replace(self.run, history=history)
        for logger in self.trainer.loggers:
            logger.log_metrics(history[-1], step=len(history))
        self.trainer.should_stop = is_finished(history, self.scores.headline, self.config)

    def _keep(self, history: tuple[Row, ...]) -> None:
        if best_epoch(history, self.scores.headline) == len(history) - 1:
            self.folder.write_best(self.model.config(), merged(self.model), epoch=len(history))
        state = replace(
            self.run,
            model=self.model.state_dict(),
            optimiser=self.optimizers().optimizer.state_dict(),
            scheduler=self.lr_schedulers().state_dict(),
            history=history,
        )
        self.folder.write(state)


def set_trained(
    model: Model[Any], config: FinetuneConfig, epoch: int, unfrozen: Sequence[nn.Parameter]
) -> None:
    """Freeze or unfreeze the encoder as the epoch, counted from 1, wants it.

    A frozen encoder is in evaluation mode; one that learns low-rank changes keeps the running
    statistics of its normalisation layers. `unfrozen` are the parameters that may learn at all.
    """
    frozen = config.is_frozen(epoch)
    if config.freeze_encoder:
        for parameter in unfrozen:
            parameter.requires_grad_(not frozen)
    if frozen:
        model.encoder.eval()
    if config.lora is not None:
        for module in model.encoder.modules():
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.eval()


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
        steps = len(pl_module.loader)
        self.bar.start()
        self.line = self.bar.add_task(
            pl_module.describe(),
            total=pl_module.config.epochs * steps,
            completed=len(pl_module.run.history) * steps,
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: Task, *_: object) -> None:
        """One batch further."""
        self.bar.update(self.line, advance=1, description=pl_module.describe())

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """The scores of the last epoch too."""
        self.bar.update(self.line, description=pl_module.describe(over=True))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After the fit, or after what ended it."""
        self.bar.stop()


def _not_finite(stage: str, epoch: int, index: int, batch: Batch, value: float) -> str:
    return (
        f"the {stage} loss is {value} in epoch {epoch}, batch {index} ({named(batch)}). Try a lower "
        'lr (a tenth), a smaller grad_clip, precision="32-true"; and look at these patches: '
        "`deepsentinel plot CORPUS ID`, "
        "values far outside the rest, or an encoder built with empty='nan'. "
        "The checkpoint of the epoch before is kept."
    )
