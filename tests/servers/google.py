"""Google Cloud Storage: the emulator from PyPI, and what the real one says."""

import json
from urllib.parse import quote

import requests

from tests.servers.gate import PATIENCE_S, Answer, Request

JSON = {"Content-Type": "application/json; charset=UTF-8"}
MESSAGES = {
    "401": "Invalid Credentials",
    "403": "caller does not have storage.objects.get access to the Google Cloud Storage object.",
    "404": "Not Found",
    "429": "The rate of requests exceeds the limit.",
    "500": "We encountered an internal error. Please try again.",
    "503": "Service Unavailable",
}


def wording(kind: str) -> Answer:
    """An error as the JSON API states it."""
    return _error(int(kind), MESSAGES[kind])


def refusal(request: Request) -> Answer | None:
    """Requester pays, as Google demands it of every request."""
    if request.payer:
        return None
    return _error(400, "Bucket is a requester pays bucket but no user project provided.")


def _error(code: int, message: str) -> Answer:
    errors = [{"message": message, "domain": "global", "reason": "required"}]
    body = {"error": {"code": code, "message": message, "errors": errors}}
    return Answer(code, JSON, json.dumps(body).encode())


class GoogleShelf:
    """A bucket of the emulator over its JSON API."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        self._endpoint, self._bucket = endpoint, bucket
        made = requests.post(f"{endpoint}/storage/v1/b", json={"name": bucket}, timeout=PATIENCE_S)
        made.raise_for_status()

    def put(self, path: str, data: bytes) -> None:
        """Store a file."""
        requests.post(
            f"{self._endpoint}/upload/storage/v1/b/{self._bucket}/o",
            params={"uploadType": "media", "name": path},
            data=data,
            headers={"Content-Type": "application/octet-stream"},
            timeout=PATIENCE_S,
        ).raise_for_status()

    def get(self, path: str) -> bytes:
        """The bytes of a file."""
        found = requests.get(self._object(path), params={"alt": "media"}, timeout=PATIENCE_S)
        found.raise_for_status()
        return found.content

    def names(self, prefix: str = "") -> list[str]:
        """Every file whose path starts so, sorted."""
        url = f"{self._endpoint}/storage/v1/b/{self._bucket}/o"
        found = requests.get(url, params={"prefix": prefix}, timeout=PATIENCE_S)
        found.raise_for_status()
        return sorted(item["name"] for item in found.json().get("items", []))

    def delete(self, path: str) -> None:
        """Remove a file."""
        requests.delete(self._object(path), timeout=PATIENCE_S).raise_for_status()

    def _object(self, path: str) -> str:
        return f"{self._endpoint}/storage/v1/b/{self._bucket}/o/{quote(path, safe='')}"
