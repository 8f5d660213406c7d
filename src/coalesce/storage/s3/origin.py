"""Where requests go: a server, and the proxy in front of it."""

from __future__ import annotations

import base64
import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from coalesce.errors import ConfigurationError

_PORTS = {"http": 80, "https": 443}
_USERINFO = re.compile(r"(?<=//)[^/?#@\s]*@")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: `proxy` is the http URL of a proxy in between, empty for none.

    As a string it names both, for messages, without the user and password of a proxy.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    proxy: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, *, tls: ssl.SSLContext | None, proxy: str) -> Origin:
        """The origin of an http or https URL. Raises ConfigurationError for any other."""
        parts = urlsplit(url)
        try:
            port = parts.port or _PORTS[parts.scheme]
        except (KeyError, ValueError) as error:
            raise ConfigurationError(
                f"the endpoint {strip_userinfo(url)!r} is not a valid http:// or https:// URL",
                hint="Check --endpoint-url.",
            ) from error
        return cls(parts.hostname or "", port, tls, proxy)

    def __str__(self) -> str:
        if not self.proxy:
            return self.authority
        host, port = self.next_hop
        return f"{self.authority} through the proxy {_authority(host, port)}"

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL."""
        return _authority(self.host, self.port)

    @property
    def next_hop(self) -> tuple[str, int]:
        """Host and port to connect to: those of the proxy, if there is one."""
        proxy = self._proxy
        return (proxy.hostname, proxy.port or 80) if proxy.hostname else (self.host, self.port)

    @property
    def proxy_authorization(self) -> str:
        """The header line for the user and password of the proxy, empty for none (RFC 7617)."""
        proxy = self._proxy
        if proxy.username is None:
            return ""
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
        return f"proxy-authorization: Basic {base64.b64encode(pair).decode()}\r\n"

    @property
    def _proxy(self) -> SplitResult:
        return urlsplit(self.proxy)


def strip_userinfo(text: str) -> str:
    """The text without the user and password of any URL in it."""
    return _USERINFO.sub("", text)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
