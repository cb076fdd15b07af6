"""One writer a corpus: a lock that dies with its process."""

import fcntl
import os
from pathlib import Path

from deepsentinel.errors import CorpusExistsError

_held: set[Path] = set()  # a process's own record locks never refuse itself


class WriterLock:
    """One writer a corpus. The lock belongs to the process and dies with it, so none goes stale.

    Args:
        path: the lock file; it holds the writer's process id, for the message.

    Raises:
        CorpusExistsError: another writer is at work.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if self.path in _held:
            raise _locked(self.path, os.getpid())
        self._file = self._acquire()
        _held.add(self.path)

    def _acquire(self) -> int:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:  # the previous owner removed the folder just now
                continue
            try:
                if self._take(file):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _take(self, file: int) -> bool:
        """Lock the open file; false where its previous owner removed it meanwhile."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            owner = os.pread(file, 32, 0).decode(errors="replace").strip()
            raise _locked(self.path, owner) from error
        if not self.path.exists() or not os.path.samestat(os.fstat(file), self.path.stat()):
            return False
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return True

    def release(self, *, remove: bool) -> None:
        """Let the next writer in; `remove` deletes the file."""
        if self.path not in _held:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        _held.discard(self.path)
        os.close(self._file)


def _locked(path: Path, owner: object) -> CorpusExistsError:
    return CorpusExistsError(
        f"{path.parent.parent} is being written by process {owner} at this moment; a corpus has one "
        "writer. Wait until it ends, or stop it and run again: it continues where that one stopped."
    )
