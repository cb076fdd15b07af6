"""Azure Blob Storage: azurite from npm, and what the real one says."""

from datetime import UTC, datetime, timedelta

from azure.storage.blob import ContainerClient, ContainerSasPermissions, generate_container_sas

from tests.servers.gate import Answer

ACCOUNT = "devstoreaccount1"
# The published key of every emulator, not a secret:
# https://learn.microsoft.com/azure/storage/common/storage-use-azurite
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CODES = {
    "401": "InvalidAuthenticationInfo",
    "403": "AuthenticationFailed",
    "404": "BlobNotFound",
    "429": "ServerBusy",
    "500": "InternalError",
    "503": "ServerBusy",
}


def wording(kind: str) -> Answer:
    """An error as the Blob service states it."""
    code = CODES[kind]
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}: by the gate.</Message></Error>'
    headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
    return Answer(int(kind), headers, body.encode())


def connection_string(endpoint: str) -> str:
    """What names an account, its key and where it is."""
    return (
        f"DefaultEndpointsProtocol={endpoint.split(':', maxsplit=1)[0]};AccountName={ACCOUNT};"
        f"AccountKey={KEY};BlobEndpoint={endpoint}/{ACCOUNT};"
    )


def read_token(container: str) -> str:
    """A shared access signature for reading and listing a container for an hour."""
    now = datetime.now(UTC)
    return generate_container_sas(
        ACCOUNT,
        container,
        account_key=KEY,
        permission=ContainerSasPermissions(read=True, list=True),
        start=now - timedelta(minutes=5),
        expiry=now + timedelta(hours=1),
    )


class AzureShelf:
    """A container of azurite."""

    def __init__(self, endpoint: str, container: str) -> None:
        self._client = ContainerClient.from_connection_string(
            connection_string(endpoint), container
        )
        self._client.create_container()

    def put(self, path: str, data: bytes) -> None:
        """Store a file."""
        self._client.upload_blob(path, data, overwrite=True)

    def get(self, path: str) -> bytes:
        """The bytes of a file."""
        return bytes(self._client.download_blob(path).readall())

    def names(self, prefix: str = "") -> list[str]:
        """Every file whose path starts so, sorted."""
        return sorted(self._client.list_blob_names(name_starts_with=prefix or None))

    def delete(self, path: str) -> None:
        """Remove a file."""
        self._client.delete_blob(path)

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()
