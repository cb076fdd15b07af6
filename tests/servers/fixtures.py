"""Test servers as fixtures: one process of each a session, a gate in front, a clean gate a test."""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers import google
from tests.servers.cloud import Cloud
from tests.servers.folder import FolderShelf
from tests.servers.gate import Gate
from tests.servers.processes import free_port, running
from tests.servers.ranges import RangeServer

# Before a client is imported: no metadata server answers here, and gcsfs would try its gRPC API first.
os.environ.setdefault("NO_GCE_CHECK", "true")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

CLOUDS = ("gcs", "http_server")
"""Fixtures of every server."""
BUCKET = "corpora"

_gates: list[Gate] = []


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where DEEPSENTINEL_REQUIRE_SERVERS promises that every server is there."""
    if os.environ.get("DEEPSENTINEL_REQUIRE_SERVERS"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _clean_gates() -> Iterator[None]:
    """No test sees the requests, faults or demands of another."""
    for gate in _gates:
        gate.clear()
    yield
    for gate in _gates:
        gate.clear()


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where servers keep their logs and files."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def http_server(server_folder: Path) -> Iterator[Cloud]:
    """A static server with byte ranges."""
    folder = server_folder / "static"
    folder.mkdir()
    server = RangeServer(folder)
    gate = _gate(Gate(server.address))
    yield Cloud("http", gate.endpoint, {}, FolderShelf(folder), gate)
    gate.close()
    server.close()


@pytest.fixture(scope="session")
def gcs(server_folder: Path) -> Iterator[Cloud]:
    """Google Cloud Storage."""
    if find_spec("gcp_storage_emulator") is None:
        unavailable('gcp-storage-emulator is not installed: pip install -e ".[test]"')
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1"]
    command += [f"--port={port}", "--in-memory", "--quiet"]
    with running(command, port, server_folder / "gcs.log") as upstream:
        gate = _gate(Gate(upstream, google.wording, google.refusal))
        shelf = google.GoogleShelf(f"http://127.0.0.1:{port}", BUCKET)
        options = {"endpoint_url": gate.endpoint, "token": "anon", "project": "somebody"}
        yield Cloud("gcs", f"gs://{BUCKET}", options, shelf, gate, payer="billing-project")
        gate.close()


def _gate(gate: Gate) -> Gate:
    _gates.append(gate)
    return gate
