"""The card of an encoder that was pretrained: what it saw, how, by which code, and what it scored."""

import subprocess
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
import yaml

import deepsentinel
from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.encoders.card import Card, Score
from deepsentinel.training.config import plain
from deepsentinel.training.pretraining.options import FREE, PretrainConfig
from deepsentinel.training.pretraining.state import LogRow

CAUTION: Final = (
    "Elsewhere than in its training data it may be worth little: before you rely on it, measure it "
    "on patches of your own beside band statistics and random weights (deepsentinel.evaluate), and "
    "compare it with a large public encoder (deepsentinel.list_encoders)."
)


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of data that was trained on."""

    name: str
    patches: int
    split: str | None = None
    version: str = ""
    licence: str = ""
    resolution_m: float | None = None
    synthetic: bool = False
    levels: tuple[tuple[Sensor, tuple[str, ...]], ...] = ()

    def __str__(self) -> str:
        version = f" {self.version}" if self.version else ""
        made = "synthetic, " if self.synthetic else ""
        of = f"{self.split} split, " if self.split else ""
        return f"{self.name}{version} ({made}{of}{self.patches} patches)"


def about(data: Any) -> About:
    """Facts of a dataset or stream; of one that is no corpus, how much there is.

    Example:
        >>> str(about([{"image_s1": torch.zeros(2, 4, 4)}]))
        'list (1 patches)'
    """
    inner = data if isinstance(data, DeepSentinelDataset) else getattr(data, "dataset", None)
    if not isinstance(inner, DeepSentinelDataset):
        return About(name=type(data).__name__, patches=len(data))
    info, index = inner.info, inner.corpus.index.take(inner.rows)
    levels = {s: index[f"level_{s}"].unique().to_pylist() for s in info.sensors}
    return About(
        name=info.name,
        patches=len(inner),
        split=inner.split,
        version=info.version,
        licence=info.licence or "",
        resolution_m=info.resolution_m,
        synthetic=info.synthetic,
        levels=tuple((s, tuple(sorted(filter(None, found)))) for s, found in levels.items()),
    )


def final_card(
    card: Card,
    config: PretrainConfig,
    data: Sequence[About],
    log: Sequence[LogRow],
    *,
    steps: int,
    seconds: float,
) -> Card:
    """The card with all that the run knows.

    Args:
        card: of the encoder, as its architecture tells it.
        config: of the run.
        data: what was read.
        log: of the run; its last probe becomes the measured score.
        steps: that were made.
        seconds: that they took.
    """
    levels = {
        s: _distinct(level for d in data for level in dict(d.levels).get(s, ())) for s in SENSORS
    }
    resolutions = {d.resolution_m for d in data}
    return replace(
        card,
        name=config.name or card.name or config.out_dir.name,
        title=card.title or f"{config.name or config.out_dir.name}: pretrained with deepsentinel",
        levels={s: found for s, found in levels.items() if found},
        resolution_m=resolutions.pop() if len(resolutions) == 1 else None,
        licence=config.licence or card.licence,
        data_licence="; ".join(_distinct(f"{d.licence} ({d.name})" for d in data if d.licence)),
        training={
            "data": "; ".join(map(str, data)),
            "objective": config.objective,
            "recipe": recipe(config),
            "began with": config.encoder or "random weights",
            "steps": f"{steps} of {config.batch_size} patches",
            "seed": str(config.seed),
            "time": f"{seconds / 60:.1f} minutes",
            "commit": commit(),
            "versions": f"deepsentinel {deepsentinel.__version__}, torch {torch.__version__}",
        },
        scores=_scores(config, log),
        limits=config.limits
        or f"It has seen {'; '.join(map(str, data))} and nothing else. {CAUTION}",
        sha256="",
        proved_on="",
    )


def recipe(config: PretrainConfig) -> str:
    """The choices that are not the defaults, as one line of YAML that `--config` takes.

    Example:
        >>> recipe(PretrainConfig(corpus="a", out_dir=Path("b"), lr=0.01))
        '{lr: 0.01}'
    """
    told: dict[str, Any] = {}
    for field in fields(config):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = getattr(config, field.name)
        if field.name not in FREE | {"corpus", "seed"} and value != default:
            told[field.name] = plain(value)
    text: str = yaml.safe_dump(told, default_flow_style=True, width=10**6, sort_keys=False)
    return text.strip()


def commit() -> str:
    """The commit of the checkout that this code runs from; the version where it is installed."""
    here = Path(__file__).parent
    tracked = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
    found = _git(here, "rev-parse", "HEAD") if tracked else ""
    if not found:
        return f"deepsentinel {deepsentinel.__version__}"
    changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
    return f"{found}, with changes that are not committed" if changed else found


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - words of ours
            ["git", "-C", str(folder), *words],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _scores(config: PretrainConfig, log: Sequence[LogRow]) -> tuple[Score, ...]:
    probes = [row for row in log if row.get("knn") is not None]
    if not probes:
        return ()
    first, last = probes[0], probes[-1]
    before = "random" if config.encoder is None else "before"
    return (
        Score(
            task=str(last["probe"]),
            metric=str(last["metric"]),
            value=round(_number(last["knn"]), 4),
            sensors=str(last.get("sensors", "both")),
            controls={
                "band_stats": round(_number(last["knn_band_stats"]), 4),
                before: round(_number(first["knn"]), 4),
            },
        ),
    )


def _number(value: float | str | None) -> float:
    assert isinstance(value, int | float)  # noqa: S101 - the loop wrote it
    return float(value)


def _distinct(values: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
