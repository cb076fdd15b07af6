"""`pretrain`: train an encoder on patches without labels, to be resumed after a kill at any step."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from deepsentinel.bands import SENSORS
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.neighbours import WithNeighbours
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.towers import Fusion
from deepsentinel.errors import ConfigError, TrainingError, nearest
from deepsentinel.objectives.objective import Objective
from deepsentinel.objectives.registry import make_objective
from deepsentinel.store import is_local
from deepsentinel.training.config import plain, write_config
from deepsentinel.training.finetuning.checkpoint import check_options
from deepsentinel.training.finetuning.setup import pick_label
from deepsentinel.training.pretraining.card import about, final_card
from deepsentinel.training.pretraining.feed import Feed, Framing, MapFeed, Samples, StreamFeed
from deepsentinel.training.pretraining.loop import Loop
from deepsentinel.training.pretraining.options import Precision, PretrainConfig
from deepsentinel.training.pretraining.report import pretrain_report
from deepsentinel.training.pretraining.state import LogRow, PretrainFolder
from deepsentinel.training.pretraining.watch import Probe, Some
from deepsentinel.training.ranks import join, rank, world_size
from deepsentinel.zoo.load import load_encoder

Data = str | Path | Samples | DeepSentinelStream
"""A corpus by path or URL, a map-style dataset or a list of samples, or a stream."""


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a pretraining came to."""

    encoder: FusionEncoder
    """As it was saved, in evaluation mode."""
    path: Path
    """Folder of the encoder; `deepsentinel.load_encoder` opens it."""
    out_dir: Path
    steps: int
    log: tuple[LogRow, ...]
    """Rows of `log.jsonl`: losses, speed and use, spread of embeddings, probes, warnings."""

    @property
    def collapsed(self) -> bool:
        """Whether the embeddings stopped telling patches apart at any time."""
        return any("warning" in row for row in self.log)

    def curve(self, name: str) -> tuple[tuple[int, float], ...]:
        """Step and value of one measure, where it was taken.

        Raises:
            TrainingError: it never was.
        """
        points = [(row["step"], row[name]) for row in self.log if row.get(name) is not None]
        if not points:
            known = dict.fromkeys(key for row in self.log for key in row)
            raise TrainingError(f"the log has no {name!r}; it has {' '.join(known)}.")
        return tuple((int(step), float(value)) for step, value in points)  # type: ignore[arg-type]

    def __str__(self) -> str:
        loss = self.curve("loss")[-1][1]
        probes = [value for row in self.log if isinstance(value := row.get("knn"), float)]
        probe = f"; kNN {probes[0]:.3f} untrained, {probes[-1]:.3f} now" if probes else ""
        warning = "; THE EMBEDDINGS COLLAPSED, see the log" if self.collapsed else ""
        return f"loss {loss:.4f} after {self.steps} steps{probe}{warning}; encoder in {self.path}"


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
        num_workers: processes that read, for each that trains.
        precision: `"auto"` is bfloat16 where a GPU has it, else float32.
        compile: compile the encoder with `torch.compile`.
        channels_last: keep images channels last in memory, which is faster on GPUs.
        checkpointing: compute activations twice instead of keeping them.
        log_every: steps between rows of the log.
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
    fabric = _fabric(config)
    with _undisturbed(fabric):
        data = tuple(_opened(config, d) for d in given.data or config.corpora)
        encoder = given.encoder or _encoder(config)
        objective = given.objective or _objective(config, encoder)
        feed = _feed(config, data, encoder, pin=fabric.device.type == "cuda")
        loop = Loop(
            config=config,
            fabric=fabric,
            encoder=encoder,
            objective=objective,
            feed=feed,
            folder=PretrainFolder(config.out_dir),
            steps=_steps(config, feed),
            options=_course(config, data, encoder, feed),
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


def _fabric(config: PretrainConfig) -> Fabric:
    """Device and precision; `torchrun` tells how many processes there are."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    precision = config.precision
    if precision == "auto":
        wide = config.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
        precision = "bf16-mixed" if wide and torch.cuda.is_bf16_supported() else "32-true"
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=here,
        num_nodes=max(1, world_size() // here),
        strategy="ddp" if world_size() > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


def _opened(config: PretrainConfig, data: Data) -> Samples | DeepSentinelStream:
    """A dataset or a stream of what was named; what was given as such stays."""
    if not isinstance(data, str | Path):
        return data
    place: dict[str, Any] = {
        "sensors": config.sensors,
        "labels": (),
        "requester_pays": config.requester_pays,
        "storage_options": config.storage_options,
        "cache_dir": config.cache_dir,
    }
    alone = len(config.corpora) == 1 and config.objective != "tile2vec"
    streamed = alone and not is_local(data) if config.stream is None else config.stream
    if streamed:
        return DeepSentinelStream(data, config.split, seed=config.seed, remainder="drop", **place)
    dataset = DeepSentinelDataset(data, config.split, **place)
    if config.objective != "tile2vec":
        return dataset
    return WithNeighbours(
        dataset,
        within_km=config.neighbours_km,
        seed=config.seed,
        required=len(config.corpora) == 1,
    )


def _encoder(config: PretrainConfig) -> FusionEncoder:
    if config.encoder is not None:
        found = load_encoder(config.encoder)
        if not isinstance(found, FusionEncoder):
            raise TrainingError(
                f"{config.encoder!r} is a {type(found).__name__}; only a FusionEncoder can be "
                "pretrained further. Distil from it instead: objective distillation."
            )
        return found.train()
    taken = sorted({"backbone", "fusion", "embed_dim"} & set(config.encoder_options))
    known = set(signature(FusionEncoder).parameters) - {"card", "check", "empty"}
    unknown = sorted(set(config.encoder_options) - known)
    if taken or unknown:
        raise ConfigError(
            f"encoder_options holds {taken + unknown}: backbone, fusion and embed_dim are keys of "
            f"their own. {nearest((taken + unknown)[0], known - set(taken))}"
        )
    torch.manual_seed(config.seed)
    return FusionEncoder(
        config.backbone, fusion=config.fusion, embed_dim=config.embed_dim, **config.encoder_options
    )


def _objective(config: PretrainConfig, encoder: FusionEncoder) -> Objective:
    torch.manual_seed(config.seed)
    return make_objective(config.objective, encoder, config.objective_options)


def _feed(
    config: PretrainConfig,
    data: tuple[Samples | DeepSentinelStream, ...],
    encoder: FusionEncoder,
    *,
    pin: bool,
) -> Feed:
    parts = world_size() * config.accumulate
    if config.batch_size % parts:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be divided among {world_size()} processes and "
            f"accumulate={config.accumulate} parts; give a multiple of {parts}."
        )
    framing = Framing(encoder.bands, crop=config.crop, turn=config.turn, seed=config.seed)
    how: dict[str, Any] = {
        "batch_size": config.batch_size // parts,
        "rank": rank(),
        "world_size": world_size(),
        "num_workers": config.num_workers,
        "pin": pin,
    }
    streams = [d for d in data if isinstance(d, DeepSentinelStream)]
    if not streams:
        sets = [d for d in data if not isinstance(d, DeepSentinelStream)]
        return MapFeed(sets, framing, shares=config.shares, seed=config.seed, **how)
    if len(data) > 1:
        raise ConfigError(
            f"{len(data)} corpora are to be mixed, but a stream can only be read alone. Give "
            "stream=False, or one corpus."
        )
    return StreamFeed(streams[0], framing, **how)


def _steps(config: PretrainConfig, feed: Feed) -> int:
    steps = config.steps or config.epochs * feed.batches_per_epoch // config.accumulate
    if steps < 1:
        raise TrainingError(
            f"{config.epochs} epochs of {feed.batches_per_epoch} batches make no step of "
            f"{config.accumulate} parts. Take more epochs, or a smaller batch_size."
        )
    return steps


def _course(
    config: PretrainConfig,
    data: tuple[Samples | DeepSentinelStream, ...],
    encoder: FusionEncoder,
    feed: Feed,
) -> dict[str, Any]:
    """What decides the weights: a run goes on only with the same."""
    facts = [about(d) for d in data]
    return config.course() | {
        "corpus": [fact.name for fact in facts],
        "patches": [fact.patches for fact in facts],
        "processes": world_size(),
        "workers": config.num_workers if isinstance(feed, StreamFeed) else None,
        "network": encoder.config,
    }


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
    loop.probe = _probe(config)
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


def _probe(config: PretrainConfig) -> Probe | None:
    """The probe, made by the process that will ask it."""
    if config.probe is None or rank() > 0:
        return None
    whole = DeepSentinelDataset(config.probe, config.probe_split, labels=())
    label = pick_label(whole.info, "classification", config.probe_label)
    dataset = DeepSentinelDataset(
        config.probe, config.probe_split, sensors=config.sensors, labels=(label.name,)
    )
    name = f"{whole.info.name} {label.name}"
    return Probe.of(Some(dataset, config.probe_patches), name=name, seed=config.seed)


def _finish(loop: Loop, data: tuple[Samples | DeepSentinelStream, ...]) -> PretrainResult:
    """Write encoder and report, where the first process has not yet."""
    folder, encoder = loop.folder, loop.kept.eval()
    rows = tuple(folder.rows())
    if rank() == 0 and not (folder.encoder / "config.json").exists():
        facts = [about(d) for d in data]
        card = final_card(
            encoder.card, loop.config, facts, rows, steps=loop.steps, seconds=loop.seconds
        )
        with torch.compiler.set_stance("force_eager"):
            encoder.to("cpu").to(memory_format=torch.contiguous_format)
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


@contextmanager
def _undisturbed(fabric: Fabric) -> Iterator[None]:
    """The caller's random state comes back; torch says only what matters."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # Of 1 x 1 kernels, whose strides mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
        yield
