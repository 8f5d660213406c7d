"""The main job on an embedded S3 server, with a proof that does not take the program's word."""

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


@contextlib.contextmanager
def embedded_server() -> Iterator[str]:
    """A MiniStack on a free loopback port, its data in a temporary folder; its URL.

    Raises ConfigurationError if it is not installed.
    """
    if find_spec("ministack") is None:
        raise ConfigurationError(
            "the demo needs the extra 'demo'", hint="Install coalesce-s3[demo], or use `make demo`."
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
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
            _wait(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise ConfigurationError(
        "the embedded S3 server did not start",
        hint="Try again, or use `coalesce generate` and `coalesce run` on a server of yours.",
    )
