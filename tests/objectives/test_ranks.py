"""Patches on all processes repel: two processes have the loss and the gradient of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.objectives import together


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(together.__file__)
    path = os.pathsep.join([str(script.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]


@pytest.mark.parametrize("name", together.NAMES)
def test_two_processes_are_one(name, ranks):
    alone = together.losses({name: together.parts(name)}, together.images())[name]
    loss, gradient = (sum(rank[name][i] for rank in ranks) / 2 for i in range(2))
    torch.testing.assert_close(loss, alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, alone[1], rtol=1e-3, atol=1e-6)
    assert not torch.equal(ranks[0][name][1], ranks[1][name][1]), "each had patches of its own"
