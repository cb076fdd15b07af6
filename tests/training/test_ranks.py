"""Two real processes that train one model together, over gloo."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepsentinel.errors import TrainingError
from deepsentinel.heads.model import load_model
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.loader import EpochSampler
from deepsentinel.training.ranks import join

SCRIPT = Path(__file__).with_name("together.py")
ROOT = Path(__file__).parents[2]
KILL = -signal.SIGKILL
TOGETHER = ("plain", "regressor", "matcher", "blank")
TOGETHER += ("unfrozen", "unfrozen-killed", "lora", "stream")


def started(folder: Path, *scenarios: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, folder, *scenarios],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    done = started(folder, *TOGETHER, "wrong")
    killed = {"unfrozen-killed": f"unfrozen-killed {KILL} {KILL} 0 0"}
    expected = [killed.get(name, f"{name} 0 0") for name in TOGETHER]
    assert done.stdout.splitlines() == [*expected, "wrong 1 1"], done.stderr
    assert done.stderr.count("batch_size=3 cannot be shared evenly by 2 processes") == 2
    return folder


def left(folder: Path) -> list[dict]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", TOGETHER)
def test_both_end_with_the_same_weights_and_scores(runs, name) -> None:
    first, second = left(runs / name)
    assert first["history"] == second["history"]
    assert len(first["history"]) == 2
    for key, value in first["model"].items():
        assert torch.equal(value, second["model"][key]), key
    kept = load_model(runs / name).state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in first["model"].items())


@pytest.mark.parametrize("name", ["plain", "regressor"])
def test_two_do_what_one_does(runs, tmp_path, name) -> None:
    """But for rounding: the same batches, shared out, where patches do not know of each other."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import together
    finally:
        sys.path.pop(0)
    together.run(name, tmp_path / "one", dying=False)
    alone = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    both = left(runs / name)[0]
    for key, value in alone["model"].items():
        torch.testing.assert_close(both["model"][key], value, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(both["history"], alone["history"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)


def test_killed_together_and_repeated_ends_as_if_undisturbed(runs) -> None:
    killed, whole = left(runs / "unfrozen-killed")[0], left(runs / "unfrozen")[0]
    assert killed["history"] == whole["history"]
    assert all(torch.equal(v, whole["model"][k]) for k, v in killed["model"].items())


def test_no_process_is_left_without_a_share_of_a_batch() -> None:
    orders = [
        list(EpochSampler(7, seed=1, start=4, batch_size=4, rank=r, world_size=2)) for r in range(2)
    ]
    whole = list(EpochSampler(7, seed=1, start=4))
    assert [len(order) for order in orders] == [4, 4]
    assert {*orders[0][:2], *orders[1][:2]} == set(whole[:4])
    assert sorted(orders[0] + orders[1]) == sorted([*whole, whole[0]])


def test_half_an_environment_is_named(monkeypatch, tmp_path, model, samples) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(TrainingError, match=r"WORLD_SIZE=2 says .* RANK"):
        join("cpu")
    with pytest.raises(TrainingError, match="torchrun"):
        finetune(model(), samples(4), samples(2, seed=1), out_dir=tmp_path)
