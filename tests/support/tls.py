"""Certificates of an authority that only the tests know, and names that lead to this machine."""

import asyncio
import socket
import ssl

import pytest
import trustme

from coalesce.storage.s3.connection import Connection


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def local_names(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These names are this machine, whatever its resolver thinks."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.1" if host in names else host, *rest, **more),
    )


def tls_buffer(connection: Connection) -> int:
    """The bytes that TLS sets aside for what comes on a connection."""
    protocol = connection.transport._ssl_protocol  # type: ignore[attr-defined]
    assert isinstance(protocol, asyncio.BufferedProtocol)
    return len(protocol.get_buffer(-1))
