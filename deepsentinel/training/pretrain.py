"""`pretrain`: train an encoder on patches without labels, to be resumed after a kill at any step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from deepsentinel.bands import SENSORS
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.towers import Fusion
from deepsentinel.objectives.objective import Objective
from deepsentinel.training.config import plain, write_config
from deepsentinel.training.finetuning.options import Precision
from deepsentinel.training.pretraining.card import about, final_card
from deepsentinel.training.pretraining.loop import Loop
from deepsentinel.training.pretraining.options import PretrainConfig
from deepsentinel.training.pretraining.report import pretrain_report
from deepsentinel.training.pretraining.result import PretrainResult
from deepsentinel.training.pretraining.setup import (
    Data,
    Source,
    course_of,
    encoder_of,
    fabric_of,
    feed_of,
    objective_of,
    opened,
    probe_of,
    steps_of,
    undisturbed,
)
from deepsentinel.training.pretraining.state import PretrainFolder
from deepsentinel.training.ranks import join, rank
from deepsentinel.training.stored import check_options


def pretrain(
    corpus: Data | Sequence[Data],
    *,
    out_dir: str | Path,
    objective: str | Objective = "masked",
    objective_options: Mapping[str, Any] | None = None,
    encoder: str | Path | FusionEncoder | None = None,
    backbone: str = "convnext_atto",
    fusion: Fusion = "early",
    embed_dim: int | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    split: str | None = "train",
    sensors: Sequence[str] = SENSORS,
    shares: Sequence[float] | None = None,
    stream: bool | None = None,
    neighbours_km: float = 5.0,
    crop: int | None = None,
    turn: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    requester_pays: bool | str | None = None,
    cache_dir: str | Path | None = None,
    steps: int | None = None,
    epochs: int = 100,
    batch_size: int = 64,
    accumulate: int = 1,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    warmup: float = 0.05,
    grad_clip: float = 1.0,
    ema: float | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    num_workers: int = 0,
    precision: Precision = "auto",
    compile: bool = False,  # noqa: A002 - torch's word
    channels_last: bool = False,
    checkpointing: bool = False,
    log_every: int = 50,
    watch_every: int = 100,
    checkpoint_every: int = 500,
    image_every: int | None = 1000,
    probe: str | Path | None = None,
    probe_label: str | None = None,
    probe_split: str | None = None,
    probe_every: int = 1000,
    probe_patches: int = 1000,
    name: str = "",
    licence: str = "",
    limits: str = "",
    resume: bool = True,
    progress: bool = True,
    logger: Any = None,
) -> PretrainResult:
    """Train an encoder on patches without labels, and save it with its card filled in.

    The same call gives the same weights. A call that was killed goes on from its last checkpoint
    when it is repeated, in the middle of an epoch, to the same losses and weights as if nothing had
    happened; repeated after its end it returns the result at once.

    Processes that `torchrun` started together share each step; the first one writes.

    Args:
        corpus: path or URL of a corpus, a map-style dataset or list of samples, a
            `DeepSentinelStream`; or a list of them (but streams), drawn from by `shares`. Labels
            are not read.
        out_dir: folder of checkpoint, log, images, report and encoder, made if need be.
        objective: name of one of `deepsentinel.objectives.registry.OBJECTIVES`, or one that was
            made for `encoder`.
        objective_options: arguments of the objective of that name.
        encoder: a `FusionEncoder`, or name or folder of one, whose weights training starts from.
        backbone: timm name of a new encoder's backbone, if `encoder` is `None`.
        fusion: where the new encoder joins the sensors: `"early"`, `"mid"`, `"late"`.
        embed_dim: length of the new encoder's embedding.
        encoder_options: further arguments of the new `FusionEncoder`.
        split: which patches of a corpus to read; all if `None`.
        sensors: which sensors of a corpus to read.
        shares: how much of each of several corpora is drawn; by their sizes if `None`.
        stream: read the corpus as a shuffled stream; if `None`, where it is remote.
        neighbours_km: how far off the neighbour may lie that `"tile2vec"` pairs a patch with.
        crop: side of a random crop in pixels; whole patches if `None`.
        turn: mirror and turn patches by right angles at random.
        storage_options: arguments of the storage client of a corpus.
        requester_pays: who pays, where the bucket asks it.
        cache_dir: a folder that keeps what was read from afar.
        steps: of the optimiser; as many as `epochs` holds if `None`.
        epochs: passes over the patches, where `steps` is `None`.
        batch_size: patches a step, over all processes.
        accumulate: parts that a step is divided into, to need less memory.
        lr: learning rate at its height.
        weight_decay: of AdamW, on matrices and kernels only.
        warmup: share of the steps over which the rate rises; then it falls as a cosine.
        grad_clip: greatest norm of the gradient.
        ema: decay of a moving average of the encoder's weights, which is then what is kept.
        seed: decides initial weights, order, crops and all that is drawn.
        accelerator: as Lightning takes it: `"auto"`, `"cpu"`, `"gpu"`.
        num_workers: processes that read, for each that trains; 0 reads a batch ahead on a thread.
        precision: `"auto"` is bfloat16 where a GPU has it, else float32.
        compile: compile the encoder with `torch.compile`.
        channels_last: keep images channels last in memory, which is faster on GPUs.
        checkpointing: compute activations twice instead of keeping them.
        log_every: steps between rows of the log.
        watch_every: steps between looks at the spread of embeddings, which tell a collapse.
        checkpoint_every: steps between checkpoints.
        image_every: steps between pictures, where the objective makes some.
        probe: corpus with labels for a nearest-neighbour probe while it runs.
        probe_label: which label of it, where there are several.
        probe_split: which of its patches; all if `None`.
        probe_every: steps between probes; there is one before the first step and one at the end.
        probe_patches: how many patches the probe looks at.
        name: of the encoder, in its card.
        licence: of the weights, in its card.
        limits: when to use the encoder and when not, in its card.
        resume: go on with what `out_dir` holds; `False` starts over.
        progress: show a progress bar.
        logger: a Lightning logger that gets the log too.

    Returns:
        The encoder, where it was saved, and the log.

    Raises:
        ConfigError: an option that is out of range, or that contradicts another.
        UnknownNameError: no objective, encoder or label of that name.
        CheckpointError: `out_dir` holds a run with other options, or a damaged checkpoint.
        TrainingError: too few patches, a loss that is not finite, a folder that cannot be written.
        CorpusNotFoundError, SplitError, BandError, StoreError: as for `DeepSentinelDataset`.
        KeyboardInterrupt: Ctrl-C; its message says how to go on.

    Example:
        >>> import tempfile
        >>> import deepsentinel
        >>> samples = [{"image_s1": torch.full((2, 32, 32), -9.0 - i)} for i in range(4)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = pretrain(
        ...         samples, out_dir=folder, objective="simclr", backbone="resnet10t", steps=2,
        ...         batch_size=4, progress=False, accelerator="cpu",
        ...     )
        ...     deepsentinel.load_encoder(result.path).card.training["objective"]
        'simclr'
    """
    data = _several(corpus)
    config = PretrainConfig(
        corpus=tuple(_described(d) for d in data),
        out_dir=Path(out_dir),
        objective=objective if isinstance(objective, str) else type(objective).__name__,
        objective_options=dict(objective_options or {}),
        encoder=_encoder_name(encoder),
        backbone=backbone,
        fusion=fusion,
        embed_dim=embed_dim,
        encoder_options=dict(encoder_options or {}),
        split=split,
        sensors=tuple(sensors),
        shares=None if shares is None else tuple(shares),
        stream=stream,
        neighbours_km=neighbours_km,
        crop=crop,
        turn=turn,
        storage_options=None if storage_options is None else dict(storage_options),
        requester_pays=requester_pays,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        grad_clip=grad_clip,
        ema=ema,
        seed=seed,
        accelerator=accelerator,
        num_workers=num_workers,
        precision=precision,
        compile=compile,
        channels_last=channels_last,
        checkpointing=checkpointing,
        log_every=log_every,
        watch_every=watch_every,
        checkpoint_every=checkpoint_every,
        image_every=image_every,
        probe=None if probe is None else str(probe),
        probe_label=probe_label,
        probe_split=probe_split,
        probe_every=probe_every,
        probe_patches=probe_patches,
        name=name,
        licence=licence,
        limits=limits,
    )
    given = Given(
        data=data,
        encoder=encoder if isinstance(encoder, FusionEncoder) else None,
        objective=None if isinstance(objective, str) else objective,
    )
    return run_config(config, given, resume=resume, progress=progress, logger=logger)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a call brought along that no file can hold."""

    data: tuple[Data, ...] | None = None
    encoder: FusionEncoder | None = None
    objective: Objective | None = None


def run_config(
    config: PretrainConfig,
    given: Given | None = None,
    *,
    resume: bool = True,
    progress: bool = True,
    logger: Any = None,
) -> PretrainResult:
    """A pretraining as a config says, such as `read_config(PretrainConfig, "recipe.yaml")`.

    Args:
        config: all choices.
        given: objects that stand in for what the config only names.
        resume: as for `pretrain`.
        progress: as for `pretrain`.
        logger: as for `pretrain`.
    """
    given = given or Given()
    join(config.accelerator)
    fabric = fabric_of(config)
    with undisturbed(fabric):
        encoder = given.encoder or encoder_of(config)
        data = tuple(opened(config, d, encoder) for d in given.data or config.corpora)
        objective = given.objective or objective_of(config, encoder)
        feed = feed_of(config, data, encoder, pin=fabric.device.type == "cuda")
        loop = Loop(
            config=config,
            fabric=fabric,
            encoder=encoder,
            objective=objective,
            feed=feed,
            folder=PretrainFolder(config.out_dir),
            steps=steps_of(config, feed),
            options=course_of(config, data, encoder, feed),
            logger=logger,
        )
        _begin(loop, resume=resume)
        if loop.done < loop.steps:
            _run(loop, progress=progress)
        return _finish(loop, data)


def _several(corpus: Data | Sequence[Data]) -> tuple[Data, ...]:
    if isinstance(corpus, tuple) or (
        isinstance(corpus, list) and not all(isinstance(item, Mapping) for item in corpus)
    ):
        return tuple(corpus)
    return (corpus,)  # type: ignore[return-value]  # a list of samples is one dataset


def _described(data: Data) -> str:
    return str(data) if isinstance(data, str | Path) else f"<{type(data).__name__}>"


def _encoder_name(encoder: str | Path | FusionEncoder | None) -> str | None:
    if isinstance(encoder, FusionEncoder):
        return f"<{encoder.card.name or encoder.card.backbone}>"
    return None if encoder is None else str(encoder)


def _begin(loop: Loop, *, resume: bool) -> None:
    folder = loop.folder
    state = folder.read() if resume else None
    if state is not None:
        check_options(state.options, plain(loop.options), folder.last)
        loop.resume(state)
    if rank() == 0:
        if state is None:
            folder.clear()
        else:
            folder.rewind(state.step if state.step else -1)
    loop.fabric.barrier()
    if state is None:
        # Before the first step, for objects that a call brings along are not made anew alike.
        loop.options = plain(loop.options)
        loop.save()


def _run(loop: Loop, *, progress: bool) -> None:
    config = loop.config
    loop.probe = probe_of(config, loop.encoder)
    if rank() == 0:
        public = replace(config, storage_options=None, requester_pays=None)
        write_config(public, loop.folder.path / "config.yaml")
    with _bar(loop, shown=progress and rank() == 0):
        try:
            loop.run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped at step {loop.done} of {loop.steps}; the last checkpoint is in "
                f"{loop.folder.last}. Repeat the same call to go on from there."
            ) from None


def _finish(loop: Loop, data: tuple[Source, ...]) -> PretrainResult:
    """Write encoder and report, where the first process has not yet."""
    folder = loop.folder
    rows = tuple(folder.rows())
    with torch.compiler.set_stance("force_eager"):
        encoder = loop.kept.eval().to("cpu").to(memory_format=torch.contiguous_format)
    written = (folder.encoder / "config.json", folder.report / "report.json")
    if rank() == 0 and not all(file.exists() for file in written):
        facts = [about(d) for d in data]
        card = final_card(
            encoder.card, loop.config, facts, rows, steps=loop.steps, seconds=loop.seconds
        )
        encoder.save_pretrained(folder.encoder, card=card)
        drawn = max(folder.images.glob("*.png"), default=None)
        pretrain_report(loop.config, card, rows, drawn=drawn).write(folder.report)
    loop.fabric.barrier()
    return PretrainResult(
        encoder=encoder,
        path=folder.encoder,
        out_dir=folder.path,
        steps=loop.steps,
        log=rows,
    )


@contextmanager
def _bar(loop: Loop, *, shown: bool) -> Iterator[None]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), disable=not shown) as bar:
        line = bar.add_task("pretrain", total=loop.steps, completed=loop.done)
        loop.tell = lambda step, said: bar.update(line, completed=step, description=said)
        yield
