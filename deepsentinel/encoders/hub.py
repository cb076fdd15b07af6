"""Files on the Hugging Face Hub: from the cache or the network, verified every time, retried.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to every user of
`huggingface_hub`, which keeps the cache and shows the progress. It compares sizes only, so hashes are
compared here; it does not repeat a GET that the server failed, so that is done here too; and it
keeps nothing of a download whose program was killed, so that `partial` does.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deepsentinel.encoders.card import Source
from deepsentinel.encoders.partial import gather, storage
from deepsentinel.errors import HubError, WeightsError

T = TypeVar("T")

PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""Between tries at a server that answers 429 or 5xx, or sends too little."""
PATIENCE_S = 60.0
"""No new try after this long."""
_ADVICE = (
    "Try later or look at HF_ENDPOINT and the network. What was loaded once with a connection loads "
    "without one: `deepsentinel encoders NAME --download` fetches a row, and weights=FILE takes a "
    "file that you have."
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the Hub is reached, in `huggingface_hub`'s own words."""

    cache_dir: str | Path | None = None
    """Instead of the cache in `HF_HOME`."""
    local_files_only: bool = False
    """Take what is in the cache and ask nobody."""
    token: str | bool | None = None
    """Instead of `HF_TOKEN` or the stored login; `False` sends none."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository on the Hub, at a commit, branch or tag."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse_repository(name: str, revision: str | None = None) -> Repository | None:
    """What `<user>/<repo>` or `hf://<user>/<repo>@<revision>` names; `None` for anything else.

    Raises:
        HubError: a `hf://` name that is malformed, or two different revisions.

    Example:
        >>> parse_repository("hf://user/encoder@v1")
        Repository(name='user/encoder', revision='v1')
        >>> parse_repository("deepsentinel-nano") is None
        True
    """
    plain, _, written = name.removeprefix("hf://").partition("@")
    if not _REPOSITORY.fullmatch(plain) or plain.startswith("."):
        if name.startswith("hf://"):
            raise HubError(
                f"{name!r} names no repository; write hf://<user>/<repo> or "
                "hf://<user>/<repo>@<revision>."
            )
        return None
    if written and revision and written != revision:
        raise HubError(f"{name!r} and revision={revision!r} disagree; give one of them.")
    return Repository(name=plain, revision=revision or written or None)


def fetch(source: Source, access: Access) -> Path:
    """A published file, with the hash that its row states.

    Without a stated hash the one that the Hub announces is verified; the cache keeps it as the
    name of the file's blob. A file that differs is downloaded once more.

    Raises:
        HubError: it cannot be had.
        WeightsError: it has another hash, freshly downloaded too.
    """
    place = Repository(name=source.repository, revision=source.revision)
    path = _known(source, access) or _download(_pinned(place, access), source.path, access)
    if damage(path, source) is None:
        return path
    return _afresh(place, source.path, access, source)


def fetch_folder(place: Repository, files: tuple[str, ...], access: Access) -> Path:
    """Files of one commit of a repository, each with the hash that the Hub announced.

    Returns:
        The folder of that commit in the cache; its name is the commit.

    Raises:
        HubError: a file cannot be had.
        WeightsError: a file differs from what was announced, freshly downloaded too.
    """
    pinned = _pinned(place, access)  # `main` may move between two files
    paths = [_intact(pinned, name, access) for name in files]
    return paths[0].parent


def _intact(place: Repository, name: str, access: Access) -> Path:
    path = _download(place, name, access)
    if damage(path) is None:
        return path
    return _afresh(place, name, access, None)


def _afresh(place: Repository, name: str, access: Access, source: Source | None) -> Path:
    """The file, downloaded whatever the cache holds."""
    from huggingface_hub import constants

    if access.local_files_only or constants.is_offline_mode():
        raise WeightsError(
            f"{name} of {place} is damaged in the cache, and being offline it cannot be downloaded "
            "anew. Load it once with a connection."
        )
    path = _download(place, name, access, again=True)
    if reason := damage(path, source):
        raise _refusal(f"{name} of {place}", reason)
    return path


def _pinned(place: Repository, access: Access) -> Repository:
    """The repository at the commit that its revision names now; in the cache, if nobody answers."""
    from huggingface_hub import HfApi, constants

    revision = place.revision or "main"
    if _COMMIT.fullmatch(revision):
        return place
    ref = storage(_cache(access), place.name) / "refs" / revision
    known = ref.read_text().strip() if ref.is_file() else None
    if access.local_files_only or constants.is_offline_mode():
        return Repository(name=place.name, revision=known or revision)
    hub = HfApi(token=access.token)
    try:
        info = _retried(
            lambda: hub.model_info(
                place.name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
            ),
            str(place),
            tries=1 if known else len(PAUSES_S) + 1,
        )
    except HubError as error:
        if known is None or not _passing(error.__cause__):
            raise
        return Repository(name=place.name, revision=known)
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(str(info.sha))  # where huggingface_hub looks for it too
    return Repository(name=place.name, revision=str(info.sha))


def _known(source: Source, access: Access) -> Path | None:
    """The file in the cache, asking nobody, where the row pins what it must be."""
    if source.revision is None and source.sha256 is None:
        return None
    return _cached(
        Repository(name=source.repository, revision=source.revision), source.path, access
    )


def _cached(place: Repository, name: str, access: Access) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        place.name, name, cache_dir=str(_cache(access)), revision=place.revision
    )
    return Path(found) if isinstance(found, str) else None


def _cache(access: Access) -> Path:
    from huggingface_hub import constants

    return Path(access.cache_dir or constants.HF_HUB_CACHE)


def damage(path: Path, source: Source | None = None) -> str | None:
    """Why a file is not what its row states, or what the Hub announced; `None` where it is.

    Example:
        >>> import tempfile
        >>> pin = Source(repository="u/r", path="w", sha256_prefix="2cf24dba")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "w").write_bytes(b"hello")
        ...     damage(Path(folder, "w"), pin) is None
        True
    """
    stated = source and (source.sha256 or source.sha256_prefix)
    announced = path.resolve().name  # the cache names blobs by the ETag of the Hub
    if stated or _HASH.fullmatch(announced):
        found = file_sha256(path)
        if found.startswith(stated or announced):
            return None
        return f"has sha256 {found}; expected {stated or announced}"
    if _COMMIT.fullmatch(announced):  # small files have git's own hash
        data = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        return None if found == announced else f"has git hash {found}; expected {announced}"
    return None


def file_sha256(path: Path) -> str:
    """Sha256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refusal(what: str, reason: str) -> WeightsError:
    return WeightsError(
        f"{what} {reason}. It was downloaded twice, so the server or a proxy between changes it: "
        "look at HF_ENDPOINT, or get the file elsewhere and pass weights=FILE."
    )


def _download(place: Repository, name: str, access: Access, *, again: bool = False) -> Path:
    return _retried(lambda: _got(place, name, access, again=again), f"{name} of {place}")


def _got(place: Repository, name: str, access: Access, *, again: bool) -> Path:
    from huggingface_hub import constants, hf_hub_download

    asking = not (access.local_files_only or constants.is_offline_mode())
    gathered = False
    if asking and (again or _cached(place, name, access) is None):
        commit, cache = place.revision or "main", _cache(access)
        gathered = gather(place.name, name, commit, cache=cache, token=access.token, afresh=again)
    return Path(
        hf_hub_download(
            place.name,
            name,
            revision=place.revision,
            cache_dir=access.cache_dir,
            local_files_only=access.local_files_only,
            token=access.token,
            force_download=again and not gathered,
        )
    )


def publish(
    folder: Path,
    name: str,
    *,
    private: bool | None,
    revision: str | None,
    message: str,
    token: str | bool | None,
) -> str:
    """Upload a folder as one commit; returns its 40 hex digits.

    Raises:
        HubError: not reachable, not allowed.
    """
    from huggingface_hub import HfApi

    place = Repository(name=name, revision=revision)
    if not _REPOSITORY.fullmatch(name):
        raise HubError(f"{name!r} names no repository; write <user>/<repo>.")
    hub = HfApi(token=token)

    def upload() -> str:
        hub.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(name, branch=revision, exist_ok=True)
        try:
            done = hub.upload_folder(
                repo_id=name, folder_path=folder, commit_message=message, revision=revision
            )
        except RuntimeError as error:  # in which huggingface_hub wraps whatever an upload meets
            raise OSError(str(error)) from error
        return str(done.oid)

    return _retried(upload, str(place))


def _retried(call: Callable[[], T], what: str, *, tries: int | None = None) -> T:
    """What the call returns; tried again where the server failed, an error of ours otherwise."""
    # HTTPError is that of whichever client library this version of huggingface_hub uses.
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]

    end = time.monotonic() + PATIENCE_S
    for pause in [*PAUSES_S, None][-tries if tries else 0 :]:
        try:
            return call()
        except (OSError, ValueError, EntryNotFoundError, HTTPError) as error:
            if pause is None or not _passing(error) or time.monotonic() > end:
                raise _explained(error, what) from error
            time.sleep(pause)
    raise AssertionError  # the last turn returns or raises


def _status(error: BaseException | None) -> int | None:
    """HTTP status that an error, or the one that it covers, came with."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _passing(error: BaseException | None) -> bool:
    """Whether another try may do better: the server failed, or the connection to it did."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    status = _status(error)
    if status is not None:
        return status == 429 or status >= 500
    if isinstance(error, OfflineModeIsEnabled):
        return False
    ended_early = "Consistency check failed" in str(error)
    return ended_early or isinstance(error, HTTPError | ConnectionError)


def _explained(error: Exception, what: str) -> HubError:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = _status(error)
    absent = isinstance(error, LocalEntryNotFoundError)
    if isinstance(error, RepositoryNotFoundError) or status in {401, 403}:
        reason = (
            "there is no such repository (nor a folder of that name here), or it is private or "
            "gated. Look at the name; for a "
            "private one set HF_TOKEN, pass token=, or log in with `hf auth login`."
        )
    elif isinstance(error, RevisionNotFoundError):
        reason = "there is no such revision. Give a commit, branch or tag of the repository."
    elif absent and (constants.is_offline_mode() or error.__cause__ is None):
        reason = f"it is not in the cache ({constants.HF_HUB_CACHE}, or cache_dir), and being "
        reason += f"offline the Hub was not asked. {_ADVICE}"
    elif absent or _passing(error):
        told = str(error.__cause__ or error).splitlines()[0]
        reason = f"the Hub at {constants.ENDPOINT} did not answer ({told}). {_ADVICE}"
    elif isinstance(error, EntryNotFoundError):
        reason = "the repository has no such file at that revision."
    else:
        reason = f"the Hub at {constants.ENDPOINT} refused it ({str(error).splitlines()[0]})."
    return HubError(f"{what}: {reason}")
