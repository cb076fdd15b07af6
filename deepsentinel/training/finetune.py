"""`finetune`: train a model on labelled patches, repeatable, resumable after a kill at any moment."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Trainer
from torch.utils.data import Dataset

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import TrainingError
from deepsentinel.heads.model import Model, load_weights
from deepsentinel.sample import PatchMeta, Sample
from deepsentinel.training.checkpoint import Row, RunFolder, State, check_options
from deepsentinel.training.loader import EpochLoader, in_order
from deepsentinel.training.scores import scores_for
from deepsentinel.training.task import Interrupts, Plan, ProgressBar, Task, best_epoch, is_finished

Samples = Dataset[Sample] | list[Sample]
"""A map-style dataset of samples, or a list of them."""

# What the run folder, the callbacks and the loaders do instead of Lightning.
_OURS: Final[dict[str, Any]] = {
    "devices": 1,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


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
    train: Samples,
    val: Samples,
    *,
    out_dir: str | Path,
    epochs: int = 20,
    lr: float = 1e-3,
    encoder_lr: float | None = None,
    freeze_encoder: bool = False,
    batch_size: int = 16,
    num_workers: int = 0,
    weight_decay: float = 0.01,
    warmup: float = 0.05,
    grad_clip: float = 1.0,
    patience: int | None = 10,
    seed: int = 0,
    resume: bool = True,
    progress: bool = True,
    logger: Any = None,
    accelerator: str = "auto",
    precision: str = "32-true",
    deterministic: bool = True,
) -> FinetuneResult:
    """Train a model on labelled patches and keep its best epoch.

    The same call gives the same weights. A call that was killed, or stopped with Ctrl-C, goes on
    from its last complete epoch when it is repeated, and ends as if nothing had happened; repeated
    after its end it returns the result at once.

    Args:
        model: a `Segmenter` or `Classifier`; its weights are changed.
        train: map-style dataset of samples with the model's target, `mask` or `label`.
        val: such a dataset from other places; it chooses the best epoch.
        out_dir: folder for `last.ckpt`, `best` and `metrics.csv`, made if need be.
        epochs: passes over `train`.
        lr: learning rate of the head, at its height.
        encoder_lr: of the encoder; a tenth of `lr` if `None`.
        freeze_encoder: leave the encoder as it is, running statistics of its normalisation too.
        batch_size: patches a batch.
        num_workers: worker processes that read; 0 reads in this one.
        weight_decay: of AdamW, on matrices and kernels only.
        warmup: share of all steps over which the learning rate rises; then it falls as a cosine.
        grad_clip: greatest norm of the gradient.
        patience: epochs without a better score after which to stop; `None` never stops early.
        seed: decides order, dropout and random transforms.
        resume: go on with what `out_dir` holds; `False` starts over.
        progress: show a progress bar.
        logger: a Lightning logger that gets the history too.
        accelerator: as Lightning's `Trainer` takes it: `"auto"`, `"cpu"`, `"gpu"`.
        precision: likewise: `"32-true"`, `"bf16-mixed"`.
        deterministic: use deterministic algorithms only; `False` may be faster on a GPU, and is
            needed for encoders with layers that have none.

    Returns:
        Scores, history, paths, and the model with its best weights.

    Raises:
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
    patches = _length(train, "train")
    plan = Plan(
        epochs=epochs,
        steps_per_epoch=-(-patches // max(1, batch_size)),
        lr=lr,
        encoder_lr=lr / 10 if encoder_lr is None else encoder_lr,
        weight_decay=weight_decay,
        warmup=warmup,
        freeze_encoder=freeze_encoder,
        patience=patience,
        seed=seed,
    )
    _check_plan(plan, batch_size, grad_clip)
    _length(val, "val")
    options = vars(plan) | {
        "batch_size": batch_size,
        "grad_clip": grad_clip,
        "precision": precision,
        "train": _fingerprint(train),
        "val": _fingerprint(val),
        "model": _identity(model),
    }
    if not freeze_encoder:
        _disown_scores(model.encoder)
    folder = RunFolder(Path(out_dir))
    state = _begin(folder, model, options, resume=resume)
    if not is_finished(state.history, scores_for(model).headline, plan):
        task = Task(model, plan, folder, state)
        loader = EpochLoader(
            train,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            start=len(state.history),
        )
        held_out = in_order(val, batch_size=batch_size, num_workers=num_workers)
        with _frozen(model, freeze=freeze_encoder), _undisturbed():
            trainer = Trainer(
                accelerator=accelerator,
                precision=precision,
                max_epochs=epochs - len(state.history),
                gradient_clip_val=grad_clip,
                deterministic=deterministic,
                logger=logger if logger is not None else False,
                callbacks=[Interrupts(), *([ProgressBar()] if progress else [])],
                default_root_dir=folder.path,
                **_OURS,
            )
            _fit(trainer, task, loader, held_out)
        state = task.run
    return _result(model, folder, state, plan)


def _begin(folder: RunFolder, model: Model[Any], options: dict[str, Any], *, resume: bool) -> State:
    """The state to go on from, with the model brought there; written if it is the first."""
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
    load_weights(model, state.model, folder.last)
    return state


def _identity(model: Model[Any]) -> dict[str, Any]:
    """The model's config, with the card's name alone: its other facts may be filled in later."""
    config = model.config()
    encoder = config["encoder"]
    card = {"card": encoder["card"]["name"]} if "card" in encoder else {}
    return config | {"encoder": encoder | card}


def _disown_scores(encoder: object) -> None:
    """Take from the card of an encoder that is about to change what will no longer be true."""
    if isinstance(encoder, FusionEncoder):
        note = {"fine-tuned": "with deepsentinel.finetune, from the weights named here"}
        training = dict(encoder.card.training) | note
        encoder.card = replace(encoder.card, scores=(), sha256="", training=training)


def _fit(trainer: Trainer, task: Task, train: Any, val: Any) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupts = next(c for c in trainer.callbacks if isinstance(c, Interrupts))
    device = next(task.model.parameters()).device
    try:
        trainer.fit(task, train, val)
    except SystemExit:
        if not interrupts.caught:
            raise
        raise KeyboardInterrupt(
            f"stopped in epoch {task.epoch} of {task.plan.epochs}; {len(task.run.history)} complete "
            f"epochs are kept in {task.folder.last}. Repeat the same call to go on from there."
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning ignores it after Ctrl-C
        task.model.to(device)


def _result(model: Model[Any], folder: RunFolder, state: State, plan: Plan) -> FinetuneResult:
    metric = scores_for(model).headline
    place = best_epoch(state.history, metric)
    load_weights(model, folder.read_best(), folder.best)
    return FinetuneResult(
        model=model.eval(),
        metric=metric,
        best_score=state.history[place][metric],
        best_epoch=place + 1,
        epochs=len(state.history),
        stopped_early=len(state.history) < plan.epochs,
        history=state.history,
        out_dir=folder.path,
        best=folder.best,
        last=folder.last,
    )


@contextmanager
def _frozen(model: Model[Any], *, freeze: bool) -> Iterator[None]:
    """The encoder's parameters need no gradient meanwhile, so that no backward pass is made."""
    before = [(p, p.requires_grad) for p in model.encoder.parameters()]
    if freeze:
        model.encoder.requires_grad_(False)  # noqa: FBT003 - torch's signature
    model.train()  # Lightning warns of modules in evaluation mode
    try:
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The caller's random state and torch settings come back; Lightning says only what matters."""
    was, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)  # advice on workers and the like
            # Lightning 2.6 on torch 2.12 and later asks for this class at each fit.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warn_only)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_plan(plan: Plan, batch_size: int, grad_clip: float) -> None:
    wrong = {
        "epochs": plan.epochs < 1,
        "lr": not plan.lr > 0,
        "encoder_lr": not plan.encoder_lr >= 0,
        "weight_decay": not plan.weight_decay >= 0,
        "warmup": not 0 <= plan.warmup < 1,
        "patience": plan.patience is not None and plan.patience < 1,
        "batch_size": batch_size < 1,
        "grad_clip": not grad_clip > 0,
    }
    names = [name for name, is_wrong in wrong.items() if is_wrong]
    if names:
        raise TrainingError(
            f"out of range: {', '.join(names)}. epochs, patience and batch_size are at least 1, "
            "lr and grad_clip above 0, encoder_lr and weight_decay not below 0, warmup from 0 to "
            "below 1."
        )


def _length(dataset: Samples, name: str) -> int:
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise TrainingError(
            f"{name} is a {type(dataset).__name__}; a map-style dataset of samples is expected, "
            "with __len__ and __getitem__, such as deepsentinel.DeepSentinelDataset."
        )
    if not len(dataset):
        raise TrainingError(f"{name} holds no sample. Look at the splits: `deepsentinel info`.")
    return len(dataset)


def _fingerprint(dataset: Samples) -> dict[str, Any]:
    """Enough to notice that a run is continued on other data."""
    size = len(cast(Sized, dataset))
    metas = [dataset[i].get("meta") for i in (0, size - 1)]
    ids = [m.id if isinstance(m, PatchMeta) else None for m in metas]
    return {"patches": size, "first": ids[0], "last": ids[1]}
