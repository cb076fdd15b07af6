"""A small Hugging Face Hub on loopback: repositories, commits, LFS, branches, tokens.

It speaks what `huggingface_hub` asks of the real one: create, preupload, LFS batch, commit, model
and dataset information, tree, paths-info, and HEAD and GET of `resolve`. Everything is in memory.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.servers.gate import Answer, Request
from tests.servers.static import ranged

TOKEN = "hf_token-of-the-hub"  # noqa: S105 - of this server only
"""May write, and read what is private."""
LFS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
"""Stored as LFS whatever their size, like the real Hub's `.gitattributes`."""
LFS_BYTES = 10_000_000
PREFIXES = {"models": "", "datasets": "datasets/"}
"""Of the paths of each kind of repository."""


def git_hash(data: bytes) -> str:
    """Git's own name for a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    """Whether a file is stored as LFS."""
    return path.endswith(LFS_SUFFIXES) or size > LFS_BYTES


def etag(path: str, data: bytes) -> str:
    """Sha256 of LFS files, git's hash of the others."""
    return hashlib.sha256(data).hexdigest() if is_lfs(path, len(data)) else git_hash(data)


@dataclass
class Repository:
    """Commits of one repository; every one is kept."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, changes: Mapping[str, bytes | None], ref: str = "main") -> str:
        """A new commit on a branch: files to store, `None` to remove; returns its 40 digits."""
        files = dict(self.commits.get(self.refs.get(ref, ""), {}))
        for path, data in changes.items():
            if data is None:
                files.pop(path, None)
            else:
                files[path] = data
        story = f"{self.refs.get(ref)}{sorted((p, etag(p, d)) for p, d in files.items())}"
        name = hashlib.sha1(story.encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = files
        self.refs[ref] = name
        return name

    def resolve(self, revision: str) -> str | None:
        """The commit that a commit, branch or tag names."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)


def wording(kind: str) -> Answer:
    """A fault in the Hub's words."""
    return Answer(int(kind), {"X-Error-Message": f"the test asked for {kind}"}, b"")


class Hub:
    """The Hub, as the gate asks it.

    Attributes:
        repositories: by kind and name, such as ("models", "user/encoder").
        objects: LFS objects by their sha256.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}

    def put(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        kind: str = "models",
        ref: str = "main",
        private: bool = False,
    ) -> str:
        """Commit files to a repository, which is made if need be; returns the commit."""
        repository = self.repositories.setdefault((kind, name), Repository(private=private))
        return repository.commit(files, ref)

    def answer(self, request: Request, body: bytes) -> Answer:
        """What the Hub says."""
        try:
            return _Call(self, request).route(request.path.strip("/").split("/"), body)
        except _RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            return Answer(refusal.status, headers, b"")


class HubShelf:
    """The files of one dataset's `main`, past the gate."""

    def __init__(self, hub: Hub, name: str) -> None:
        self._hub, self._name = hub, name
        hub.put(name, {}, kind="datasets")

    @property
    def _files(self) -> dict[str, bytes]:
        repository = self._hub.repositories["datasets", self._name]
        return repository.commits[repository.refs["main"]]

    def put(self, path: str, data: bytes) -> None:
        """Store a file."""
        self._hub.put(self._name, {path: data}, kind="datasets")

    def get(self, path: str) -> bytes:
        """The bytes of a file."""
        return self._files[path]

    def names(self, prefix: str = "") -> list[str]:
        """Every file whose path starts so, sorted."""
        return sorted(path for path in self._files if path.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove a file."""
        self._hub.repositories["datasets", self._name].commit({path: None})


class _RefusalError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Call:
    """One request."""

    def __init__(self, hub: Hub, request: Request) -> None:
        self.hub = hub
        self.request = request
        self.root = f"http://{request.headers['host']}"
        self.token = request.headers.get("authorization", "").removeprefix("Bearer ")

    def route(self, parts: list[str], body: bytes) -> Answer:  # noqa: PLR0911 - one a route
        """The answer of whichever route it is."""
        if parts[:2] == ["api", "repos"]:
            return self._create(json.loads(body))
        if parts[:2] == ["api", "validate-yaml"]:
            return _json({"errors": [], "warnings": []})
        if parts[:2] == ["api", "whoami-v2"]:
            self._authorise()
            return _json({"type": "user", "name": "user", "auth": {"accessToken": {}}})
        if parts[0] == "api" and parts[1] in PREFIXES:
            return self._api(parts[1], "/".join(parts[2:4]), parts[4:], body)
        if parts[0] == "lfs":
            return self._store(parts[1], body)
        if "info" in parts and "lfs" in parts:
            return self._batch(json.loads(body))
        kind = "datasets" if parts[0] == "datasets" else "models"
        rest = parts[1:] if kind == "datasets" else parts
        return self._file(kind, "/".join(rest[:2]), rest[3], "/".join(rest[4:]))

    def _authorise(self) -> None:
        if self.token != TOKEN:
            raise _RefusalError(401, "", "Invalid username or password.")

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and self.token != TOKEN):
            # The real Hub does not tell the two apart, and says 401 to who sent no token.
            raise (
                _RefusalError(404, "RepoNotFound", "Repository not found")
                if self.token
                else _RefusalError(401, "RepoNotFound", "Not found")
            )
        return found

    def _commit_of(self, repository: Repository, revision: str) -> str:
        commit = repository.resolve(revision)
        if commit is None:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _create(self, asked: dict[str, Any]) -> Answer:
        self._authorise()
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or 'user'}/{asked['name']}"
        key = (kind, name)
        described = {"url": f"{self.root}/{PREFIXES[kind]}{name}", "id": name, "name": name}
        if key in self.hub.repositories:
            return Answer(409, {"Content-Type": "application/json"}, json.dumps(described).encode())
        self.hub.repositories[key] = Repository(
            private=bool(asked.get("private")) or asked.get("visibility") == "private"
        )
        self.hub.repositories[key].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return _json(described)

    def _api(  # noqa: PLR0911 - one a route
        self, kind: str, name: str, rest: list[str], body: bytes
    ) -> Answer:
        repository = self._repository(kind, name)
        verb = rest[0] if rest else "revision"
        revision = rest[1] if len(rest) > 1 else "main"
        if self.request.method == "POST" and verb == "preupload":
            self._authorise()
            return self._preupload(json.loads(body))
        if self.request.method == "POST" and verb == "commit":
            self._authorise()
            return self._commit(kind, name, repository, revision, body)
        if self.request.method == "POST" and verb == "branch":
            self._authorise()
            if revision in repository.refs:
                raise _RefusalError(409, "", "Reference already exists")
            repository.refs[revision] = repository.refs["main"]
            return _json({})
        if verb == "revision":
            return self._info(name, repository, self._commit_of(repository, revision))
        if verb == "refs":
            branches = [
                {"name": r, "ref": f"refs/heads/{r}", "targetCommit": c}
                for r, c in repository.refs.items()
            ]
            return _json({"branches": branches, "tags": [], "converts": []})
        if verb == "tree":
            files = repository.commits[self._commit_of(repository, revision)]
            return _json(
                _tree(
                    files,
                    "/".join(rest[2:]),
                    recursive=self.request.query.get("recursive", "").lower() in {"true", "1"},
                )
            )
        if verb == "paths-info":
            files = repository.commits[self._commit_of(repository, revision)]
            asked = json.loads(body)["paths"]
            return _json([e for p in asked for e in _entries(files, p.strip("/"))])
        raise _RefusalError(404, "", f"no such route: {self.request.path}")

    def _info(self, name: str, repository: Repository, commit: str) -> Answer:
        siblings = [{"rfilename": p} for p in sorted(repository.commits[commit])]
        return _json(
            {
                "_id": name,
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": repository.private,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )

    def _preupload(self, asked: dict[str, Any]) -> Answer:
        modes = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if is_lfs(f["path"], f["size"]) else "regular",
                "shouldIgnore": False,
            }
            for f in asked["files"]
        ]
        return _json({"files": modes})

    def _batch(self, asked: dict[str, Any]) -> Answer:
        self._authorise()
        objects = []
        for item in asked["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                link = f"{self.root}/lfs/{item['oid']}"
                entry["actions"] = {"upload": {"href": link}, "verify": {"href": link}}
            objects.append(entry)
        return _json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes) -> Answer:
        if self.request.method == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                raise _RefusalError(400, "", "the content is not what its name says")
            self.hub.objects[oid] = body
        elif oid not in self.hub.objects:
            raise _RefusalError(404, "", "no such object")
        return _json({})

    def _commit(
        self, kind: str, name: str, repository: Repository, revision: str, body: bytes
    ) -> Answer:
        if revision not in repository.refs:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        changes: dict[str, bytes | None] = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                changes[value["path"]] = None
        commit = repository.commit(changes, revision)
        url = f"{self.root}/{PREFIXES[kind]}{name}/commit/{commit}"
        return _json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _file(self, kind: str, name: str, revision: str, path: str) -> Answer:
        repository = self._repository(kind, name)
        commit = self._commit_of(repository, revision)
        data = repository.commits[commit].get(path)
        if data is None:
            headers = {"X-Repo-Commit": commit, "X-Error-Code": "EntryNotFound"}
            return Answer(404, headers, b"")
        tag = etag(path, data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if is_lfs(path, len(data)):
            headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(data))}
        return ranged(
            self.request.headers.get("range"), len(data), lambda a, n: data[a : a + n], headers
        )


def _json(value: Any) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _tree(files: Mapping[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    below = sorted(p for p in files if p.startswith(prefix))
    if folder and not below:
        raise _RefusalError(404, "EntryNotFound", f"no {folder!r}")
    if recursive:
        return [e for p in below for e in _entries(files, p)]
    names = dict.fromkeys(prefix + p.removeprefix(prefix).partition("/")[0] for p in below)
    return [e for p in names for e in _entries(files, p)]


def _entries(files: Mapping[str, bytes], path: str) -> list[dict[str, Any]]:
    """What the Hub says of a file or folder; nothing where there is neither."""
    if path not in files:
        if any(p.startswith(f"{path}/") for p in files):
            return [{"type": "directory", "path": path, "size": 0, "oid": git_hash(path.encode())}]
        return []
    data = files[path]
    entry: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(data),
        "oid": git_hash(data),
    }
    if is_lfs(path, len(data)):
        entry["lfs"] = {
            "oid": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "pointerSize": 134,
        }
    return [entry]
