"""Certificates of an authority that only the tests know, and names that resolve to this machine."""

import socket
import ssl

import pytest
import trustme

from coalesce.storage.s3.connection import Connection
from coalesce.storage.s3.tls import TLSTransport


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def local_names(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Resolves these names to this machine, whatever its resolver says."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.1" if host in names else host, *rest, **more),
    )


def tls_buffer(connection: Connection) -> memoryview:
    """What the bytes of a TLS connection are read into."""
    transport = connection.transport
    assert isinstance(transport, TLSTransport)
    return transport.get_buffer(-1)
