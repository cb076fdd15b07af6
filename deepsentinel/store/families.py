"""The families of servers: which client serves a URL, how it is opened, what helps when it refuses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from deepsentinel.errors import MissingExtraError, StoreError, UnknownNameError, nearest

Pays = bool | str | None
"""A Google project id or, on S3, `True`: who asked to be billed for what is read."""


@dataclass(frozen=True)
class Family:
    """Servers that speak one language."""

    name: str
    schemes: tuple[str, ...]
    open: Callable[[str, Mapping[str, Any], Pays], Any]
    """A fsspec filesystem from URL, options and payer; one attempt a call, no cached listings."""
    login: str
    """What to pass so that the server knows the user."""
    pays: str
    """What to pass so that the user is billed; or, where nobody can ask for it, who is."""
    payer: Callable[[Pays], bool] = lambda _: False
    """Whether a value of `requester_pays` can be served."""
    address: Callable[[str, Mapping[str, Any]], str] = lambda url, _: url
    """What the client calls the root."""
    quoted: bool = False
    """Whether the client wants paths as URLs quote them."""


def family_of(scheme: str) -> Family:
    """The family of a scheme.

    Raises:
        UnknownNameError: none; the known ones are listed.
    """
    for family in FAMILIES:
        if scheme in family.schemes:
            return family
    known = ["file", "memory", *(s for family in FAMILIES for s in family.schemes)]
    raise UnknownNameError(f"no store for URLs of {scheme}://. {nearest(scheme, known)}")


def check_payer(family: Family, url: str, requester_pays: Pays) -> Pays:
    """The payer, or an error where this family cannot bill one.

    Raises:
        StoreError: nobody can be billed there, or not in this way.
    """
    if requester_pays is None or requester_pays is False:
        return None
    if not family.payer(requester_pays):
        raise StoreError(f"requester_pays={requester_pays!r} does not go with {url}: {family.pays}")
    return requester_pays


_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_LISTINGS = {"listings_expiry_time", "max_paths", "skip_instance_cache", "use_listings_cache"}
"""Options of every client of fsspec that no constructor names."""


def _check_options(client: type, options: Mapping[str, Any], url: str) -> None:
    """Refuse what a client would take and never look at.

    Raises:
        StoreError: an option that neither the client nor a class below it names.
    """
    inits = [vars(kind)["__init__"] for kind in client.__mro__ if "__init__" in vars(kind)]
    named = {
        p.name for init in inits for p in signature(init).parameters.values() if p.kind in _NAMED
    }
    known = named - {"self"} | _LISTINGS
    for name in options:
        if name not in known:
            raise StoreError(
                f"storage_options name {name!r} for {url}, which {client.__name__} does not know. "
                f"{nearest(name, sorted(known))}"
            )


def _open_google(url: str, options: Mapping[str, Any], payer: Pays) -> Any:
    from gcsfs.core import GCSFileSystem  # its heir asks a second API, for a minute

    _check_options(GCSFileSystem, options, url)
    token = options.get("token")
    if isinstance(token, str) and token.endswith(".json") and not Path(token).exists():
        raise StoreError(  # gcsfs would send the path to Google as if it were a token
            f"there is no service-account file {token!r}, which storage_options name for {url}."
        )
    filesystem = GCSFileSystem(**{**_PLAIN, "requester_pays": payer or False, **options})
    once = getattr(GCSFileSystem._request, "__wrapped__", None)  # noqa: SLF001 - drops its retries
    if once is not None:
        filesystem._request = once.__get__(filesystem)  # noqa: SLF001
    return filesystem


def _open_azure(url: str, options: Mapping[str, Any], _: Pays) -> Any:
    from adlfs import AzureBlobFileSystem

    _check_options(AzureBlobFileSystem, options, url)
    named = AzureBlobFileSystem._get_kwargs_from_urls(url)  # noqa: SLF001 - fsspec's own way
    filesystem = AzureBlobFileSystem(**{**_PLAIN, **named, **options})
    client = filesystem.service_client
    policy = getattr(getattr(client, "_config", None), "retry_policy", None)
    if policy is not None:
        policy.total_retries = 0
    return filesystem


def _open_s3(url: str, options: Mapping[str, Any], payer: Pays) -> Any:
    try:
        from s3fs import S3FileSystem
    except ImportError as error:
        raise MissingExtraError(
            f"{url} needs s3fs, which is not installed: pip install 'deepsentinel[s3]'."
        ) from error
    config = {"retries": {"total_max_attempts": 1}, **options.get("config_kwargs", {})}
    filesystem = S3FileSystem(
        **{**_PLAIN, "requester_pays": payer is True, **options, "config_kwargs": config}
    )
    filesystem.retries = 1
    return filesystem


def _open_http(_: str, options: Mapping[str, Any], __: Pays) -> Any:
    from fsspec.implementations.http import HTTPFileSystem

    headers = {"Accept-Encoding": "identity", **options.get("headers", {})}
    return HTTPFileSystem(**{**_PLAIN, **options, "headers": headers})


def _open_hub(url: str, options: Mapping[str, Any], _: Pays) -> Any:
    from deepsentinel.store.hub import HubFiles

    return HubFiles(url, **{**_PLAIN, **options})


def _hub_address(url: str, options: Mapping[str, Any]) -> str:
    from deepsentinel.store.hub import hub_address

    return hub_address(url, options)


_PLAIN = {"skip_instance_cache": True, "use_listings_cache": False}
FAMILIES = (
    Family(
        name="Google Cloud Storage",
        schemes=("gs", "gcs"),
        open=_open_google,
        login="Log in with `gcloud auth application-default login`, or pass storage_options="
        "{'token': 'service-account.json'}, or {'token': 'anon'} for a public bucket",
        pays="Pass requester_pays='my-billing-project', the Google Cloud project that is billed",
        payer=lambda value: value is True or (isinstance(value, str) and bool(value)),
    ),
    Family(
        name="Azure Blob Storage",
        schemes=("az", "abfs", "abfss"),
        open=_open_azure,
        login="Pass storage_options={'account_name': ...} with one of 'account_key', 'sas_token' or "
        "'credential'; or {'connection_string': ...}; or 'anon': True for a public container. "
        "Without any, DefaultAzureCredential is asked",
        pays="Azure has no requester pays: the owner of the storage account pays for what is read. "
        "Leave it out, and pass storage_options={'account_name': ...} and a credential.",
    ),
    Family(
        name="S3",
        schemes=("s3", "s3a"),
        open=_open_s3,
        login="Pass storage_options={'profile': ...}, or 'key' and 'secret', or {'anon': True} for a "
        "public bucket; or set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        pays="Pass requester_pays=True, and credentials: on S3 the account that they belong to is billed",
        payer=lambda value: value is True,
    ),
    Family(
        name="HTTP",
        schemes=("https", "http"),
        open=_open_http,
        login="Pass storage_options={'headers': {'Authorization': ...}}, or a signed URL",
        pays="a web server bills nobody for what is read. Leave it out, or give the gs:// or s3:// URL.",
        quoted=True,
    ),
    Family(
        name="Hugging Face Hub",
        schemes=("hf",),
        open=_open_hub,
        login="Log in with `hf auth login`, set HF_TOKEN, or pass storage_options={'token': ...}",
        pays="the Hub bills nobody for what is read. Leave it out.",
        address=_hub_address,
        quoted=True,
    ),
)
