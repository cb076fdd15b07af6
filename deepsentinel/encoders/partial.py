"""Large files of the Hub, continued where an earlier program broke off.

`huggingface_hub` continues a download within one call, but keeps nothing of it for the next program.
Here the bytes gather beside their place in its cache; once they are all there, they take that place,
and `huggingface_hub` finds them.
"""

from pathlib import Path

LEAST = 8 * 2**20
"""Bytes from which it is worth it; smaller files are fetched anew."""


def gather(
    repository: str,
    name: str,
    commit: str,
    *,
    cache: Path,
    token: str | bool | None = None,
    afresh: bool = False,
) -> bool:
    """Put a large file into the Hub's cache; whether that was done, or it lay there.

    Args:
        repository: `<user>/<repo>`.
        name: of the file in it.
        commit: 40 hex digits, or a branch.
        cache: the Hub's, `HF_HUB_CACHE`.
        token: for private repositories.
        afresh: from the first byte, whatever lies there.

    Raises:
        OSError: it broke off; the next call goes on. Errors of `huggingface_hub`, too.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        WeakFileLock,
        build_hf_headers,
    )

    url = hf_hub_url(repository, name, revision=commit)
    found = get_hf_file_metadata(url, token=token)
    if found.etag is None or found.size is None or found.size < LEAST:
        return False
    blob = storage(cache, repository) / "blobs" / found.etag
    part = blob.with_name(f"{blob.name}.part")
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(blob.with_name(f"{blob.name}.lock")):
        if blob.exists() and not afresh:
            return True
        if afresh or (part.exists() and part.stat().st_size > found.size):
            part.unlink(missing_ok=True)
        with part.open("ab") as file:
            http_get(
                url,  # not found.location: a signed address may expire while it is tried again
                file,
                resume_size=file.tell(),
                headers=build_hf_headers(token=token),
                expected_size=found.size,
                displayed_filename=Path(name).name,
            )
        part.replace(blob)
    return True


def storage(cache: Path, repository: str) -> Path:
    """Where the Hub's cache keeps a repository.

    Example:
        >>> storage(Path("hub"), "user/encoder").as_posix()
        'hub/models--user--encoder'
    """
    return cache / f"models--{repository.replace('/', '--')}"
