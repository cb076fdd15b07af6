"""Configs: every wrong file or word is named; what is written is read back the same."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml

from deepsentinel.errors import ConfigError
from deepsentinel.training.config import config_keys, describe_config, read_config, write_config


@dataclass(frozen=True, kw_only=True)
class Noise:
    speckle: Annotated[float, "Looks of the speckle."] = 0.0
    flip: Annotated[bool, "Whether to mirror."] = True


@dataclass(frozen=True, kw_only=True)
class Run:
    corpus: Annotated[Path, "Folder of the corpus."]
    lr: Annotated[float, "Learning rate."] = 1e-3
    epochs: Annotated[int, "Passes over the data."] = 20
    mode: Annotated[Literal["full", "lora"], "What is trained."] = "full"
    label: Annotated[str | None, "Name of the label."] = None
    sensors: Annotated[tuple[str, ...], "What is shown."] = ("s1", "s2")
    span: Annotated[tuple[float, float], "Least and most."] = (0.0, 1.0)
    frozen: Annotated[bool | float, "All, or until this share."] = False
    weights: Annotated[dict[str, float], "Of the classes."] = field(default_factory=dict)
    noise: Annotated[Noise, "What is added."] = Noise()
    extra: Annotated[Noise | None, "More of it."] = None


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_file_then_words(tmp_path) -> None:
    path = file(tmp_path, "corpus: a\nlr: 3e-4\nsensors: [s1]\nnoise:\n  speckle: 2\n")
    sets = ["epochs=5", "corpus=2024", "label=null", "noise.flip=false", "weights={a: 1}"]
    run = read_config(Run, path, sets=sets)
    noise = Noise(speckle=2.0, flip=False)
    expected = Run(corpus=Path("2024"), lr=3e-4, epochs=5, sensors=("s1",), noise=noise)
    assert run == Run(**{**vars(expected), "weights": {"a": 1.0}})
    assert isinstance(run.noise.speckle, float)


def test_words_reach_into_sections_and_free_keys(tmp_path) -> None:
    path = file(tmp_path, "corpus: a\nweights: {a: 1, b: 2}\n")
    run = read_config(Run, path, sets=["weights.b=3", "weights.c.d=4", "extra.speckle=1"])
    assert run.weights == {"a": 1.0, "b": 3.0, "c.d": 4.0}
    assert run.extra == Noise(speckle=1.0)


@pytest.mark.parametrize(
    ("text", "sets", "message"),
    [
        ("corpus: a\nepoch: 3", [], r"unknown key 'epoch' in .*config.yaml. Did you mean 'epochs'"),
        ("corpus: a\nnoise: {flp: true}", [], r"unknown key 'noise.flp'.*Did you mean 'flip'"),
        ("corpus: a", ["lrr=3"], r"unknown key 'lrr' in --set lrr=3. Did you mean 'lr'"),
        ("corpus: a", ["lr"], "--set 'lr' is not understood; give key=value"),
        ("corpus: a", ["lr.x=1"], r"'lr' has no keys of its own"),
        ("corpus: a\nepochs: 3.5", [], r"epochs is 3.5 \(number\); expected integer"),
        ("corpus: a\nepochs: true", [], r"epochs is True \(true or false\); expected integer"),
        ("corpus: a\nlr: fast", [], r"lr is 'fast' \(text\); expected number"),
        ("corpus: a\nlr: .nan", [], "lr is nan"),
        ("corpus: a\nmode: half", [], r"mode is 'half' \(text\); expected full or lora"),
        ("corpus: a\nsensors: s1", [], r"sensors is 's1' \(text\); expected list of text"),
        ("corpus: a\nspan: [1]", [], r"span is \[1\] \(list\); expected list of 2 number"),
        ("corpus: a\nlabel: 3", [], r"label is 3 \(integer\); expected text or null"),
        ("corpus: a\nnoise: 3", [], r"noise is 3 \(integer\); expected section"),
        ("corpus: a\nnoise:", [], r"noise is null; expected section"),
        ("lr: 1", [], r"'corpus' is not given in .*: Folder of the corpus"),
        ("corpus: a\nlr: 1\nlr: 2", [], r"'lr' stands twice"),
        ("corpus: [a", [], "is not YAML that can be understood"),
        ("- a", [], "expected keys and values"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, sets, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(Run, file(tmp_path, text), sets=sets)


def test_all_that_is_wrong_is_said_at_once(tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(Run, file(tmp_path, "epoch: 3\nlr: fast"))
    assert all(word in str(caught.value) for word in ("'epoch'", "'corpus'", "'fast'"))


def test_no_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no config file .*absent.yaml"):
        read_config(Run, tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(Run, tmp_path)


@pytest.mark.parametrize(
    "run",
    [
        Run(corpus=Path("a")),
        Run(corpus=Path("a: b"), lr=1e-7, label="no", weights={"x y": 0.5}, extra=Noise()),
        Run(
            corpus=Path("a"),
            frozen=0.5,
            sensors=(),
            span=(0.5, 2.0),
            mode="lora",
            noise=Noise(speckle=4),
        ),
    ],
)
def test_written_and_read_again(tmp_path, run) -> None:
    path = write_config(run, tmp_path / "run" / "config.yaml")
    assert read_config(Run, path) == run
    text = path.read_text()
    assert "# Learning rate. (number)" in text
    assert set(yaml.safe_load(text)) == set(vars(run))


def test_every_key_is_described() -> None:
    names = [key.name for key in config_keys(Run)]
    assert names[:2] == ["corpus", "lr"]
    assert {"noise.speckle", "extra", "extra.flip"} <= set(names)
    table = describe_config(Run)
    assert "| `corpus` | path | must be given | Folder of the corpus. |" in table
    assert "| `mode` | full or lora | `full` | What is trained. |" in table
