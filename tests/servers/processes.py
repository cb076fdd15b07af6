"""Servers that run as processes of their own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PORTS = 5
"""Ports that are tried before a server is given up."""


def azurite_command() -> list[str] | None:
    """How to start azurite here: named by DEEPSENTINEL_AZURITE (its main.js), or installed globally."""
    script, node = os.environ.get("DEEPSENTINEL_AZURITE"), shutil.which("node")
    if script and node:
        return [node, str(Path(script).absolute())]
    installed = shutil.which("azurite-blob")
    return [installed] if installed else None


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Callable[[int], Sequence[str]], log: Path) -> Iterator[int]:
    """A server process for as long as the block lasts; the port that it listens on.

    Args:
        command: how to start it on a port; asked again where another program took that port first.
        log: where its words go.
    """
    for _ in range(PORTS):
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
            )
        try:
            if _listens(process, port):
                yield port
                return
        finally:
            _end(process)
    raise RuntimeError(f"{process.args} does not listen on {port}:\n{log.read_text()[-2000:]}")


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until it does; false where it ended before."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process.poll() is None
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
