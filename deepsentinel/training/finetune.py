"""`finetune`: train a model on labelled patches, repeatable, resumable after a kill at any moment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.stream_loader import StreamLoader
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.published import PublishedEncoder
from deepsentinel.errors import TrainingError
from deepsentinel.heads.model import Model, load_weights
from deepsentinel.training.finetuning.checkpoint import Row, RunFolder, State
from deepsentinel.training.finetuning.fit import as_it_was, fit, undisturbed
from deepsentinel.training.finetuning.loader import EpochLoader, in_order, shared_badly
from deepsentinel.training.finetuning.lora import LoRA, adapted
from deepsentinel.training.finetuning.options import FinetuneConfig, Precision
from deepsentinel.training.finetuning.preflight import Samples, check_start, described
from deepsentinel.training.finetuning.report import FOLDER, is_report_of, write_finetune_report
from deepsentinel.training.finetuning.task import Augmenter, Task, best_epoch, is_finished
from deepsentinel.training.ranks import from_first, join, rank, world_size
from deepsentinel.training.scoring.scores import scores_for
from deepsentinel.training.stored import check_options


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """What a fine-tuning came to."""

    model: Model[Any]
    """With the weights of the best epoch, in evaluation mode."""
    metric: str
    """Name of the score that chose the best epoch, on the validation patches."""
    best_score: float
    best_epoch: int
    """Counted from 1."""
    epochs: int
    """How many were run, over all sessions."""
    stopped_early: bool
    history: tuple[Row, ...]
    """One row an epoch: `epoch`, `train_loss`, `val_loss`, scores, `lr`; also in `metrics.csv`."""
    out_dir: Path
    best: Path
    """Folder of the best model; `deepsentinel.load_model` opens it, and `out_dir` too."""
    last: Path
    """Checkpoint after the last epoch; loads with `torch.load(..., weights_only=True)`."""

    def __str__(self) -> str:
        early = ", stopped early" if self.stopped_early else ""
        return (
            f"{self.metric} {self.best_score:.3f} in epoch {self.best_epoch} of {self.epochs}{early}"
            f"; best model in {self.best}"
        )


def finetune(
    model: Model[Any],
    train: Samples | DeepSentinelStream,
    val: Samples,
    *,
    out_dir: str | Path,
    epochs: int = 20,
    batch_size: int = 16,
    lr: float = 1e-3,
    encoder_lr: float | None = None,
    layer_decay: float = 1.0,
    freeze_encoder: bool = False,
    unfreeze_epoch: int | None = None,
    lora: LoRA | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.05,
    grad_clip: float = 1.0,
    patience: int | None = 10,
    seed: int = 0,
    augment: Augmenter | None = None,
    resume: bool = True,
    report: bool = True,
    progress: bool = True,
    logger: Any = None,
    tensorboard: bool = False,
    num_workers: int = 0,
    accelerator: str = "auto",
    precision: Precision = "auto",
    deterministic: bool = True,
) -> FinetuneResult:
    """Train a model on labelled patches and keep its best epoch.

    The same call gives the same weights. A call that was killed, or stopped with Ctrl-C, goes on
    from its last complete epoch when it is repeated, and ends as if nothing had happened; repeated
    after its end it returns the result at once.

    Processes that `torchrun` started together share each batch; the first one writes.

    Args:
        model: any model, such as a `Segmenter`; its weights are changed.
        train: map-style dataset of samples with the model's target, such as `mask` or `label`; or
            a `DeepSentinelStream`, which brings its own order.
        val: map-style dataset from other places; it chooses the best epoch.
        out_dir: folder for `last.ckpt`, `best`, `metrics.csv` and `report`, made if need be.
        epochs: passes over `train`.
        batch_size: patches a step, over all processes.
        lr: learning rate of the head, at its height.
        encoder_lr: of the encoder; a tenth of `lr` if `None`, or `lr` itself with `lora`.
        layer_decay: the encoder's rate falls by this factor from each block to the one before it.
        freeze_encoder: leave the encoder as it is, running statistics of its normalisation too; a
            linear probe, where the head is linear.
        unfreeze_epoch: epoch, from 1, in which a frozen encoder begins to learn.
        lora: train low-rank changes of the encoder's layers instead of its weights; they are merged
            into what is kept, which is a model like any other.
        weight_decay: of AdamW, on matrices and kernels only.
        warmup: share of all steps over which the learning rate rises; then it falls as a cosine.
        grad_clip: greatest norm of the gradient.
        patience: epochs without a better score after which to stop; `None` never stops early.
        seed: decides order, dropout and random changes.
        augment: called with each training batch, once it is on the device, and a generator that
            follows from seed and step; such as `deepsentinel.datasets.augment.Augment()`.
        resume: go on with what `out_dir` holds; `False` starts over.
        report: write `report/report.html` at the end: scores, curves, confusion matrix, classes, best
            and worst predictions, with JSON, CSV and PNG files beside it.
        progress: show a progress bar.
        logger: a Lightning logger, or a list of them, that gets the history too.
        tensorboard: write the history for TensorBoard, into the folder `tensorboard`.
        num_workers: worker processes that read; 0 reads in this one.
        accelerator: as Lightning's `Trainer` takes it: `"auto"`, `"cpu"`, `"gpu"`.
        precision: `"32-true"`, `"bf16-mixed"`, or `"auto"`: bfloat16 where a GPU has it, else
            float32.
        deterministic: use deterministic algorithms only; `False` may be faster on a GPU, and is
            needed for encoders with layers that have none.

    Returns:
        Scores, history, paths, and the model with its best weights.

    Raises:
        ConfigError: an option is out of range, or two contradict each other.
        CheckpointError: `out_dir` holds a run with other options, or a damaged checkpoint.
        TrainingError: empty data, a loss that is not finite, nothing labelled in a whole epoch, or
            a folder that cannot be written.
        LabelError: targets that do not fit the model.
        SampleError: samples without the model's target.
        KeyboardInterrupt: Ctrl-C; its message says how to go on.

    Example:
        >>> import tempfile
        >>> from deepsentinel import Classifier, FusionEncoder
        >>> samples = [
        ...     {"image_s1": torch.full((2, 16, 16), -9.0 - 9 * i), "label": torch.tensor(i)}
        ...     for i in (0, 1, 0, 1)
        ... ]
        >>> model = Classifier(FusionEncoder("resnet10t", levels=(1,)), 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = finetune(model, samples, samples, out_dir=folder, epochs=2, progress=False)
        >>> result.metric, result.epochs, sorted(result.history[0])
        ('accuracy', 2, ['accuracy', 'epoch', 'lr', 'macro_f1', 'train_loss', 'val_loss'])
    """
    config = FinetuneConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        encoder_lr=encoder_lr,
        layer_decay=layer_decay,
        freeze_encoder=freeze_encoder,
        unfreeze_epoch=unfreeze_epoch,
        lora=lora,
        weight_decay=weight_decay,
        warmup=warmup,
        grad_clip=grad_clip,
        patience=patience,
        seed=seed,
        tensorboard=tensorboard,
        num_workers=num_workers,
        accelerator=accelerator,
        precision=precision,
        deterministic=deterministic,
    )
    return finetune_as(
        config,
        model,
        train,
        val,
        out_dir=out_dir,
        augment=augment,
        resume=resume,
        report=report,
        progress=progress,
        logger=logger,
    )


def finetune_as(
    config: FinetuneConfig,
    model: Model[Any],
    train: Samples | DeepSentinelStream,
    val: Samples,
    *,
    out_dir: str | Path,
    augment: Augmenter | None = None,
    resume: bool = True,
    report: bool = True,
    progress: bool = True,
    logger: Any = None,
) -> FinetuneResult:
    """`finetune` with its choices as one value, as it is read from a file.

    Raises:
        DeepSentinelError: as `finetune`.
    """
    join(config.accelerator)
    config = replace(config, precision=_precision(config))
    folder = RunFolder(Path(out_dir))
    data = check_start(model, train, val)
    options = config.course() | {
        "processes": world_size(),
        "augment": described(augment),
        "model": _identity(model),
        **data,
    }
    if config.changes_encoder:
        _disown_scores(model.encoder)
    with adapted(model.encoder, config.lora, seed=config.seed):
        state = from_first(lambda: _first_state(model, folder, options, resume=resume))
        load_weights(model, state.model, folder.last)
        from_first(lambda: folder.write_config(config))
        if not is_finished(state.history, scores_for(model).headline, config):
            loader = _loader(train, config, start=len(state.history))
            held_out = in_order(val, batch_size=_each(config), num_workers=config.num_workers)
            with as_it_was(model):
                task = Task(
                    model, config, folder=folder, state=state, loader=loader, augment=augment
                )
                fit(task, held_out, progress=progress, logger=logger)
            state = task.run
    result = _result(model, folder, state, config)
    if report:
        from_first(lambda: _report(result, val, config, options))
    return result


def _report(
    result: FinetuneResult, val: Samples, config: FinetuneConfig, options: Mapping[str, Any]
) -> None:
    """Write the report, unless that of just this course is there."""
    folder = result.out_dir / FOLDER
    facts = {"options": dict(options), "epochs": result.epochs, "best_epoch": result.best_epoch}
    if is_report_of(folder, facts):
        return
    with undisturbed():
        write_finetune_report(
            result.model,
            val,
            result.history,
            folder,
            best_epoch=result.best_epoch,
            facts=facts,
            batch_size=_each(config),
            num_workers=config.num_workers,
        )


def _each(config: FinetuneConfig) -> int:
    """Patches a batch of this process."""
    return max(1, config.batch_size // world_size())


def _loader(
    train: Samples | DeepSentinelStream, config: FinetuneConfig, *, start: int
) -> EpochLoader | StreamLoader:
    if isinstance(train, DeepSentinelStream):
        if config.batch_size % world_size():
            raise TrainingError(shared_badly(config.batch_size, world_size()))
        return StreamLoader(
            train,
            batch_size=_each(config),
            num_workers=config.num_workers,
            seed=config.seed,
            world_size=world_size(),
        )
    return EpochLoader(
        train,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
        start=start,
        rank=rank(),
        world_size=world_size(),
    )


def _precision(config: FinetuneConfig) -> Precision:
    if config.precision != "auto":
        return config.precision
    cuda = config.accelerator != "cpu" and torch.cuda.is_available()
    return (
        "bf16-mixed"
        if cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        else "32-true"
    )


def _first_state(
    model: Model[Any], folder: RunFolder, options: dict[str, Any], *, resume: bool
) -> State:
    """The state to go on from; written if it is the first."""
    if not resume:
        folder.clear()
    state = folder.read()
    if state is None:
        # Kept from before the first step: a head is drawn at random, and a call that is repeated
        # after an early kill draws another.
        state = State(options=options, model=model.state_dict())
        folder.write(state)
        return state
    check_options(state.options, options, folder.last)
    return state


def _identity(model: Model[Any]) -> dict[str, Any]:
    """The model's config, with the card's name alone: its other facts may be filled in later."""
    config = model.config()
    encoder = config["encoder"]
    card = {"card": encoder["card"]["name"]} if "card" in encoder else {}
    return config | {"encoder": encoder | card}


def _disown_scores(encoder: object) -> None:
    """Take from the card of an encoder that is about to change what will no longer be true."""
    if isinstance(encoder, FusionEncoder | PublishedEncoder):
        note = {"fine-tuned": "with deepsentinel.finetune, from the weights named here"}
        training = dict(encoder.card.training) | note
        encoder.card = replace(encoder.card, scores=(), sha256="", proved_on="", training=training)


def _result(
    model: Model[Any], folder: RunFolder, state: State, config: FinetuneConfig
) -> FinetuneResult:
    metric = scores_for(model).headline
    place = best_epoch(state.history, metric)
    load_weights(model, from_first(folder.read_best), folder.best)
    return FinetuneResult(
        model=model.eval(),
        metric=metric,
        best_score=state.history[place][metric],
        best_epoch=place + 1,
        epochs=len(state.history),
        stopped_early=len(state.history) < config.epochs,
        history=state.history,
        out_dir=folder.path,
        best=folder.best,
        last=folder.last,
    )
