"""What a client's exception means, whichever client it was."""

from collections.abc import Iterator
from dataclasses import dataclass

from deepsentinel.errors import (
    NotAuthorisedError,
    RequesterPaysError,
    StoreError,
    StoreNotFoundError,
    TransientError,
)
from deepsentinel.store.families import Family
from deepsentinel.store.options import Options

_PAYER_WANTED = ("requester pays", "requesterpays", "userprojectmissing", "no user project")
_LOGIN_CLASSES = (
    "AuthError",
    "ClientAuthenticationError",
    "CredentialUnavailableError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "GoogleAuthError",
    "LocalTokenNotFoundError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshError",
)
_NETWORK_CLASSES = (
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",
    "ConnectionClosedError",  # botocore
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "DecodeError",  # azure: a listing that broke off
    "JSONDecodeError",  # the same of any client
    "RequestException",  # requests
    "ServerDisconnectedError",
    "ServiceRequestError",  # azure
    "ServiceResponseError",
    "TransportError",  # httpx and google.auth
)
_CERTIFICATE_CLASSES = ("ClientConnectorCertificateError", "SSLCertVerificationError", "SSLError")
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509})


class ShortReadError(Exception):
    """Fewer or more bytes came than were asked for."""


@dataclass(frozen=True)
class Place:
    """Where a call went, for what is said when it fails."""

    url: str
    family: Family
    options: Options
    pays: bool | str | None


def explain(error: BaseException, place: Place) -> StoreError:
    """The library's own error for a client's: its family, the URL, what was said, what to do.

    The result is free of secrets; the client's own error may hold some and is not chained to it.
    """
    said = place.options.redact(_said(_telling(error)))
    if _wants_payer(error) and place.pays is None:
        return RequesterPaysError(
            f"{place.url} lies in a bucket whose readers pay ({said}). {place.family.pays}."
        )
    if _http_status(error) == 416:
        return StoreError(f"{place.url} is truncated: it ends before the bytes asked for ({said}).")
    kind = _kind(error)
    if kind is StoreNotFoundError:
        return StoreNotFoundError(f"there is nothing at {place.url} ({said}). Check the URL.")
    if kind is NotAuthorisedError:
        return NotAuthorisedError(
            f"{place.family.name} refuses {place.url} ({said}). {_remedy(place)}"
        )
    if kind is TransientError:
        return TransientError(f"{place.url} could not be reached ({said})")
    return StoreError(f"{place.url}: {said}.")


def _remedy(place: Place) -> str:
    if place.options.withheld:
        names = ", ".join(place.options.withheld)
        return (
            f"Its credentials ({names}) were left behind when it was pickled: open it again with "
            "storage_options in this process, or use the environment variables of the service."
        )
    more = ""
    if place.family.name == "S3" and place.pays is None:
        more = " If readers pay for this bucket, which S3 does not say, pass requester_pays=True."
    return f"{place.family.login}.{more}"


def _kind(error: BaseException) -> type[StoreError] | None:
    """The family of an error: by its cause's HTTP status, then by its class."""
    chain = list(_causes(error))[::-1]
    for status in filter(None, map(_status, chain)):
        if status in _BUSY:
            return TransientError
        if status in {401, 403, 407}:
            return NotAuthorisedError
        if status in {404, 410}:
            return StoreNotFoundError
        return None
    for one in chain:
        kind = _kind_of_class(one)
        if kind is not None:
            return kind
    return None


def _kind_of_class(error: BaseException) -> type[StoreError] | None:
    names = {c.__name__ for c in type(error).__mro__}
    if names.intersection(_CERTIFICATE_CLASSES):
        return None
    text = str(error)
    if names.intersection(_LOGIN_CLASSES) or text.startswith(
        ("Forbidden:", "unable to connect to account")
    ):
        return NotAuthorisedError
    if isinstance(error, PermissionError) or "Must provide either a connection_string" in text:
        return NotAuthorisedError
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return StoreNotFoundError
    transient = isinstance(error, TimeoutError | ConnectionError | ShortReadError)
    if transient or names.intersection(_NETWORK_CLASSES):
        return TransientError
    return None


def _telling(error: BaseException) -> BaseException:
    """The error that says what happened: fsspec calls any failure of a web server a missing file."""
    cause = error.__cause__
    missing = isinstance(error, FileNotFoundError)
    return cause if missing and cause is not None and _kind(error) is TransientError else error


def _wants_payer(error: BaseException) -> bool:
    return any(wanted in str(e).lower() for e in _causes(error) for wanted in _PAYER_WANTED)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _status(error: BaseException) -> int | None:
    """HTTP status that an error of any client carries."""
    if any(c.__name__ == "BadHttpMessage" for c in type(error).__mro__):
        return None  # aiohttp says 400 of a body that broke off; no server did
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)  # requests, httpx
    for name in ("status_code", "status", "code"):  # azure, aiohttp, gcsfs
        found = found or getattr(error, name, None)
    text = str(found)
    return int(text) if text.isdigit() and 400 <= int(text) < 600 else None


def _http_status(error: BaseException) -> int | None:
    return next(filter(None, map(_status, _causes(error))), None)


def _said(error: BaseException) -> str:
    """Class, HTTP status and first words of an error, on one line."""
    status = _http_status(error)
    words = " ".join(str(error).split())
    first = words if len(words) <= 200 else f"{words[:200]}..."
    name = type(error).__name__ + (f", HTTP {status}" if status else "")
    return f"{name}: {first}" if first else name
