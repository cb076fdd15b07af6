"""Servers that run as processes of their own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60


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
def running(command: Sequence[str], port: int, log: Path) -> Iterator[tuple[str, int]]:
    """A server process for as long as the block lasts; its host and port once it listens."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent
        )
    try:
        _wait(process, port, log)
        yield ("127.0.0.1", port)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args} does not listen on {port}:\n{log.read_text()[-2000:]}")
