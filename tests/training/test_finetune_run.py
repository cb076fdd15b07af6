"""A fine-tuning from a file: what is asked is what is done, and what is kept."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepsentinel.cli.root import app
from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError, LeakWarning, SplitError
from deepsentinel.heads.model import load_model
from deepsentinel.training.config import describe_config, read_config
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.labels import class_weights
from deepsentinel.training.finetuning.lora import LoRA
from deepsentinel.training.finetuning.run import FinetuneRun, run_config

PAGE = Path(__file__).parents[2] / "docs" / "finetune.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Folder with a corpus, an encoder and a config."""
    folder = tmp_path_factory.mktemp("run")
    write_synthetic_corpus(folder / "corpus", patches=24, patch_size=32)
    FusionEncoder("resnet10t", levels=(1, 2), embed_dim=16).save_pretrained(folder / "encoder")
    (folder / "config.yaml").write_text(
        f"corpus: {folder / 'corpus'}\nencoder: {folder / 'encoder'}\nmodel: {{decoder: linear}}\n"
        "epochs: 2\nlr: 1e-2\nlora: {rank: 2}\naugment: {speckle: 9}\nstream: true\n"
    )
    return folder


def read(place: Path, out_dir: Path, *sets: str) -> FinetuneRun:
    return read_config(FinetuneRun, place / "config.yaml", sets=[f"out_dir={out_dir}", *sets])


def test_the_page_lists_every_key() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("made by describe_config(FinetuneRun) -->\n")[2]
    assert table.partition("\n<!-- end of keys")[0] == describe_config(FinetuneRun)


def test_what_the_file_says_is_done_and_kept(place, tmp_path) -> None:
    run = read(place, tmp_path, "lr=3e-3")
    assert (run.lr, run.lora, run.augment) == (3e-3, LoRA(rank=2), Augment(speckle=9.0))
    access = {"storage_options": {"token": "secret"}}
    with pytest.raises(Exception, match="storage_options"):  # a local corpus has no use for them
        run_config(run, access=access, progress=False)
    result, scores = run_config(run, progress=False)
    assert (result.epochs, set(scores)) >= (2, {"miou", "per_class"})
    kept = read_config(FinetuneRun, tmp_path / "config.yaml")
    assert kept.precision == "32-true", "resolved for this machine"
    assert {**vars(kept), "precision": "auto"} == vars(run)
    assert load_model(tmp_path).options["decoder"] == "linear"
    again, scores_again = run_config(kept, progress=False)
    assert (again.history, scores_again) == (result.history, scores)


def test_a_call_keeps_its_choices_too(tmp_path, model, samples) -> None:
    finetune(
        model("linear"),
        samples(4),
        samples(2, seed=1),
        out_dir=tmp_path,
        epochs=1,
        progress=False,
        report=False,
        tensorboard=True,
        accelerator="cpu",
    )
    assert "# Passes over the train split. (integer)\nepochs: 1\n" in (
        tmp_path / "config.yaml"
    ).read_text(encoding="utf-8")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("miou")] == [1]


def test_options_of_the_model_are_checked(place, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"'decodr' of Segmenter is unknown. Did you mean 'decod"):
        run_config(read(place, tmp_path, "model.decodr=unet"), progress=False)
    with pytest.raises(ConfigError, match=r"'num_classes' of Segmenter is given by the label"):
        run_config(read(place, tmp_path, "model.num_classes=3"), progress=False)
    assert not list(tmp_path.iterdir())


def test_a_test_split_on_ground_of_train_is_said_before_training(place, tmp_path) -> None:
    with pytest.warns(LeakWarning, match="of train lie on ground of train"):
        run_config(
            read(place, tmp_path, "test_split=train", "epochs=1", "report=false"), progress=False
        )
    with pytest.raises(SplitError, match="'tset'"):
        run_config(read(place, tmp_path / "b", "test_split=tset"), progress=False)


def test_the_verb(place, tmp_path) -> None:
    words = ["--set", "model.decoder=unet", "--epochs", "1", "--out", str(tmp_path), "--json"]
    words += ["--set", "test_split=null", "--set", "stream=false", "--set", "report=false"]
    done = CliRunner().invoke(app, ["finetune", str(place / "config.yaml"), *words])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.output[done.output.index("{") :])
    assert (facts["test"], facts["best_epoch"]) == (None, 1)
    assert load_model(facts["model"]).options["decoder"] == "unet"
    assert not (tmp_path / "report").exists()
    listed = CliRunner().invoke(app, ["finetune", "--keys"])
    assert "| `lora.rank` | integer |" in listed.output
    wrong = CliRunner().invoke(app, ["finetune", "a.yaml", "b.yml"])
    assert isinstance(wrong.exception, ConfigError)
    assert "several config files" in str(wrong.exception)


def test_a_matcher_needs_no_label(place, tmp_path) -> None:
    sets = ("task=matching", "model={dim: 8}", "epochs=1", "lora=null", "stream=false")
    result, scores = run_config(read(place, tmp_path, *sets), progress=False)
    assert (result.model.task, result.metric) == ("matching", "match_accuracy")
    assert {"recall@1", "median_rank", "match_accuracy"} <= set(scores)
    assert load_model(tmp_path).options["dim"] == 8
    with pytest.raises(ConfigError, match="learns from no label"):
        run_config(read(place, tmp_path, *sets, "label=landcover"), progress=False)


def test_balanced_weights_are_those_of_the_train_split(place, tmp_path) -> None:
    sets = ("model={decoder: linear, class_weights: balanced}", "epochs=1", "stream=false")
    run = read(place, tmp_path, *sets)
    result, _ = run_config(run, progress=False)
    train = DeepSentinelDataset(run.corpus, "train", labels=("landcover",))
    wanted = class_weights(train, len(train.scheme("landcover")))
    assert load_model(tmp_path).options["class_weights"] == pytest.approx(list(wanted))
    assert result.model.head.class_weights.tolist() == pytest.approx(list(wanted))
