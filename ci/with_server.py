"""Runs a command against a real S3 server: `python ci/with_server.py NAME COMMAND...`.

The server is installed once, at a pinned version, into $COALESCE_TEST_SERVERS (by default
~/.cache/coalesce-servers), and runs on a free loopback port with its data in a temporary folder.
The command finds it in COALESCE_TEST_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; where
the server keeps too little for `coalesce run`, COALESCE_ACCEPT_WEAKER says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("COALESCE_TEST_SERVERS") or Path.home() / ".cache" / "coalesce-servers")


@dataclass(frozen=True, slots=True)
class Server:
    """One server: how it is installed into a folder, and how it is started from there on a port
    with its data in a folder.
    """

    version: str
    tool: str
    install: Callable[[Path, str], list[list[str]]]
    command: Callable[[Path], list[str]]
    arguments: Callable[[int, str], list[str]]
    environment: Callable[[int, str], dict[str, str]]
    keys: tuple[str, str] = ("test", "test")
    weaker: str = ""  # what has to be accepted for `coalesce run` to work on it
    refused: bool = False  # it is there to be refused


SERVERS = {
    "versitygw": Server(
        version="v1.8.0",
        tool="go",
        install=lambda home, version: [
            ["go", "install", f"github.com/versity/versitygw/cmd/versitygw@{version}"]
        ],
        command=lambda home: [f"{home}/versitygw"],
        arguments=lambda port, data: [
            "--port",
            f"127.0.0.1:{port}",
            "--virtual-domain",
            "localhost",
            "--keep-alive",
            "--quiet",
            "posix",
            data,
        ],
        environment=lambda port, data: {"ROOT_ACCESS_KEY": "test", "ROOT_SECRET_KEY": "test"},
    ),
    "minio": Server(
        version="v0.0.0-20260212201848-7aac2a2c5b7c",
        tool="go",
        install=lambda home, version: [["go", "install", f"github.com/minio/minio@{version}"]],
        command=lambda home: [f"{home}/minio"],
        arguments=lambda port, data: ["server", "--quiet", "--address", f"127.0.0.1:{port}", data],
        environment=lambda port, data: {
            "MINIO_ROOT_USER": "test",
            "MINIO_ROOT_PASSWORD": "testtest",
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        },
        keys=("test", "testtest"),  # it refuses a secret of less than eight characters
        weaker="delete-race",
    ),
    "ministack": Server(
        version="1.5.33",
        tool="python3",
        install=lambda home, version: [
            ["python3", "-m", "venv", f"{home}"],
            [f"{home}/bin/pip", "install", "--quiet", f"ministack=={version}"],
        ],
        command=lambda home: [f"{home}/bin/ministack"],
        arguments=lambda port, data: [],
        environment=lambda port, data: {
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "localhost",
            "SERVICES": "s3",
            "S3_PERSIST": "1",
            "S3_DATA_DIR": f"{data}/s3",
            "STATE_DIR": f"{data}/state",
        },
    ),
    "s3rver": Server(
        version="3.7.1",
        tool="npm",
        install=lambda home, version: [
            [
                "npm",
                "install",
                "--prefix",
                f"{home}",
                "--no-audit",
                "--no-fund",
                "--silent",
                f"s3rver@{version}",
            ]
        ],
        command=lambda home: ["node", f"{home}/node_modules/s3rver/bin/s3rver.js"],
        arguments=lambda port, data: [
            "-d",
            data,
            "-a",
            "127.0.0.1",
            "-p",
            str(port),
            "--service-endpoint",
            "localhost",
            "--silent",
        ],
        environment=lambda port, data: {},
        keys=("S3RVER", "S3RVER"),
        refused=True,
    ),
}


def installed(name: str) -> Path:
    """The folder of the pinned version, installed if it is not there yet."""
    server = SERVERS[name]
    home = CACHE / f"{name}-{server.version}"
    if not (home / ".installed").exists():
        if shutil.which(server.tool) is None:
            sys.exit(f"{name} cannot be installed without {server.tool}")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for command in server.install(home, server.version):
            subprocess.run(command, check=True, env=os.environ | {"GOBIN": str(home)})
        (home / ".installed").touch()
    return home


@contextlib.contextmanager
def running(name: str) -> Iterator[tuple[dict[str, str], int]]:
    """The variables by which a command finds the server, and its process id."""
    server, home = SERVERS[name], installed(name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        command = [*server.command(home), *server.arguments(port, str(data))]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | server.environment(port, str(data)),
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(port, process)
            access, secret = server.keys
            variables = {
                "COALESCE_TEST_ENDPOINT": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": access,
                "AWS_SECRET_ACCESS_KEY": secret,
            }
            yield (
                variables | ({"COALESCE_ACCEPT_WEAKER": server.weaker} if server.weaker else {}),
                process.pid,
            )
        finally:
            process.terminate()
            process.wait(30)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the server takes connections; ends the program if it never does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    sys.exit("the server did not start")


def main() -> int:
    """Runs the command; its exit code."""
    if len(sys.argv) < 3 or sys.argv[1] not in SERVERS:
        sys.exit(f"usage: with_server.py {{{','.join(SERVERS)}}} COMMAND...")
    with running(sys.argv[1]) as (variables, _):
        return subprocess.run(sys.argv[2:], env=os.environ | variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
