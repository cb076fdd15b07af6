"""`PretrainConfig`: every choice of a pretraining, as a file and the command line name it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from deepsentinel.bands import SENSORS
from deepsentinel.encoders.towers import Fusion
from deepsentinel.errors import ConfigError
from deepsentinel.training.config import plain
from deepsentinel.training.finetuning.options import Precision


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What a pretraining is. The same config gives the same weights.

    Example:
        >>> config = PretrainConfig(corpus="corpus", out_dir=Path("run"), steps=100)
        >>> config.objective, config.backbone
        ('masked', 'convnext_atto')
    """

    corpus: Annotated[
        str | tuple[str, ...], "Folder or URL of a corpus, or a list of them. Labels are not read."
    ]
    out_dir: Annotated[Path, "Folder of the run: checkpoint, log, images, report, encoder."] = Path(
        "pretrain"
    )

    objective: Annotated[str, "What is learnt: a name of deepsentinel.objectives."] = "masked"
    objective_options: Annotated[dict[str, Any], "Arguments of the objective."] = field(
        default_factory=dict
    )

    encoder: Annotated[
        str | None, "Encoder whose weights training starts from, name or folder; null: a new one."
    ] = None
    backbone: Annotated[str, "timm name of a new encoder's backbone."] = "convnext_atto"
    fusion: Annotated[Fusion, "Where a new encoder joins the sensors."] = "early"
    embed_dim: Annotated[int | None, "Length of the embedding; null: that of the maps."] = None
    encoder_options: Annotated[
        dict[str, Any], "Further arguments of FusionEncoder, such as pool or backbone_options."
    ] = field(default_factory=dict)

    split: Annotated[str | None, "Which patches to read; null: all."] = "train"
    sensors: Annotated[tuple[str, ...], "Which sensors to read."] = SENSORS
    shares: Annotated[
        tuple[float, ...] | None, "How much of each corpus is drawn; null: by their sizes."
    ] = None
    stream: Annotated[
        bool | None, "Read as a shuffled stream of shards; null: one corpus that is remote, so."
    ] = None
    neighbours_km: Annotated[
        float, "How far off the neighbour may lie that tile2vec pairs a patch with."
    ] = 5.0
    crop: Annotated[int | None, "Side of a random crop in pixels; null: whole patches."] = None
    turn: Annotated[bool, "Mirror and turn patches by right angles at random."] = True
    storage_options: Annotated[
        dict[str, Any] | None, "Arguments of the storage client, such as credentials."
    ] = None
    requester_pays: Annotated[
        bool | str | None, "Who pays, where the bucket asks it: a Google project, on S3 true."
    ] = None
    cache_dir: Annotated[Path | None, "Folder that keeps what was read from afar."] = None

    steps: Annotated[int | None, "Steps of the optimiser; null: as many as `epochs` holds."] = None
    epochs: Annotated[int, "Passes over the patches, where `steps` is null."] = 100
    batch_size: Annotated[int, "Patches a step, over all processes."] = 64
    accumulate: Annotated[
        int, "Parts that a step is divided into, one after the other: less memory."
    ] = 1
    lr: Annotated[float, "Learning rate at its height."] = 1e-3
    weight_decay: Annotated[float, "Of AdamW, on matrices and kernels only."] = 0.05
    warmup: Annotated[float, "Share of the steps over which the rate rises; then a cosine."] = 0.05
    grad_clip: Annotated[float, "Greatest norm of the gradient."] = 1.0
    ema: Annotated[
        float | None, "Decay of a moving average of the weights, which is kept instead; null: none."
    ] = None
    seed: Annotated[int, "Decides weights, order, crops and all that is drawn."] = 0

    accelerator: Annotated[str, "As Lightning takes it: auto, cpu, gpu."] = "auto"
    num_workers: Annotated[
        int, "Processes that read, for each that trains; 0: a thread of its own."
    ] = 0
    precision: Annotated[
        Precision, "Of the computing; auto: bfloat16 where a GPU has it, else float32."
    ] = "auto"
    compile: Annotated[bool, "Compile the encoder: minutes at first, faster steps then."] = False
    channels_last: Annotated[bool, "Order of memory that convolutions like on GPUs."] = False
    checkpointing: Annotated[
        bool, "Compute activations twice instead of keeping them: less memory, slower."
    ] = False

    log_every: Annotated[int, "Steps between rows of the log."] = 50
    watch_every: Annotated[
        int, "Steps between looks at the spread of embeddings, which tell a collapse."
    ] = 100
    checkpoint_every: Annotated[int, "Steps between checkpoints."] = 500
    image_every: Annotated[
        int | None, "Steps between pictures, where the objective makes some; null: none."
    ] = 1000
    probe: Annotated[
        str | None, "Corpus with labels for a nearest-neighbour probe while it runs; null: none."
    ] = None
    probe_label: Annotated[str | None, "Which label, where that corpus has several."] = None
    probe_split: Annotated[str | None, "Which of its patches; null: all."] = None
    probe_every: Annotated[int, "Steps between probes."] = 1000
    probe_patches: Annotated[int, "How many patches the probe looks at."] = 1000

    name: Annotated[str, "Of the encoder, in its card."] = ""
    licence: Annotated[str, "Of the encoder's weights, in its card."] = ""
    limits: Annotated[str, "When to use the encoder and when not, in its card."] = ""

    def __post_init__(self) -> None:
        wrong = [name for name, is_wrong in self._wrong().items() if is_wrong]
        if wrong:
            given = ", ".join(f"{name}={getattr(self, name)!r}" for name in wrong)
            raise ConfigError(
                f"out of range: {given}. Counts are at least 1, num_workers and seed at least 0, "
                "lr, neighbours_km and grad_clip above 0, weight_decay not below 0, warmup from 0 to "
                "below 1, ema above 0 and below 1; corpus and sensors name something."
            )
        for name in ("objective_options", "encoder_options"):
            self._storable(name)

    def _storable(self, name: str) -> None:
        try:
            json.dumps(plain(getattr(self, name)))
        except TypeError as error:
            raise ConfigError(
                f"{name} holds what a run could not be resumed from: {error}. Give numbers, names "
                "and lists; an encoder by its name in the zoo or its folder."
            ) from None

    def _wrong(self) -> dict[str, bool]:
        counts = (
            "steps", "epochs", "batch_size", "accumulate", "log_every", "watch_every", "crop",
            "checkpoint_every", "image_every", "probe_every", "probe_patches", "embed_dim",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in counts}
        return {name: value is not None and value < 1 for name, value in values.items()} | {
            "corpus": not self.corpora or not all(self.corpora),
            "sensors": not self.sensors,
            "num_workers": self.num_workers < 0,
            "seed": self.seed < 0,
            "neighbours_km": not self.neighbours_km > 0,
            "lr": not self.lr > 0,
            "grad_clip": not self.grad_clip > 0,
            "weight_decay": not self.weight_decay >= 0,
            "warmup": not 0 <= self.warmup < 1,
            "ema": self.ema is not None and not 0 < self.ema < 1,
        }

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpora, however many."""
        return (self.corpus,) if isinstance(self.corpus, str) else self.corpus

    def course(self) -> dict[str, Any]:
        """What decides the weights: a run goes on only with the same."""
        return {key: value for key, value in plain(self).items() if key not in FREE}


FREE: Final = frozenset({
    "out_dir", "storage_options", "requester_pays", "cache_dir", "accelerator", "num_workers",
    "log_every", "watch_every", "checkpoint_every", "image_every", "probe", "probe_label",
    "probe_split", "probe_every", "probe_patches", "name", "licence", "limits",
})  # fmt: skip
"""Keys that may change when a run goes on. (The order of a stream depends on its workers too.)"""
