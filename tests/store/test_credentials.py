"""Who asks, as each cloud's users tell it: files, profiles and the environment, up to the request.

Tokens are handed out by a server of ours on loopback, from a signed request as the clouds' own
servers demand it; what reached the storage server is read in the gate's log.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deepsentinel.errors import NotAuthorisedError
from deepsentinel.store import open_store
from tests.servers.cloud import Cloud
from tests.servers.gate import Answer, Forward, Gate, Request

DATA = bytes(range(256))
TOKEN = "token-of-loopback"  # noqa: S105 - handed out by the test's own server
READ = """
    import sys, json
    from deepsentinel.store import open_store
    store = open_store(sys.argv[1], storage_options=json.loads(sys.argv[2]))
    print(store.read_range("who.bin", 16, 4).hex())
"""


def read_elsewhere(url: str, options: dict[str, Any], **environment: str) -> str:
    """What a process with this environment reads: clients keep what they found in their modules."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READ), url, json.dumps(options)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


# ---------------------------------------------------------------- Google


class TokenServer:
    """Google's token endpoint for one service account: checks the signature, hands out a token."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def answer(self, request: Request, body: bytes) -> Answer:
        """A token for an assertion that the account's key signed."""
        from urllib.parse import parse_qs

        from google.auth import jwt

        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        claims = jwt.decode(parse_qs(body.decode())["assertion"][0], certs=public, verify=True)
        assert claims["iss"] == "reader@project.example"
        told = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(told).encode())

    def account(self, endpoint: str) -> dict[str, str]:
        """The account's file, as the console offers it."""
        private = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": private.decode(),
            "client_email": "reader@project.example",
            "client_id": "1",
            "token_uri": f"{endpoint}/token",
        }


@pytest.fixture(scope="module")
def account_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    server = TokenServer()
    with closing(Gate(server.answer)) as gate:
        path = tmp_path_factory.mktemp("google") / "service-account.json"
        path.write_text(json.dumps(server.account(gate.endpoint)))
        yield path


@pytest.mark.parametrize("how", ["file", "environment"])
def test_google_service_account(gcs: Cloud, account_file: Path, how: str) -> None:
    gcs.put("credentials/who.bin", DATA)
    # gcsfs drops default credentials quietly where `project` is not theirs.
    options = {k: v for k, v in gcs.storage_options.items() if k not in {"token", "project"}}
    if how == "file":
        options["token"] = str(account_file)
        found = read_elsewhere(gcs.url("credentials"), options)
    else:  # application default credentials
        found = read_elsewhere(
            gcs.url("credentials"), options, GOOGLE_APPLICATION_CREDENTIALS=str(account_file)
        )
    assert found == DATA[16:20].hex()
    assert {r.headers.get("authorization") for r in gcs.log} == {f"Bearer {TOKEN}"}


def test_google_anonymous(gcs: Cloud) -> None:
    gcs.put("credentials/who.bin", DATA)
    store = open_store(gcs.url("credentials"), storage_options=gcs.storage_options)
    assert store.read_range("who.bin", 16, 4) == DATA[16:20]
    assert {r.headers.get("authorization") for r in gcs.log} == {None}


# ---------------------------------------------------------------- Amazon


@pytest.mark.parametrize("how", ["option", "environment", "keys"])
def test_amazon_profile_and_keys(s3: Cloud, tmp_path: Path, how: str) -> None:
    s3.put("credentials/who.bin", DATA)
    file = tmp_path / "credentials"
    file.write_text("[team]\naws_access_key_id = KEYOFTEAM\naws_secret_access_key = secret\n")
    options: dict[str, Any] = {"endpoint_url": s3.gate.endpoint}
    environment = {"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_DEFAULT_REGION": "us-east-1"}
    if how == "option":
        options["profile"] = "team"
    elif how == "environment":
        environment["AWS_PROFILE"] = "team"
    else:
        environment |= {"AWS_ACCESS_KEY_ID": "KEYOFTEAM", "AWS_SECRET_ACCESS_KEY": "secret"}
    found = read_elsewhere(s3.url("credentials"), options, **environment)
    assert found == DATA[16:20].hex()
    assert all("Credential=KEYOFTEAM/" in r.headers["authorization"] for r in s3.log)


def test_amazon_anonymous(s3: Cloud) -> None:
    s3.put("credentials/who.bin", DATA)
    options = {"endpoint_url": s3.gate.endpoint, "anon": True}
    store = open_store(s3.url("credentials"), storage_options=options)
    # moto lets nobody read without a name; that none was sent is what counts here.
    with pytest.raises(NotAuthorisedError, match=r"anon|requester_pays"):
        store.read_range("who.bin", 16, 4)
    assert {r.headers.get("authorization") for r in s3.log} == {None}


# ---------------------------------------------------------------- Azure


def test_azure_default_credential(azurite_port: int, azure_shelf: Any, certificate: Any) -> None:
    """A managed identity's token, exchanged at the gate for a signature that azurite knows."""
    from tests.servers import microsoft

    azure_shelf.put("credentials/who.bin", DATA)
    signature = microsoft.read_token("corpora")
    azurite = Forward(azurite_port)
    seen: list[str | None] = []

    def storage(request: Request, body: bytes) -> Answer:
        seen.append(request.headers.get("authorization"))
        if seen[-1] != f"Bearer {TOKEN}":
            return microsoft.wording("401")
        plain = {k: v for k, v in request.headers.items() if k != "authorization"}
        joint = "&" if "?" in request.target else "?"
        signed = replace(request, headers=plain, target=f"{request.target}{joint}{signature}")
        return azurite(signed, body)

    def identity(request: Request, _: bytes) -> Answer:
        assert request.headers["x-identity-header"] == "of-this-machine"
        assert request.query["resource"] == "https://storage.azure.com"
        told = {"access_token": TOKEN, "expires_on": "4102444800", "token_type": "Bearer"}
        told["resource"] = request.query["resource"]
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(told).encode())

    with closing(Gate(storage, tls=certificate[0])) as gate, closing(Gate(identity)) as tokens:
        host = f"127.0.0.1:{gate.port}/{microsoft.ACCOUNT}"
        found = read_elsewhere(
            "az://corpora/credentials",
            {"account_name": microsoft.ACCOUNT, "account_host": host, "anon": False},
            SSL_CERT_FILE=str(certificate[1]),
            IDENTITY_ENDPOINT=f"{tokens.endpoint}/identity",
            IDENTITY_HEADER="of-this-machine",
        )
    assert found == DATA[16:20].hex()
    assert set(seen) == {f"Bearer {TOKEN}"}
