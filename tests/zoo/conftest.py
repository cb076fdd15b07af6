"""Fixtures of the zoo's tests: a Hub on loopback that huggingface_hub takes for the real one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.cloud import Cloud
from tests.servers.hub import TOKEN, Hub


@pytest.fixture
def site(
    hub_server: Cloud, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cloud]:
    """The Hub, with an empty cache, no token and quick retries for this test."""
    from huggingface_hub import constants

    from deepsentinel.encoders import hub as client
    from deepsentinel.encoders import partial

    endpoint = hub_server.gate.endpoint
    resolve = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(client, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(partial, "LEAST", 2**14)
    hub.repositories.clear()
    hub.objects.clear()
    yield hub_server
    hub.repositories.clear()


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that may write, as `HF_TOKEN`."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def run_python() -> Callable[[str, dict[str, str]], str]:
    """Runs a program in a process of its own, with these environment variables added."""

    def run(code: str, environment: dict[str, str]) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run
