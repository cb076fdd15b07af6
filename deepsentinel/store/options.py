"""What a user passes to a storage client, with what is secret in it kept out of sight."""

import re
from collections.abc import Mapping
from multiprocessing.context import get_spawning_popen
from typing import Any

HIDDEN = "***"
_PUBLIC = frozenset(
    {
        "access",
        "account_host",
        "account_name",
        "anon",
        "client_id",
        "consistency",
        "endpoint",
        "endpoint_url",
        "location_mode",
        "profile",
        "project",
        "region",
        "region_name",
        "tenant_id",
        "timeout",
        "use_ssl",
    }
)
_PUBLIC_TOKENS = frozenset({"anon", "google_default", "cache", "cloud", "browser"})
_NESTED = frozenset({"client_kwargs", "config_kwargs"})
_IN_TEXT = re.compile(
    r"(?i)((?:[?&;]|\b)(?:sig|se|skoid|signature|x-amz-signature|x-amz-credential|"
    r"x-amz-security-token|x-goog-signature|x-goog-credential|awsaccesskeyid|accountkey|"
    r"sharedaccesssignature|access_token|token|password|api_key)=)[^&;\s'\"<>]+"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic|sharedkey|aws4-hmac-sha256)\s+[A-Za-z0-9+/=._~:-]{8,}")
_LOGIN = re.compile(r"(://)[^/@\s:]+:[^/@\s]+@")


class Options(Mapping[str, Any]):
    """Arguments of a storage client.

    Its repr hides whatever is not known to be harmless. So does its pickle, except on the way to a
    process that is being started (a worker of a DataLoader): a corpus or dataset in a checkpoint
    or a queue leaves its secrets behind, and says so when it is used.

    Example:
        >>> Options({"account_name": "someone", "account_key": "c2VjcmV0"})
        {'account_name': 'someone', 'account_key': '***'}
    """

    def __init__(self, values: Mapping[str, Any] | None, withheld: tuple[str, ...] = ()) -> None:
        self._values = dict(values or {})
        self.withheld = withheld
        """Names of the arguments that were left behind when this was pickled."""

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr({k: v if _is_public(k, v) else HIDDEN for k, v in self.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        if starting_process():
            return type(self), (self._values, self.withheld)
        kept = {k: v for k, v in self.items() if _is_public(k, v)}
        return type(self), (kept, self.withheld + tuple(k for k in self if k not in kept))

    def redact(self, text: str) -> str:
        """A text without the secrets of these options, or any that URLs and headers carry."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return redact(text)

    def _secrets(self) -> set[str]:
        return {
            text
            for name, value in self.items()
            if not _is_public(name, value)
            for text in _texts(value)
            if len(text) > 3
        }


def starting_process() -> bool:
    """Whether this thread pickles what a process that it starts is given."""
    return get_spawning_popen() is not None


def redact(text: str) -> str:
    """A text without the secrets that URLs and headers carry.

    Example:
        >>> redact("GET https://host/a?sv=1&sig=abc%3D failed")
        'GET https://host/a?sv=1&sig=*** failed'
    """
    text = _IN_TEXT.sub(rf"\g<1>{HIDDEN}", text)
    text = _BEARER.sub(rf"\g<1> {HIDDEN}", text)
    return _LOGIN.sub(rf"\g<1>{HIDDEN}@", text)


def _is_public(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float) or name in _PUBLIC:
        return True
    if name in _NESTED and isinstance(value, Mapping):
        return all(_is_public(k, v) for k, v in value.items())
    if isinstance(value, str) and name == "token":
        return value in _PUBLIC_TOKENS or value.endswith(".json")
    return False


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        parts = [p.partition("=")[2] for p in value.split(";") if "=" in p]  # connection strings
        return [value, *(p for p in parts if len(p) > 15)]
    if isinstance(value, Mapping):
        return [text for k, v in value.items() if not _is_public(k, v) for text in _texts(v)]
    if isinstance(value, list | tuple):
        return [text for v in value for text in _texts(v)]
    return []
