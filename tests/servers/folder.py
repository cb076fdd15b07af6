"""Files in a folder, as the range server serves them."""

from pathlib import Path


class FolderShelf:
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, path: str, data: bytes) -> None:
        """Store a file."""
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def get(self, path: str) -> bytes:
        """The bytes of a file."""
        return (self._folder / path).read_bytes()

    def names(self, prefix: str = "") -> list[str]:
        """Every file whose path starts so, sorted."""
        files = (p for p in self._folder.rglob("*") if p.is_file())
        paths = (file.relative_to(self._folder).as_posix() for file in files)
        return sorted(path for path in paths if path.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove a file."""
        (self._folder / path).unlink()
