"""Where contestants meet: a server with a data set, which can be put back to its beginning, asked
what it was asked for, and proven.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trustme

from bench.records import Fill

BUCKET = "bench"
SLOW_SECONDS = 3.0  # of an answer that S3 gives late
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}

# Modules are compiled once, as on any machine where a program is installed, and not at every start.
AROUND = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

NOTHING_ELSE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a server was asked for since its reset, as far as it says: requests by operation, and
    its own CPU seconds.
    """

    requests: dict[str, int]
    cpu: float


class Site(Protocol):
    """A server. `environment` is that of whoever is to find it."""

    endpoint: str
    environment: dict[str, str]

    def reset(self) -> None:
        """Back to the data set and nothing else."""
        ...

    def asked(self) -> Asked:
        """Since the reset."""
        ...

    def digest(self) -> dict[str, int]:
        """Of everything under the data set's prefix."""
        ...


class Standin:
    """The stand-in, in a process of its own."""

    def __init__(self, endpoint: str, fill: Fill, ca: str) -> None:
        self.endpoint = endpoint
        trust = {"AWS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca} if ca else {}
        self.environment = AROUND | KEYS | NOTHING_ELSE | trust
        self._fill = fill
        self._trust = ssl.create_default_context(cafile=ca) if ca else None

    def _ask(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(
            f"{self.endpoint}/-/{what}", context=self._trust, timeout=120
        ) as answer:
            said: dict[str, Any] = json.load(answer)
            return said

    def reset(self) -> None:
        """See `Site`."""
        self._ask("reset")

    def asked(self) -> Asked:
        """See `Site`."""
        stats = self._ask("stats")
        return Asked(stats["requests"], stats["cpu_seconds"])

    def digest(self) -> dict[str, int]:
        """See `Site`."""
        return self._ask(f"digest?prefix={self._fill.prefix}")


@contextmanager
def standin(
    fill: Fill, folder: Path, *, tls: bool = False, latency: float = 0.0, slow: float = 0.0
) -> Iterator[Standin]:
    """A stand-in with that data; certificates go to the folder, latency is in milliseconds, and
    `slow` is the share of GETs that take three seconds.
    """
    options = [
        "--fill",
        ",".join(f"{name}={getattr(fill, name)}" for name in Fill.__slots__),
        "--latency",
        str(latency),
        "--slow-gets",
        f"{slow},{SLOW_SECONDS}",
        "--cheap-etags",
    ]
    ca = ""
    if tls:
        ca, certificate, key = (
            str(folder / name) for name in ("ca.pem", "certificate.pem", "key.pem")
        )
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(ca)
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        options += ["--tls", certificate, key]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.standin", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the stand-in did not start")
        yield Standin(json.loads(line)["endpoint"], fill, ca)
    finally:
        process.terminate()
        process.wait(30)
