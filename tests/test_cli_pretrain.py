"""`deepsentinel pretrain`: arguments, files, what it prints."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import deepsentinel
from deepsentinel.cli import app
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.errors import CheckpointError, ConfigError
from deepsentinel.objectives.registry import OBJECTIVES

QUICK = ("batch_size=8", "log_every=1", "accelerator=cpu", "image_every=null")
THIN = "{backbone_options: {depths: [1, 1, 1, 1], dims: [8, 8, 8, 16]}}"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["pretrain", *map(str, arguments)])


def sets(*words: str) -> list[str]:
    return [part for word in (*QUICK, *words) for part in ("--set", word)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_corpus(tmp_path_factory.mktemp("cli") / "c", patches=24, patch_size=32)


def test_options_files_and_words_say_the_same(root: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        f"corpus: nowhere\nobjective: simclr\nsteps: 9\nencoder_options: {THIN}\nlr: 0.1\n"
    )
    given = ("--objective", "masked", "--backbone", "convnext_atto", "--fusion", "mid", "--json")
    done = call(
        tmp_path / "recipe.yaml", root, *given, "--steps", 2, "--out", tmp_path / "run",
        *sets("lr=3e-4", "batch_size=4"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["steps"], facts["collapsed"], facts["last"]["step"]) == (2, False, 2)
    encoder = deepsentinel.load_encoder(facts["encoder"])
    assert encoder.fusion == "mid"
    told = (tmp_path / "run" / "config.yaml").read_text()
    for line in (f"corpus: {root}", "objective: masked", "lr: 0.0003", "batch_size: 4"):
        assert line in told.splitlines()


def test_two_corpora_are_mixed_and_a_run_is_not_mistaken_for_another(
    root: Path, tmp_path: Path
) -> None:
    given = [root, root, "--steps", 1, "--out", tmp_path / "run"]
    words = sets(f"encoder_options={THIN}", "shares=[0.8, 0.2]")
    done = call(*given, *words)
    assert done.exit_code == 0, done.output
    assert "loss " in done.stdout
    encoder = deepsentinel.load_encoder(tmp_path / "run" / "encoder")
    assert encoder.card.training["data"].count("synthetic-0") == 2
    assert isinstance(call(*given, *words, "--set", "lr=0.5").exception, CheckpointError)
    assert call(*given, *words, "--set", "lr=0.5", "--restart").exit_code == 0


def test_the_command_of_the_readme(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = sets(f"encoder_options={THIN}", "steps=1")
    done = call(root, "--objective", "masked", *words)
    assert done.exit_code == 0, done.output
    assert deepsentinel.load_encoder(tmp_path / "pretrain" / "encoder").card.training


def test_what_is_wrong_is_named_before_anything_is_read(tmp_path: Path) -> None:
    for arguments, said in (
        (("nowhere", "--out", tmp_path, "--set", "epoch=3"), "unknown key 'epoch'"),
        (("--out", tmp_path), "'corpus' is not given"),
        ((tmp_path / "a.yaml", tmp_path / "b.yaml"), "several config files"),
        ((tmp_path / "a.yaml",), "there is no config file"),
        (("nowhere", "--out", tmp_path, "--set", "batch_size=0"), "batch_size=0"),
    ):
        error = call(*arguments).exception
        assert isinstance(error, ConfigError)
        assert said in str(error)


def test_all_keys_and_objectives_can_be_listed() -> None:
    listed = call("--keys").stdout
    for word in ("`checkpointing`", "`probe_patches`", "`ema`", *OBJECTIVES):
        assert word in listed
