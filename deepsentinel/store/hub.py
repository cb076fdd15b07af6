"""Repositories on the Hugging Face Hub as a fsspec filesystem: ranges by HTTP, the rest by its API."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from fsspec.implementations.http import HTTPFileSystem

from deepsentinel.errors import StoreError

_URL = re.compile(
    r"hf://(?P<kind>(?:datasets|spaces)/)?(?P<name>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?P<path>/.*)?$"
)


class HubFiles(HTTPFileSystem):  # type: ignore[misc]  # fsspec is untyped to mypy
    """One repository at one revision.

    Args:
        url: such as `hf://datasets/user/name@revision/folder`.
        token: `None` for the one that the user logged in with, `False` for none.
        endpoint: another Hub.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | bool | None = None,
        endpoint: str | None = None,
        **options: Any,
    ) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        self._at = _parse(url)
        self._api = HfApi(endpoint=endpoint, token=token)
        headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
        super().__init__(headers={**headers, **options.pop("headers", {})}, **options)

    async def _info(self, url: str, **_: Any) -> dict[str, Any]:
        """Facts of a file, without a step into the store that it is redirected to."""
        session = await self.set_session()
        async with session.head(
            url, allow_redirects=False, headers=self.kwargs["headers"]
        ) as answer:
            if answer.status == 404 and await asyncio.to_thread(self._tree, url):
                return {"name": url, "type": "directory", "size": None}
            answer.raise_for_status()
            told = answer.headers
            if answer.status >= 300 and "X-Linked-Size" not in told:
                moved: dict[str, Any] = await super()._info(url)
                return moved
            size = told.get("X-Linked-Size") or told.get("Content-Length")
            etag = told.get("X-Linked-ETag") or told.get("ETag")
        return {"name": url, "type": "file", "size": size and int(size), "etag": etag}

    async def _ls(self, url: str, **_: Any) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._tree, url)

    async def _pipe_file(self, url: str, value: bytes, **_: Any) -> None:
        try:
            await asyncio.to_thread(
                self._api.upload_file,
                path_or_fileobj=value,
                path_in_repo=self._inside(url),
                repo_id=self._at["name"],
                repo_type=self._at["type"],
                revision=self._at["revision"],
            )
        except RuntimeError as error:  # of a large file; what happened is behind it
            raise error.__cause__ or error from None

    def _tree(self, url: str) -> list[dict[str, Any]]:
        entries = self._api.list_repo_tree(
            self._at["name"],
            self._inside(url) or None,
            repo_type=self._at["type"],
            revision=self._at["revision"],
        )
        return [
            {"name": quote(entry.path), "type": "file" if hasattr(entry, "size") else "directory"}
            for entry in entries
        ]

    def _inside(self, url: str) -> str:
        revision = quote(self._at["revision"], safe="")
        return unquote(url.partition(f"/resolve/{revision}")[2].strip("/"))


def hub_address(url: str, options: Mapping[str, Any]) -> str:
    """The HTTP address of a folder in a repository.

    Example:
        >>> hub_address("hf://datasets/user/name/corpus", {"endpoint": "https://hub"})
        'https://hub/datasets/user/name/resolve/main/corpus'
    """
    from huggingface_hub import constants

    at = _parse(url)
    endpoint = str(options.get("endpoint") or constants.ENDPOINT).rstrip("/")
    revision = quote(at["revision"], safe="")
    return f"{endpoint}/{at['kind']}{at['name']}/resolve/{revision}{quote(at['path'])}".rstrip("/")


def _parse(url: str) -> dict[str, str]:
    found = _URL.match(url)
    if found is None:
        raise StoreError(
            f"cannot read {url!r}: a place on the Hub is hf://datasets/user/name[@revision][/folder], "
            "or the same with spaces/, or without for a model."
        )
    kind = found["kind"] or ""
    return {
        "kind": kind,
        "type": {"datasets/": "dataset", "spaces/": "space", "": "model"}[kind],
        "name": found["name"],
        "revision": found["revision"] or "main",
        "path": found["path"] or "",
    }
