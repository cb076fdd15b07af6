"""The fit as Lightning runs it: a trainer without what is ours, Ctrl-C, nothing left changed."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Trainer

from deepsentinel.errors import MissingExtraError
from deepsentinel.heads.model import Model
from deepsentinel.training.finetuning.task import Interrupts, ProgressBar, Task
from deepsentinel.training.ranks import rank, together

# What the run folder, the callbacks and the loaders do instead of Lightning.
_OURS: Final[dict[str, Any]] = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


def fit(task: Task, val: Any, *, progress: bool, logger: Any) -> None:
    """Train until the epochs are done or nothing improves any more.

    Args:
        task: what is trained, with its loader.
        val: batches that are scored after each epoch.
        progress: show a progress bar.
        logger: a Lightning logger or several, or `None`.

    Raises:
        KeyboardInterrupt: Ctrl-C; its message says how to go on.
        MissingExtraError: TensorBoard is asked for and not installed.
    """
    with undisturbed():
        interrupts = Interrupts()
        _run(_trainer(task, interrupts, progress=progress, logger=logger), task, val, interrupts)


def _run(trainer: Trainer, task: Task, val: Any, interrupts: Interrupts) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, task.loader, val)
    except SystemExit:
        if not interrupts.caught:
            raise
        raise KeyboardInterrupt(
            f"stopped in epoch {task.epoch} of {task.config.epochs}; {len(task.run.history)} complete "
            f"epochs are kept in {task.folder.last}. Repeat the same call to go on from there."
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning ignores it after Ctrl-C


def _trainer(task: Task, interrupts: Interrupts, *, progress: bool, logger: Any) -> Trainer:
    config, folder = task.config, task.folder.path
    callbacks = [interrupts, *([ProgressBar()] if progress and rank() == 0 else [])]
    return Trainer(
        accelerator=config.accelerator,
        precision=config.precision,
        max_epochs=config.epochs - len(task.run.history),
        gradient_clip_val=config.grad_clip,
        deterministic=config.deterministic,
        logger=_loggers(logger, folder, tensorboard=config.tensorboard) or False,
        callbacks=callbacks,
        default_root_dir=folder,
        **_OURS,
        **together(),
    )


def _loggers(logger: Any, folder: Path, *, tensorboard: bool) -> list[Any]:
    """Those of the caller, and that for TensorBoard."""
    if rank() != 0:
        return []
    found = list(logger) if isinstance(logger, list | tuple) else [logger] if logger else []
    if not tensorboard:
        return found
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return [*found, TensorBoardLogger(folder, name="tensorboard", version="")]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "tensorboard=True needs the package tensorboard: "
            'pip install "deepsentinel[tensorboard]".'
        ) from error


@contextmanager
def as_it_was(model: Model[Any]) -> Iterator[None]:
    """Device, and which parameters need a gradient, are afterwards what they were before."""
    device = next(model.parameters()).device
    needed = [(p, p.requires_grad) for p in model.parameters()]
    model.train()  # Lightning warns of modules in evaluation mode
    try:
        yield
    finally:
        model.to(device)
        for parameter, was_needed in needed:
            parameter.requires_grad_(was_needed)


@contextmanager
def undisturbed() -> Iterator[None]:
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
            # Our stream knows of workers and processes.
            warnings.filterwarnings("ignore", "Your `IterableDataset` has `__len__`")
            warnings.filterwarnings("ignore", "Grad strides do not match")  # advice of DDP
            # Lightning 2.6 on torch 2.12 and later asks for this class at each fit.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warn_only)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
