"""What the bench asks of the stand-in, apart from S3: counts, a fresh start, and a proof of what is
in the bucket.
"""

from __future__ import annotations

import json
import time
from urllib.parse import parse_qs

from bench.records import Digest
from bench.standin.service import Service
from bench.standin.wire import Answer, Request


class Control:
    """Answers `/-/...` itself, and leaves the rest to S3."""

    def __init__(self, service: Service, bucket: str) -> None:
        self.service = service
        self._bucket = bucket
        self._began = time.process_time()

    def answer(self, request: Request) -> Answer:
        """One request."""
        if not request.target.startswith("/-/"):
            return self.service.answer(request)
        word, _, query = request.target[3:].partition("?")
        prefix = parse_qs(query).get("prefix", [""])[0]
        said = {"stats": self._stats, "reset": self._reset, "digest": lambda: self._digest(prefix)}[
            word
        ]()
        body = json.dumps(said).encode()
        return Answer(
            200, b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body), (body,)
        )

    def _stats(self) -> dict[str, object]:
        """Since the last reset: requests by operation, bytes of bodies both ways, CPU seconds."""
        service = self.service
        cpu = time.process_time() - self._began
        return {
            "requests": service.requests,
            "bytes_in": service.bytes_in,
            "bytes_out": service.bytes_out,
            "cpu_seconds": cpu,
        }

    def _reset(self) -> dict[str, object]:
        """Every bucket back to its data set, all counts to nothing."""
        for bucket in self.service.buckets.values():
            bucket.reset()
        self.service.requests.clear()
        self.service.bytes_in = self.service.bytes_out = 0
        self._began = time.process_time()
        return {}

    def _digest(self, prefix: str) -> dict[str, object]:
        """Objects and bytes under a prefix, their records, and a sum of the records' hashes that
        does not depend on their order.
        """
        digest = Digest()
        for _, stored in self.service.buckets[self._bucket].under(prefix):
            digest.add(stored.pieces[0] if len(stored.pieces) == 1 else b"".join(stored.pieces))
        return digest.as_dict()
