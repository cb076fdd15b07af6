"""States of runs: what another could have put into the file is never run."""

from pathlib import Path

import pytest
import torch

from deepsentinel.errors import CheckpointError
from deepsentinel.training.stored import read_state, write_state


def test_a_state_with_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    """Resuming reads every state through this: of `finetune`, of `pretrain`, of every rank."""
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (ran,)

    file = tmp_path / "last.ckpt"
    torch.save({"format_version": 1, "model": Code()}, file)
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        read_state(file, 1)
    assert not ran.exists()


def test_a_state_comes_back_and_another_version_does_not(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    assert read_state(file, 1) is None
    write_state(file, 1, {"step": 3, "weights": torch.ones(2)})
    found = read_state(file, 1)
    assert found is not None
    assert found["step"] == 3
    assert torch.equal(found["weights"], torch.ones(2))
    with pytest.raises(
        CheckpointError, match="has format 1; this version continues runs of format 2"
    ):
        read_state(file, 2)
