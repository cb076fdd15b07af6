"""The pretraining loop: a page of torch, on Fabric for devices and precision."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final
from warnings import warn

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import TrainingError, TrainingWarning
from deepsentinel.objectives.collapse import CollapseWatch
from deepsentinel.objectives.objective import Objective
from deepsentinel.sample import IMAGE_KEYS, Batch
from deepsentinel.training.finetuning.loader import derive
from deepsentinel.training.finetuning.schedule import Schedule
from deepsentinel.training.pretraining.feed import Feed, Position
from deepsentinel.training.pretraining.framing import EMPTY_KEY
from deepsentinel.training.pretraining.network import (
    Step,
    at_rest,
    checkpoint_activations,
    joined,
    parameter_groups,
)
from deepsentinel.training.pretraining.options import PretrainConfig
from deepsentinel.training.pretraining.pictures import sheet
from deepsentinel.training.pretraining.state import LogRow, PretrainFolder, PretrainState
from deepsentinel.training.pretraining.watch import Meter, Probe, device_use

WATCHED: Final = 128
"""Patches that the watch on collapse looks at."""
SHOWN: Final = 8
"""Patches a picture."""


@dataclass(kw_only=True)
class Loop:
    """A pretraining from some step to its end."""

    config: PretrainConfig
    fabric: Fabric
    encoder: FusionEncoder
    objective: Objective
    feed: Feed
    folder: PretrainFolder
    steps: int
    """Of the whole run."""
    options: dict[str, Any]
    probe: Probe | None = None
    tell: Callable[[int, str], object] = lambda _step, _text: None
    """Called after each step with its number and, where it is new, what there is to say."""
    logger: Any = None
    """A Lightning logger that gets the rows too."""

    def __post_init__(self) -> None:
        config, device = self.config, self.fabric.device
        step = Step(self.encoder, self.objective).to(device)
        if config.channels_last:
            self.encoder.to(memory_format=torch.channels_last)
        if config.checkpointing:
            checkpoint_activations(self.encoder)
        self.average: AveragedModel | None = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.encoder, multi_avg_fn=average, use_buffers=True)
        groups = parameter_groups([self.encoder, self.objective], config.weight_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        if config.compile:
            self.encoder.compile()
        self.module = joined(step, self.fabric)
        self.done, self.position, self.seconds = 0, Position(), 0.0
        self.meter, self.collapse = Meter(), CollapseWatch()
        self.said = ""

    @property
    def kept(self) -> FusionEncoder:
        """The encoder that a run is for: the moving average, where one is kept."""
        found = self.encoder if self.average is None else self.average.module
        assert isinstance(found, FusionEncoder)  # noqa: S101 - it averages our encoder
        return found

    def run(self) -> None:
        """Train to the end; what happens at a step follows from seed and step alone."""
        self.watched = self._moved(self.feed.look(WATCHED))
        del self.watched[EMPTY_KEY]
        if self.done == 0:
            self._watch()
            self._probe()
        batches = self.feed.batches(self.position)
        self.module.train()
        self.meter.restart()
        while self.done < self.steps:
            started = time.perf_counter()
            self._step(batches)
            self.done += 1
            self.seconds += time.perf_counter() - started
            self._look()
            self.tell(self.done, self.said)

    def _step(self, batches: Iterator[tuple[Position, Batch]]) -> None:
        config, fabric = self.config, self.fabric
        self._set_rate()
        for part in range(config.accumulate):
            started = time.perf_counter()
            self.position, batch = next(batches)
            self.meter.waited += time.perf_counter() - started
            number = (self.done * config.accumulate + part) * fabric.world_size + fabric.global_rank
            torch.manual_seed(derive(config.seed + 1, number))  # of dropout and its like
            generator = torch.Generator().manual_seed(derive(config.seed, number))
            batch = self._moved(batch)
            empty = batch.pop(EMPTY_KEY)
            with self._alone(part):
                with fabric.autocast():
                    losses = self.module(batch, generator)
                (losses["loss"] / config.accumulate).backward()
            patches, pixels = size(batch)
            world = fabric.world_size
            losses["replaced"] = torch.full_like(losses["loss"].detach(), empty / patches)
            self.meter.add(losses, patches=patches * world, pixels=pixels * world)
        self.meter.add({"grad_norm": self._clip()})
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.objective.after_step(self.encoder, self.done, self.steps)
        if self.average is not None:
            self.average.update_parameters(self.encoder)

    def _clip(self) -> Tensor:
        """Norm of the encoder's side; an adversary's gradients do not shrink those of the encoder."""
        adversary = {id(p): p for p in self.objective.adversary()}
        ours = [p for p in self.module.parameters() if id(p) not in adversary]
        if adversary:
            nn.utils.clip_grad_norm_(list(adversary.values()), self.config.grad_clip)
        return nn.utils.clip_grad_norm_(ours, self.config.grad_clip)

    def _alone(self, part: int) -> AbstractContextManager[Any]:
        """Gradients of all but the last part of a step are not yet shared among processes."""
        if isinstance(self.module, DistributedDataParallel) and part < self.config.accumulate - 1:
            return self.module.no_sync()
        return nullcontext()

    def _set_rate(self) -> None:
        warmup = max(1, round(self.config.warmup * self.steps))
        rate = self.config.lr * Schedule(self.steps, warmup).factor(self.done)
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _look(self) -> None:
        """What is due after a step."""
        config = self.config
        due = {
            self._log: config.log_every,
            self._watch: config.watch_every,
            self._draw: config.image_every,
            self._probe: config.probe_every,
            self.save: config.checkpoint_every,
        }
        ended = self.done == self.steps
        now = [look for look, every in due.items() if every and (ended or self.done % every == 0)]
        for look in now:
            look()
        if now:
            self.meter.restart()

    def _log(self) -> None:
        speed = self.meter.speed()
        means = {k: self._mean(v) for k, v in self.meter.means().items()}
        self.meter.begin()
        self._refuse_broken(means)
        rate = self.optimiser.param_groups[0]["lr"]
        row: LogRow = {"step": self.done, "epoch": self.position.epoch, "lr": rate}
        for part in (means, speed, device_use(self.fabric.device)):
            row.update(part)
        self._note(row)
        self.said = f"loss {means['loss']:.4f}"

    def _refuse_broken(self, means: dict[str, float]) -> None:
        broken = [k for k in ("loss", "grad_norm") if not isfinite(means.get(k, 0.0))]
        if broken:
            raise TrainingError(
                f"{' and '.join(broken)} became {means[broken[0]]} by step {self.done}. Try a lower "
                'lr (a tenth), a longer warmup, a smaller grad_clip, precision="32-true"; and look '
                "at the corpus with `deepsentinel stats` for values far outside the rest. The "
                f"checkpoint before, if any, is kept in {self.folder.last}."
            )

    def _mean(self, value: float) -> float:
        """Over all processes."""
        if self.fabric.world_size == 1:
            return value
        shared = self.fabric.all_reduce(torch.tensor(value, dtype=torch.float64), reduce_op="mean")
        return float(shared)

    def _watch(self) -> None:
        """Spread and rank of the embeddings of the same patches; says so where they collapse."""
        with at_rest(self.fabric, self.encoder):
            embeddings = self.encoder.encode(self.watched).embedding.float()
        complaint = self.collapse.look(embeddings)
        self._note({"step": self.done, **self.collapse.last})
        new = self.collapse.low == self.collapse.patience
        if complaint is not None and new and self.fabric.is_global_zero:
            self._note({"step": self.done, "warning": complaint})
            warn(f"step {self.done}: {complaint}", TrainingWarning, stacklevel=2)

    def _probe(self) -> None:
        if self.probe is None or not self.fabric.is_global_zero:
            return
        with at_rest(self.fabric, self.kept):
            score = self.probe.score(self.kept)
        row: LogRow = {"step": self.done, "probe": self.probe.name, "metric": self.probe.metric}
        row.update({"knn": score, "knn_band_stats": self.probe.control})
        row["sensors"] = self.probe.sensors
        self._note(row)
        self.said = f"{self.said.partition('  ')[0]}  kNN {score:.3f}"

    def _draw(self) -> None:
        if not self.fabric.is_global_zero:
            return
        with at_rest(self.fabric, self.encoder, self.objective):
            few = {k: v[:SHOWN] for k, v in self.watched.items()}
            pictures = self.objective.images(self.encoder, few)
            scores = self.objective.scores(self.encoder, self.watched)
        if pictures:
            self.folder.images.mkdir(parents=True, exist_ok=True)
            sheet(pictures).savefig(self.folder.images / f"{self.done:07d}.png", dpi=100)
        if scores:
            self._note({"step": self.done} | {k: float(v) for k, v in scores.items()})

    def _note(self, row: LogRow) -> None:
        if not self.fabric.is_global_zero:
            return
        self.folder.add(row)
        if self.logger is not None:
            numbers = {k: v for k, v in row.items() if isinstance(v, int | float)}
            self.logger.log_metrics(numbers, step=self.done)

    def save(self) -> None:
        """Write the checkpoint, unless what it would hold is broken."""
        means = self.meter.means()
        self._refuse_broken(means)
        if self.fabric.is_global_zero:
            self.folder.write(
                PretrainState(
                    options=self.options,
                    step=self.done,
                    epoch=self.position.epoch,
                    batch=self.position.batch,
                    encoder=self.encoder.state_dict(),
                    objective=self.objective.state_dict(),
                    optimiser=self.optimiser.state_dict(),
                    average=None if self.average is None else self.average.state_dict(),
                    watch={
                        "meter": self.meter.state(),
                        "collapse": self.collapse.state(),
                        "seconds": self.seconds,
                    },
                )
            )
        self.fabric.barrier()

    def resume(self, state: PretrainState) -> None:
        """Go on where a state was taken."""
        self.encoder.load_state_dict(dict(state.encoder))
        self.objective.load_state_dict(dict(state.objective))
        self.optimiser.load_state_dict(dict(state.optimiser))
        if self.average is not None and state.average is not None:
            self.average.load_state_dict(dict(state.average))
        self.done, self.position = state.step, Position(epoch=state.epoch, batch=state.batch)
        self.meter.resume(state.watch["meter"], self.fabric.device)
        self.collapse.resume(state.watch["collapse"])
        self.seconds = state.watch["seconds"]

    def _moved(self, batch: Batch) -> Batch:
        device = self.fabric.device
        if device.type == "cpu":
            return batch
        return {
            k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v
            for k, v in batch.items()
        }


def size(batch: Batch) -> tuple[int, int]:
    """Patches and pixels of a batch."""
    image = next(batch[k] for k in IMAGE_KEYS.values() if k in batch)
    return len(image), len(image) * int(image.shape[-2]) * int(image.shape[-1])
