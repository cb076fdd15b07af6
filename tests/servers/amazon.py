"""Amazon S3: moto's server from PyPI, and what the real one says."""

from urllib.parse import quote
from xml.etree import ElementTree as ET

import requests

from tests.servers.gate import PATIENCE_S, Answer, Request

# moto asks who somebody is, and does not check it.
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
CODES = {
    "401": "ExpiredToken",
    "403": "ExpiredToken",
    "404": "NoSuchKey",
    "429": "SlowDown",
    "500": "InternalError",
    "503": "SlowDown",
}


def wording(kind: str) -> Answer:
    """An error as S3 states it."""
    return _error(int(kind), CODES[kind])


def refusal(request: Request) -> Answer | None:
    """Requester pays: without the header S3 says no more than that access is denied."""
    return None if request.payer == "requester" else _error(403, "AccessDenied")


def _error(status: int, code: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{code} said the gate.</Message></Error>"
    return Answer(status, {"Content-Type": "application/xml"}, body.encode())


class AmazonShelf:
    """A bucket of moto over the REST API."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        self._root = f"{endpoint}/{bucket}"
        requests.put(self._root, headers=SIGNED, timeout=PATIENCE_S).raise_for_status()

    def put(self, path: str, data: bytes) -> None:
        """Store a file."""
        requests.put(
            f"{self._root}/{quote(path)}", data=data, headers=SIGNED, timeout=PATIENCE_S
        ).raise_for_status()

    def get(self, path: str) -> bytes:
        """The bytes of a file."""
        found = requests.get(f"{self._root}/{quote(path)}", headers=SIGNED, timeout=PATIENCE_S)
        found.raise_for_status()
        return found.content

    def names(self, prefix: str = "") -> list[str]:
        """Every file whose path starts so, sorted."""
        found = requests.get(
            self._root,
            params={"list-type": "2", "prefix": prefix, "max-keys": "1000"},
            headers=SIGNED,
            timeout=PATIENCE_S,
        )
        found.raise_for_status()
        keys = ET.fromstring(found.content).iter(f"{NAMESPACE}Key")  # noqa: S314 - our own server
        return sorted(key.text or "" for key in keys)

    def delete(self, path: str) -> None:
        """Remove a file."""
        requests.delete(
            f"{self._root}/{quote(path)}", headers=SIGNED, timeout=PATIENCE_S
        ).raise_for_status()
