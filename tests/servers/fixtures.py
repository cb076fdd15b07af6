"""Test servers as fixtures: one process of each a session, a gate in front, a clean gate a test."""

import importlib
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.servers import amazon, google
from tests.servers.cloud import Cloud
from tests.servers.gate import (
    PATIENCE_S,
    Forward,
    Gate,
    Refusal,
    Upstream,
    Wording,
    no_refusal,
    plain_wording,
)
from tests.servers.hub import Hub, HubShelf
from tests.servers.hub import wording as hub_wording
from tests.servers.processes import azurite_command, running
from tests.servers.static import StaticFiles

if TYPE_CHECKING:
    from tests.servers.microsoft import AzureShelf

# Before a client is imported: no metadata server answers here, and gcsfs would try its gRPC API first.
os.environ.setdefault("NO_GCE_CHECK", "true")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

CLOUDS = ("gcs", "azure", "s3", "http_server", "hub_server")
"""The fixture of each server."""
TEST_EXTRA = 'pip install -e ".[test]"'
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
    """A static server with byte ranges: what `https://` reads."""
    files = StaticFiles(server_folder / "static")
    with _gate(files.answer) as gate:
        yield Cloud("http", gate.endpoint, {}, files, gate)


@pytest.fixture(scope="session")
def gcs(server_folder: Path) -> Iterator[Cloud]:
    """Google Cloud Storage."""
    if find_spec("gcp_storage_emulator") is None:
        unavailable(f"gcp-storage-emulator is not installed: {TEST_EXTRA}")
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1"]
    command += ["--in-memory", "--quiet"]
    with (
        running(lambda p: [*command, f"--port={p}"], server_folder / "gcs.log") as port,
        _gate(Forward(port), google.wording, google.refusal) as gate,
    ):
        shelf = google.GoogleShelf(f"http://127.0.0.1:{port}", BUCKET)
        options = {"endpoint_url": gate.endpoint, "token": "anon", "project": "somebody"}
        yield Cloud("gcs", f"gs://{BUCKET}", options, shelf, gate, payer="billing-project")


@pytest.fixture(scope="session")
def s3(server_folder: Path) -> Iterator[Cloud]:
    """Amazon S3."""
    for module in ("moto", "flask", "s3fs"):
        if find_spec(module) is None:
            unavailable(f"{module} is not installed: {TEST_EXTRA}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1"]
    with (
        running(lambda p: [*command, "-p", str(p)], server_folder / "s3.log") as port,
        _gate(Forward(port), amazon.wording, amazon.refusal) as gate,
    ):
        shelf = amazon.AmazonShelf(f"http://127.0.0.1:{port}", BUCKET)
        options = {"key": "key", "secret": "secret-of-s3", "endpoint_url": gate.endpoint}
        yield Cloud("s3", f"s3://{BUCKET}", options, shelf, gate, payer=True)


@pytest.fixture(scope="session")
def azurite_port(server_folder: Path) -> Iterator[int]:
    """The port of azurite."""
    start = azurite_command()
    if start is None:
        unavailable(
            "azurite is not there: run `npm install azurite` in a folder outside this one and set "
            "DEEPSENTINEL_AZURITE to its node_modules/azurite/dist/src/blob/main.js"
        )
    options = ["--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck"]
    command = [*start, *options, "--blobHost", "127.0.0.1"]
    log = server_folder / "azure.log"
    with running(lambda p: [*command, "--blobPort", str(p)], log) as port:
        yield port


@pytest.fixture(scope="session")
def azure_shelf(azurite_port: int) -> Iterator["AzureShelf"]:
    """The container that both Azure fixtures read."""
    from tests.servers.microsoft import AzureShelf

    shelf = AzureShelf(f"http://127.0.0.1:{azurite_port}", BUCKET)
    yield shelf
    shelf.close()


@pytest.fixture(scope="session")
def azure(azurite_port: int, azure_shelf: "AzureShelf") -> Iterator[Cloud]:
    """Azure Blob Storage over plain HTTP, by connection string."""
    from tests.servers import microsoft

    with _gate(Forward(azurite_port), microsoft.wording) as gate:
        options = {"connection_string": microsoft.connection_string(gate.endpoint)}
        yield Cloud("azure", f"az://{BUCKET}", options, azure_shelf, gate)


@pytest.fixture(scope="session")
def certificate(server_folder: Path) -> tuple[ssl.SSLContext, Path]:
    """TLS for 127.0.0.1, and the file of the authority that signed it (SSL_CERT_FILE)."""
    if find_spec("trustme") is None:
        unavailable(f"trustme is not installed: {TEST_EXTRA}")
    import trustme

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = server_folder / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return context, file


@pytest.fixture(scope="session")
def azure_tls(
    azurite_port: int, azure_shelf: "AzureShelf", certificate: tuple[ssl.SSLContext, Path]
) -> Iterator[Cloud]:
    """Azure Blob Storage over TLS, by account name; add `account_key`, `sas_token` or nothing.

    aiohttp reads SSL_CERT_FILE when it is imported, so the client runs in a process of its own.
    """
    from tests.servers import microsoft

    with _gate(Forward(azurite_port), microsoft.wording, tls=certificate[0]) as gate:
        host = f"127.0.0.1:{gate.port}/{microsoft.ACCOUNT}"
        options = {"account_name": microsoft.ACCOUNT, "account_host": host}
        yield Cloud("azure", f"az://{BUCKET}", options, azure_shelf, gate)


@pytest.fixture(scope="session")
def hub() -> Hub:
    """The repositories behind `hub_server`."""
    return Hub()


@pytest.fixture(scope="session")
def _hub_cloud(hub: Hub) -> Iterator[Cloud]:
    with _gate(hub.answer, hub_wording) as gate:
        options = {"endpoint": gate.endpoint, "token": "hf_token-of-the-hub"}
        name = f"somebody/{BUCKET}"
        yield Cloud("hub", f"hf://datasets/{name}", options, HubShelf(hub, name), gate)


@pytest.fixture
def hub_server(_hub_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The Hub with one dataset to read by `hf://`; huggingface_hub is online for this test."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", PATIENCE_S)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", PATIENCE_S)
    endpoint = _hub_cloud.gate.endpoint
    # Its own retries stay, without the half minute of pauses that they take.
    requests = importlib.import_module("huggingface_hub.utils._http")
    monkeypatch.setattr(requests, "time", SimpleNamespace(sleep=lambda _: None))
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    return _hub_cloud


@contextmanager
def _gate(
    upstream: Upstream,
    wording: Wording = plain_wording,
    refusal: Refusal = no_refusal,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Gate]:
    gate = Gate(upstream, wording, refusal, tls)
    _gates.append(gate)
    yield gate
    _gates.remove(gate)
    gate.close()


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """Each cloud in turn."""
    found: Cloud = request.getfixturevalue(request.param)
    return found
