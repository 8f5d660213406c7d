"""An S3 server of its own, for as long as a demonstration or a test takes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from coalesce.errors import ConfigurationError

_START_SECONDS = 30


@contextlib.contextmanager
def embedded_server() -> Iterator[str]:
    """Runs MiniStack on a free loopback port; its data are gone with the block.

    Yields:
        The URL of the server.

    Raises:
        ConfigurationError: MiniStack is not installed, or does not start.
    """
    if find_spec("ministack") is None:
        raise ConfigurationError(
            "the demo needs MiniStack, which is not installed",
            hint="In a clone run `make demo`, or `pip install '.[demo]'` first.",
        )
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        local = {
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "localhost",
            "SERVICES": "s3",
            "LOG_LEVEL": "ERROR",
        }
        data = {"S3_PERSIST": "1", "S3_DATA_DIR": f"{folder}/s3", "STATE_DIR": f"{folder}/state"}
        program = Path(sys.executable).with_name("ministack")
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen(
                [str(program)], env=os.environ | local | data, stdout=log, stderr=log
            )
        try:
            _wait_until_up(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()  # its data are gone anyway
            server.wait()


def _wait_until_up(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise ConfigurationError(
        "the embedded S3 server did not start",
        hint="Try again, or use `coalesce generate` and `coalesce run` on your own server.",
    )
