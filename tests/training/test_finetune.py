"""`finetune`: repeatable, resumable after SIGKILL, honest about what goes wrong."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from deepsentinel.encoders.card import Card, Score
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.errors import (
    CheckpointError,
    ConfigError,
    LabelError,
    SampleError,
    TrainingError,
    TrainingWarning,
    WeightsError,
)
from deepsentinel.heads.classification import Classifier
from deepsentinel.heads.model import load_model
from deepsentinel.heads.segmentation import Segmenter
from deepsentinel.sample import collate
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.schedule import Schedule

SCRIPT = Path(__file__).with_name("killed.py")
ROOT = Path(__file__).parents[2]


def tune(model, train, val, out_dir, **options):
    defaults = {"epochs": 3, "batch_size": 4, "lr": 1e-2, "progress": False, "accelerator": "cpu"}
    defaults |= {"report": False}
    return finetune(model, train, val, out_dir=out_dir, **(defaults | options))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# 10 samples, 4 epochs: the fingerprint reads 2, each epoch 10. Files written: metrics.csv and
# last.ckpt before the first epoch; then the best model's two, where it is better, and these two.
MOMENTS = ("before:2", "read:5", "torn:4", "torn:6", "read:27", "before:9")
OTHERS = ("lora,read:27", "stream,before:9")
WHOLE = ("none:0", "lora,none:0", "stream,none:0")


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Folder with one run that was left in peace, "none:0", and one killed at each moment."""
    folder = tmp_path_factory.mktemp("killed")
    printed = subprocess.run(
        [sys.executable, SCRIPT, folder, *WHOLE, *MOMENTS, *OTHERS],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    died = [f"{moment} {-signal.SIGKILL} 0" for moment in (*MOMENTS, *OTHERS)]
    assert printed.splitlines() == [*(f"{moment} 0 0" for moment in WHOLE), *died]
    return folder


@pytest.mark.parametrize("moment", [*MOMENTS, *OTHERS])
def test_killed_and_repeated_ends_as_if_undisturbed(killed, moment) -> None:
    way, comma, _ = moment.rpartition(",")
    out, undisturbed = killed / moment, killed / f"{way}{comma}none:0"
    ours, theirs = (torch.load(o / "last.ckpt", weights_only=True) for o in (out, undisturbed))
    assert ours["history"] == theirs["history"]
    assert len(ours["history"]) == 4
    assert same(ours["model"], theirs["model"])
    for a, b in zip(*(o["optimiser"]["state"].values() for o in (ours, theirs)), strict=True):
        assert same(a, b)
    for name in ("best/model.safetensors", "best/config.json", "metrics.csv"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
    assert not list(out.rglob("*.part"))


def test_the_same_call_gives_the_same_and_a_finished_one_returns_at_once(
    tmp_path, model, samples
) -> None:
    train, val = samples(9), samples(4, seed=1)
    first = tune(model("classifier"), train, val, tmp_path / "a")
    torch.rand(7)
    second = tune(model("classifier"), train, val, tmp_path / "b")
    assert first.history == second.history
    assert same(first.model.state_dict(), second.model.state_dict())
    before = (tmp_path / "a" / "last.ckpt").stat().st_mtime_ns
    again = tune(model("classifier", seed=9), train, val, tmp_path / "a")
    assert (again.history, again.best_epoch) == (first.history, first.best_epoch)
    assert same(again.model.state_dict(), first.model.state_dict())
    assert (tmp_path / "a" / "last.ckpt").stat().st_mtime_ns == before
    other = tune(model("classifier"), train, val, tmp_path / "c", seed=1)
    assert other.history != first.history


def test_learns_and_keeps_the_best(tmp_path, model, samples) -> None:
    train, val = samples(16), samples(6, seed=1)
    result = tune(model("linear"), train, val, tmp_path, epochs=6, encoder_lr=1e-2)
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    scores = [row["miou"] for row in result.history]
    assert result.best_score == max(scores) == scores[result.best_epoch - 1] > 0.6
    batch = collate(val)
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.predict(batch).logits, result.model.predict(batch).logits)
    assert loaded.class_names == ("a", "b", "c")
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,train_loss,val_loss,miou,pixel_accuracy,lr"
    assert len(lines) == 7
    assert str(result).startswith(f"miou {result.best_score:.3f} in epoch {result.best_epoch} of 6")
    assert not result.model.training


def test_the_checkpoint_holds_no_code(tmp_path, model, samples) -> None:
    result = tune(model("linear"), samples(4), samples(2, seed=1), tmp_path, epochs=1)
    stored = torch.load(result.last, weights_only=True)
    assert stored["options"]["model"]["class_names"] == ["a", "b", "c"]


def test_a_checkpoint_with_code_is_refused(tmp_path, model, samples) -> None:
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(flag),))

    torch.save({"format_version": 1, "model": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"such as code, .* resume=False") as told:
        tune(model("linear"), samples(4), samples(2, seed=1), tmp_path)
    assert "weights_only" not in str(told.value)  # torch proposes to switch it off
    assert not flag.exists()
    (tmp_path / "last.ckpt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tune(model("linear"), samples(4), samples(2, seed=1), tmp_path)
    torch.save({"format_version": 7}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="format 7"):
        tune(model("linear"), samples(4), samples(2, seed=1), tmp_path)
    assert tune(model("linear"), samples(4), samples(2, seed=1), tmp_path, resume=False).epochs == 3


def test_other_options_are_named(tmp_path, model, samples) -> None:
    train, val = samples(4), samples(2, seed=1)
    tune(model("linear"), train, val, tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match=r"lr=0\.01, now asked for lr=0\.1"):
        tune(model("linear"), train, val, tmp_path, epochs=1, lr=0.1, encoder_lr=1e-3)
    with pytest.raises(CheckpointError, match=r"epochs=1, now asked for epochs=2"):
        tune(model("linear"), train, val, tmp_path, epochs=2)
    with pytest.raises(
        CheckpointError, match=r"train\.last='p0-3', now asked for train\.last='p9-3'"
    ):
        tune(model("linear"), [*train[:3], samples(4, seed=9)[3]], val, tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match=r"model\.task='segmentation'"):
        tune(model("classifier"), train, val, tmp_path, epochs=1)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_encoder_stays_as_it_is(tmp_path, model, samples, freeze) -> None:
    ours = model("linear")
    before = {k: v.clone() for k, v in ours.encoder.state_dict().items()}
    with_gradient = []
    handle = ours.encoder.register_forward_hook(
        lambda _m, _i, f: with_gradient.append(f.embedding.requires_grad and ours.training)
    )
    result = tune(ours, samples(8), samples(2, seed=1), tmp_path, freeze_encoder=freeze)
    handle.remove()
    assert same(ours.encoder.state_dict(), before) == freeze
    assert any(with_gradient) != freeze
    assert all(p.requires_grad for p in ours.parameters())
    stored = torch.load(result.last, weights_only=True)
    names = {k for k in stored["model"] if k.startswith("encoder.")}
    assert all(torch.equal(stored["model"][k], before[k[8:]]) for k in names) == freeze


@pytest.mark.parametrize("freeze", [True, False])
def test_a_changed_encoder_does_not_keep_the_scores_of_its_card(
    tmp_path, model, samples, freeze
) -> None:
    ours = model("linear")
    score = Score(task="probe", metric="accuracy", value=0.9)
    stated = {"scores": (score,), "sha256": "ab", "proved_on": "own weights"}
    ours.encoder.card = Card(name="tiny", training={"seed": "0"}, **stated)
    for _ in range(2):  # the second call, on the same model, is no other run
        tune(ours, samples(4), samples(2, seed=1), tmp_path, epochs=1, freeze_encoder=freeze)
    card = load_model(tmp_path).encoder.card
    assert (card.name, card.training["seed"]) == ("tiny", "0")
    assert (card.scores, card.sha256) == (((score,), "ab") if freeze else ((), ""))
    assert ("fine-tuned" in card.training) != freeze
    assert (card.proved_on == "own weights") == freeze


def test_nor_does_one_of_published_weights(tmp_path, samples) -> None:
    encoder = GalileoEncoder(width=32, depth=1, heads=2, card=Card(proved_on="published weights"))
    changed = Segmenter(encoder, 3, "linear", class_names=("a", "b", "c"))
    tune(changed, samples(4), samples(2, seed=1), tmp_path, epochs=1)
    card = load_model(tmp_path).encoder.card
    assert (card.proved_on, set(card.training)) == ("", {"fine-tuned"})


def test_stops_early(tmp_path, model, samples) -> None:
    options = {"epochs": 9, "patience": 2, "lr": 1e-12}
    result = tune(model("classifier"), samples(4), samples(2, seed=1), tmp_path, **options)
    assert result.stopped_early
    assert (result.best_epoch, result.epochs) == (1, 3)
    again = tune(model("classifier"), samples(4), samples(2, seed=1), tmp_path, **options)
    assert again.history == result.history


def test_a_loss_that_is_not_finite_is_named(tmp_path, model, samples) -> None:
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, batch 1 \(patches p0-\d"):
        tune(model("linear"), samples(8), samples(2, seed=1), tmp_path / "a", lr=1e30, warmup=0.0)
    broken = model("linear")
    with torch.no_grad():
        broken.head.classify.bias[0] = float("nan")
    with pytest.raises(TrainingError, match=r"of train \(p0-0 p0-3\) is nan before anything was"):
        tune(broken, samples(4), samples(2, seed=1), tmp_path / "b")


def test_targets_that_do_not_fit(tmp_path, model, samples) -> None:
    train, val = samples(4), samples(2, seed=1)
    train[2]["mask"][5, 5] = 7
    with pytest.raises(LabelError, match="mask holds 7"):
        tune(model("linear"), train, val, tmp_path / "a")
    for sample in train:
        sample["mask"][:] = -1
    with pytest.raises(TrainingError, match="nothing was labelled in the whole of epoch 1"):
        tune(model("linear"), train, val, tmp_path / "b")
    for sample in train:
        del sample["mask"]
    with pytest.raises(SampleError, match=r"no 'mask'.*labels="):
        tune(model("linear"), train, val, tmp_path / "c")


def test_one_patch_without_labels_does_not_matter(tmp_path, model, samples) -> None:
    train = samples(4)
    train[0]["mask"][:] = -1
    said = r"1 of 4 batches of epoch 1 hold no label.*the first: patches p0-0"
    with pytest.warns(TrainingWarning, match=said):
        result = tune(model("linear"), train, samples(2, seed=1), tmp_path, batch_size=1, epochs=1)
    assert result.history[0]["train_loss"] > 0


def test_patches_of_which_nothing_was_observed_are_left_out(tmp_path, model, samples) -> None:
    """As if they were not there, in training and in scores; a batch of nothing else too."""
    train, val = samples(6), samples(4, seed=1)
    blank = [samples(1, seed=2 + i)[0] for i in range(2)]
    for sample in blank:
        sample["image_s1"][:] = sample["image_s2"][:] = float("nan")
    options = {"epochs": 1, "batch_size": 1, "progress": False, "report": False}
    with pytest.warns(
        TrainingWarning, match="nothing was observed of 2 patches of epoch 1.*p[23]-0"
    ):
        found = finetune(model(), [*train, *blank], [blank[0], *val], out_dir=tmp_path, **options)
    scores = evaluate_model(found.model, val)
    assert found.best_score == pytest.approx(scores["miou"])
    with (
        pytest.warns(TrainingWarning, match="of 2 patches"),
        pytest.raises(TrainingError, match=r"nothing was labelled.*no patch was observed"),
    ):
        finetune(model(), blank, val, out_dir=tmp_path / "blank", **options)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"lr": 0}, {"batch_size": 0}, {"warmup": 1}, {"patience": 0}]
)
def test_options_out_of_range(tmp_path, model, samples, options) -> None:
    with pytest.raises(ConfigError, match=f"out of range: {next(iter(options))}"):
        tune(model("linear"), samples(2), samples(2), tmp_path, **options)


def test_data_that_is_none(tmp_path, model, samples) -> None:
    with pytest.raises(TrainingError, match="val holds no sample"):
        tune(model("linear"), samples(2), [], tmp_path)
    with pytest.raises(TrainingError, match="train is a generator"):
        tune(model("linear"), (s for s in samples(2)), samples(2), tmp_path)


def test_a_full_disk_is_said_and_can_be_continued(tmp_path, model, samples, monkeypatch) -> None:
    train, val = samples(4), samples(2, seed=1)
    whole = tune(model("linear"), train, val, tmp_path / "whole")
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deepsentinel.heads.files.os.fsync", fsync)
    with pytest.raises(TrainingError, match=r"No space left on device.*Make room"):
        tune(model("linear"), train, val, tmp_path / "full")
    monkeypatch.undo()
    result = tune(model("linear", seed=5), train, val, tmp_path / "full")
    assert result.history == whole.history
    assert same(result.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize(("limit", "epoch"), [(300_000, 0), (1_500_000, 1)])
def test_what_the_system_refuses_to_write_is_said(tmp_path, model, samples, limit, epoch) -> None:
    """With a limit on the size of files: the first checkpoint, the first with an optimiser."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ours = model("linear")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(TrainingError, match=rf"after epoch {epoch} .*File too large"):
            tune(ours, samples(4), samples(2, seed=1), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a suite started in the background inherits that it is ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, inherited)


def test_ctrl_c_keeps_the_last_checkpoint(tmp_path, model, samples, interruptible) -> None:
    train, val = samples(8), samples(2, seed=1)

    class Pressing(list):
        reads = 0

        def __getitem__(self, index):
            Pressing.reads += 1
            if Pressing.reads == 2 + 8 + 3:
                signal.raise_signal(signal.SIGINT)
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt, match=r"in epoch 2 of 3; 1 complete epochs are kept"):
        tune(model("linear"), Pressing(train), val, tmp_path / "a")
    assert signal.getsignal(signal.SIGINT) is interruptible
    result = tune(model("linear", seed=3), train, val, tmp_path / "a")
    assert result.history == tune(model("linear"), train, val, tmp_path / "b").history


def test_ctrl_c_while_a_checkpoint_is_written_is_ctrl_c(tmp_path, model, samples) -> None:
    """torch would make a RuntimeError of it."""
    ours, train, val = model("linear"), samples(4), samples(2, seed=1)
    opened, left = Path.open, [3]

    def pressing(path: Path, *arguments, **options):
        file = opened(path, *arguments, **options)
        if not path.name.startswith("last.ckpt"):
            return file

        class Pressed(type(file)):
            def write(self, data) -> int:
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
                return super().write(data)

        file.close()
        return Pressed(opened(path, "wb", buffering=0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", pressing)
        with pytest.raises(KeyboardInterrupt):
            tune(ours, train, val, tmp_path / "a")
    assert not list(tmp_path.rglob("*.part"))
    whole = tune(model("linear"), train, val, tmp_path / "b")
    assert tune(ours, train, val, tmp_path / "a").history == whole.history


def test_the_callers_random_state_and_settings_come_back(tmp_path, model, samples) -> None:
    ours = model("linear")
    state = torch.get_rng_state()
    tune(ours, samples(4), samples(2, seed=1), tmp_path, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_removed_best_model_is_named(tmp_path, model, samples) -> None:
    result = tune(model("linear"), samples(4), samples(2, seed=1), tmp_path, epochs=1)
    (result.best / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        tune(model("linear"), samples(4), samples(2, seed=1), tmp_path, epochs=1)


def test_workers_change_nothing(tmp_path, model, samples) -> None:
    train, val = samples(6), samples(2, seed=1)
    here = tune(model("linear"), train, val, tmp_path / "a", epochs=2)
    there = tune(model("linear"), train, val, tmp_path / "b", epochs=2, num_workers=1)
    assert here.history == there.history


def test_the_learning_rate_rises_then_falls() -> None:
    schedule = Schedule(steps=100, warmup=10)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert max(factors) == 1
    assert factors[100] == 0


def test_several_classes_a_patch(tmp_path, samples) -> None:
    def multilabel(count: int, seed: int = 0) -> list:
        return [
            s | {"label": torch.tensor([int((s["mask"] == k).any()) for k in range(3)])}
            for s in samples(count, seed)
        ]

    torch.manual_seed(0)
    encoder = FusionEncoder("resnet10t", levels=(1, 2))
    ours = Classifier(encoder, 3, multilabel=True)
    result = tune(ours, multilabel(24), multilabel(12, 1), tmp_path, epochs=6, encoder_lr=1e-2)
    assert result.metric == "macro_map"
    assert result.history[-1]["train_loss"] < 0.8 * result.history[0]["train_loss"]
    assert set(result.history[0]) >= {"macro_map", "micro_map"}


def test_bfloat16(tmp_path, model, samples) -> None:
    options = {"precision": "bf16-mixed", "epochs": 2}
    result = tune(model("unet"), samples(4), samples(2, seed=1), tmp_path, **options)
    assert result.history[0]["train_loss"] > 0
    assert all(v.dtype != torch.bfloat16 for v in result.model.state_dict().values())


def test_a_logger_gets_each_epoch_once_over_all_sessions(tmp_path, model, samples) -> None:
    class Rows(DummyLogger):
        def __init__(self) -> None:
            super().__init__()
            self.rows = []

        def log_metrics(self, metrics, step=None) -> None:
            self.rows.append((step, metrics["miou"]))

    class Pressing(list):
        left = 2 + 4 + 2

        def __getitem__(self, index):
            Pressing.left -= 1
            if Pressing.left == 0:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    rows, val = Rows(), samples(2, seed=1)
    with pytest.raises(KeyboardInterrupt, match="1 complete epochs"):
        tune(model("linear"), Pressing(samples(4)), val, tmp_path, logger=rows)
    result = tune(model("linear"), samples(4), val, tmp_path, logger=rows)
    assert rows.rows == [(row["epoch"], row["miou"]) for row in result.history]


def test_training_batches_are_augmented_from_seed_and_step_alone(tmp_path, model, samples) -> None:
    train, val = samples(8), samples(2, seed=1)
    said = {}

    def run(name: str, seed: int = 0) -> list:
        drawn = said[name] = []

        def augment(batch, generator):
            ids = sorted(m.id for m in batch["meta"])
            drawn.append((ids, torch.rand(3, generator=generator).tolist()))
            return batch | {"image_s1": batch["image_s1"] + torch.randn((), generator=generator)}

        return tune(
            model("linear"), train, val, tmp_path / name, augment=augment, seed=seed
        ).history

    once, again, other = run("once"), run("again"), run("other", seed=1)
    assert once == again != other
    assert said["once"] == said["again"]
    assert len(said["once"]) == 3 * 2
    assert all(name.startswith("p0") for ids, _ in said["once"] for name in ids)
    draws = [tuple(draw) for _, draw in said["once"] + said["other"]]
    assert len(set(draws)) == 12
    with pytest.raises(CheckpointError, match=r"augment\.name='.*augment', now asked for"):
        tune(model("linear"), train, val, tmp_path / "once", seed=0)


def test_the_bar_says_what_matters(tmp_path, model, samples, capsys) -> None:
    two = samples(4), samples(2, seed=1)
    result = tune(model("linear"), *two, tmp_path, epochs=2, progress=True)
    shown = capsys.readouterr().out
    assert "epoch 2/2" in shown
    last = result.history[-1]["miou"]
    assert f"miou {last:.3f}, best {result.best_score:.3f}" in shown.splitlines()[-1]
    assert "miou" in shown
    assert "2/2" in shown
