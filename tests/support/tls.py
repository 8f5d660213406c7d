"""Certificates of an authority that only the tests know, and names that lead to this machine."""

import ssl

import pytest
import trustme


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def local_names(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These names are this machine, whatever its resolver thinks."""
    import socket

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.1" if host in names else host, *rest, **more),
    )
