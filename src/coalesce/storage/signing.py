"""AWS Signature Version 4 for requests without a body: what the general client computes in a hundred microseconds, in a few.

Source: "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)", S3 API reference. The tests hold it against botocore's own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials as they are at one moment; `token` is empty where there is none."""

    access: str
    secret: str
    token: str = ""


def encoded_path(key: str) -> str:
    """An object's key as it stands in a URL and in the canonical request: every byte but the unreserved ones and the slash, never normalised."""
    return quote(key, safe="/~-_.")


class Signer:
    """Signs for one region. The signing key is derived once a day and per secret."""

    def __init__(self, region: str) -> None:
        self.region = region
        self._derived: tuple[tuple[str, str], bytes] = (("", ""), b"")

    def headers(self, method: str, host: str, path: str, query: str, headers: Mapping[str, str], keys: Keys, now: dt.datetime) -> dict[str, str]:
        """The headers to send: the given ones (lower-case names) and what makes them genuine. `path` is encoded, `query` canonical, `now` UTC."""
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        signed = {**headers, "host": host, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": stamp}
        if keys.token:
            signed["x-amz-security-token"] = keys.token
        names = sorted(signed)
        listed = ";".join(names)
        canonical = "\n".join(
            (method, path, query, *(f"{name}:{' '.join(signed[name].split())}" for name in names), "", listed, EMPTY_SHA256),
        )
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self._key(keys.secret, stamp[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
        signed["authorization"] = f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={listed}, Signature={signature}"
        return signed

    def _key(self, secret: str, day: str) -> bytes:
        if self._derived[0] != (secret, day):
            key = f"AWS4{secret}".encode()
            for word in (day, self.region, "s3", "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._derived = ((secret, day), key)
        return self._derived[1]
