"""A server on loopback that notes every request, and answers with an empty listing or a refusal."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.scripted import EMPTY_LISTING, Request

_REFUSAL = b"<Error><Code>AccessDenied</Code><Message>made up</Message></Error>"


@dataclass
class Recorder:
    """Where it listens, and what came; it runs on a thread of its own."""

    port: int
    requests: list[Request] = field(default_factory=list)


@contextmanager
def recording(tls: ssl.SSLContext | None = None) -> Iterator[Recorder]:
    """A recorder for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200, EMPTY_LISTING)

        def do_HEAD(self) -> None:
            self._answer(404, b"")

        def do_PUT(self) -> None:
            self._answer(403, _REFUSAL)

        def do_POST(self) -> None:
            self._answer(403, _REFUSAL)

        def do_DELETE(self) -> None:
            self._answer(403, _REFUSAL)

        def _answer(self, status: int, body: bytes) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.rfile.read(int(headers.get("content-length", "0")))
            recorder.requests.append(Request(self.command, self.path, headers))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that trusts no stranger breaks the handshake off."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        recorder = Recorder(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()
