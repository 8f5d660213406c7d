"""The floor, no tool: one blocking socket, unsigned requests written by hand, a CRC over every
byte, parts sent as they are.

Whatever else a program does is on top of this.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from awscrt import checksums

from bench.rivals.sources import OUTPUT_BYTES, batches

PART_BYTES = 8 * 1024**2
READ_BYTES = 1024**2
_ENTRY = re.compile(rb"<Key>([^<]*)</Key>.*?<Size>(\d+)</Size>")
_TOKEN = re.compile(rb"<NextContinuationToken>([^<]*)<")
_LENGTH = re.compile(rb"[Cc]ontent-[Ll]ength: (\d+)")


class Wire:
    """One connection for GETs and parts, one for the rest."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        url = urlsplit(endpoint)
        self._base = f"/{bucket}"
        self._socket = socket.create_connection((url.hostname, url.port))  # type: ignore[arg-type]
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
            self._socket = context.wrap_socket(self._socket, server_hostname=url.hostname)
            self._rest: http.client.HTTPConnection = http.client.HTTPSConnection(
                url.netloc, context=context
            )
        else:
            self._rest = http.client.HTTPConnection(url.netloc)
        self._room = memoryview(bytearray(READ_BYTES))
        self._head = f" HTTP/1.1\r\nHost: {url.netloc}\r\n"

    def ask(self, method: str, target: str, body: str = "") -> bytes:
        """A rare request."""
        self._rest.request(method, f"{self._base}{target}", body)
        with self._rest.getresponse() as answer:
            data = answer.read()
            if answer.status >= 300:
                raise OSError(f"{method} {target}: {answer.status} {data!r}")
            return data

    def get(self, path: str) -> bytes:
        """A whole object."""
        self._socket.sendall(f"GET {self._base}{path}{self._head}\r\n".encode())
        return self._answer()[1]

    def put(self, target: str, pieces: list[bytes], crc: int, size: int) -> bytes:
        """A part; its ETag."""
        value = base64.b64encode(crc.to_bytes(8)).decode()
        self._socket.sendall(
            (
                f"PUT {self._base}{target}{self._head}Content-Length: {size}\r\n"
                f"x-amz-checksum-crc64nvme: {value}\r\n\r\n"
            ).encode()
        )
        for piece in pieces:
            self._socket.sendall(piece)
        return re.search(rb"[Ee][Tt]ag: (\S+)", self._answer()[0])[1]  # type: ignore[index]

    def _answer(self) -> tuple[bytes, bytes]:
        got = self._socket.recv_into(self._room)
        first = bytes(self._room[:got])
        head, _, begun = first.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise OSError(repr(head))
        length = int(_LENGTH.search(head)[1])  # type: ignore[index]
        if len(begun) == length:
            return head, begun
        body = bytearray(length)
        body[: len(begun)] = begun
        view, filled = memoryview(body), len(begun)
        while filled < length:
            filled += self._socket.recv_into(view[filled:])
        return head, body


def main(endpoint: str, bucket: str, prefix: str, limit: str = str(OUTPUT_BYTES)) -> None:
    """Joins everything under the prefix; deletes nothing."""
    wire = Wire(endpoint, bucket)
    for output, keys in batches(listed(wire, prefix), int(limit)):
        join(wire, f"/{quote(output)}", keys)


def listed(wire: Wire, prefix: str) -> Iterator[tuple[str, int]]:
    """Keys and sizes, by one regular expression per page."""
    token = ""
    while True:
        page = wire.ask("GET", f"?list-type=2&prefix={quote(prefix)}{token}")
        yield from ((key.decode(), int(size)) for key, size in _ENTRY.findall(page))
        found = _TOKEN.search(page)
        if found is None:
            return
        token = f"&continuation-token={quote(found[1].decode())}"


def join(wire: Wire, path: str, keys: list[str]) -> None:
    """Reads one source after another into parts."""
    answer = wire.ask("POST", f"{path}?uploads")
    upload = re.search(rb"<UploadId>([^<]*)<", answer)[1].decode()  # type: ignore[index]
    parts, pieces, size, crc = [], [], 0, 0
    for n, key in enumerate(keys, 1):
        body = wire.get(f"/{quote(key)}")
        pieces.append(body)
        size, crc = size + len(body), checksums.crc64nvme(body, crc)
        if size >= PART_BYTES or n == len(keys):
            etag = wire.put(
                f"{path}?partNumber={len(parts) + 1}&uploadId={upload}", pieces, crc, size
            )
            parts.append(
                f"<Part><PartNumber>{len(parts) + 1}</PartNumber>"
                f"<ETag>{etag.decode()}</ETag></Part>"
            )
            pieces, size, crc = [], 0, 0
    wire.ask(
        "POST",
        f"{path}?uploadId={upload}",
        f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
