"""What a config asks for: device, data, network, objective, batches, probe."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from deepsentinel.bands import Sensor
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.neighbours import WithNeighbours
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError, TrainingError, nearest
from deepsentinel.objectives.objective import Objective
from deepsentinel.objectives.registry import make_objective
from deepsentinel.store import is_local
from deepsentinel.training.finetuning.setup import pick_label
from deepsentinel.training.pretraining.card import about
from deepsentinel.training.pretraining.feed import Feed, MapFeed, Samples
from deepsentinel.training.pretraining.framing import Framing
from deepsentinel.training.pretraining.options import PretrainConfig
from deepsentinel.training.pretraining.stream_feed import StreamFeed
from deepsentinel.training.pretraining.watch import Probe, Some
from deepsentinel.training.ranks import rank, world_size
from deepsentinel.zoo.load import load_encoder

Data = str | Path | Samples | DeepSentinelStream
"""A corpus by path or URL, a map-style dataset or a list of samples, or a stream."""
Source = Samples | DeepSentinelStream
"""What was opened of it."""


def fabric_of(config: PretrainConfig) -> Fabric:
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


def opened(config: PretrainConfig, data: Data, encoder: FusionEncoder) -> Source:
    """A dataset or a stream of what was named; what was given as such stays.

    Raises:
        ConfigError: the corpus holds no band that the encoder reads.
    """
    if not isinstance(data, str | Path):
        return data
    alone = len(config.corpora) == 1 and config.objective != "tile2vec"
    streamed = alone and not is_local(data) if config.stream is None else config.stream
    place: dict[str, Any] = {"split": config.split, "labels": (), **_access(config)}

    def read(**what: Any) -> DeepSentinelDataset | DeepSentinelStream:
        if streamed:
            return DeepSentinelStream(data, seed=config.seed, remainder="drop", **place, **what)
        return DeepSentinelDataset(data, **place, **what)

    found = read(sensors=config.sensors)
    held = found.bands if isinstance(found, DeepSentinelDataset) else found.dataset.bands
    used = {s: tuple(b for b in encoder.bands.get(s, ()) if b in held[s]) for s in held}
    if not any(used.values()):
        raise ConfigError(
            f"the encoder reads {_named(encoder.bands)}; of these corpus {str(data)!r} gives none "
            f"with sensors={list(config.sensors)}. Take another encoder, corpus or sensors."
        )
    if any(set(used[s]) != set(held[s]) for s in held):  # what is not looked at is not decoded
        sensors = tuple(s for s in used if used[s])
        found = read(sensors=sensors, bands={s: used[s] for s in sensors})
    if config.objective != "tile2vec" or isinstance(found, DeepSentinelStream):
        return found
    return WithNeighbours(
        found,
        within_km=config.neighbours_km,
        seed=config.seed,
        required=len(config.corpora) == 1,
    )


def _named(bands: Mapping[Sensor, Sequence[str]]) -> str:
    return "; ".join(f"{s}: {' '.join(names)}" for s, names in bands.items())


def _access(config: PretrainConfig) -> dict[str, Any]:
    """How to get at a corpus."""
    return {
        "requester_pays": config.requester_pays,
        "storage_options": config.storage_options,
        "cache_dir": config.cache_dir,
    }


def encoder_of(config: PretrainConfig) -> FusionEncoder:
    """The encoder that was named, or a new one with the weights that the seed gives."""
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


def objective_of(config: PretrainConfig, encoder: FusionEncoder) -> Objective:
    """The objective, with heads as the seed gives them."""
    torch.manual_seed(config.seed)
    return make_objective(config.objective, encoder, config.objective_options)


def feed_of(
    config: PretrainConfig, data: tuple[Source, ...], encoder: FusionEncoder, *, pin: bool
) -> Feed:
    """This process's batches, of its share of each step."""
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


def steps_of(config: PretrainConfig, feed: Feed) -> int:
    """Steps of the whole run."""
    steps = config.steps or config.epochs * feed.batches_per_epoch // config.accumulate
    if steps < 1:
        raise TrainingError(
            f"{config.epochs} epochs of {feed.batches_per_epoch} batches make no step of "
            f"{config.accumulate} parts. Take more epochs, or a smaller batch_size."
        )
    return steps


def course_of(
    config: PretrainConfig, data: tuple[Source, ...], encoder: FusionEncoder, feed: Feed
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


def probe_of(config: PretrainConfig, encoder: FusionEncoder) -> Probe | None:
    """The probe, made by the process that will ask it."""
    if config.probe is None or rank() > 0:
        return None
    access = {} if is_local(config.probe) else _access(config)
    whole = DeepSentinelDataset(config.probe, config.probe_split, labels=(), **access)
    label = pick_label(whole.info, "classification", config.probe_label)
    dataset = DeepSentinelDataset(
        config.probe, config.probe_split, sensors=config.sensors, labels=(label.name,), **access
    )
    name = f"{whole.info.name} {label.name}"
    shown = [s for s in dataset.sensors if s in encoder.sensors]
    some = Some(dataset, config.probe_patches)
    return Probe.of(some, name=name, sensors=shown, seed=config.seed)


@contextmanager
def undisturbed(fabric: Fabric) -> Iterator[None]:
    """The caller's random state comes back; torch says only what matters."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # Of 1 x 1 kernels, whose strides mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
        yield
