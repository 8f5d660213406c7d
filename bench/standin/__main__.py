"""`python -m bench.standin --port P`: see `--help`.

It answers `/-/stats`, `/-/reset` and `/-/digest?prefix=P` too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import ssl
import sys
import time

from bench.records import Fill, objects
from bench.standin import sums
from bench.standin.bucket import Bucket, Stored
from bench.standin.control import Control
from bench.standin.latency import Latency
from bench.standin.service import Service
from bench.standin.wire import Connection

# a data set is from yesterday: some clients pass over what is younger than themselves
AGE = 86_400.0


def main() -> None:
    """Fills, says where it listens, serves until it is stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.standin", description="An S3 stand-in on 127.0.0.1, all in memory."
    )
    parser.add_argument("--port", type=int, default=0, help="0 is any free one; it is printed")
    parser.add_argument("--bucket", default="bench")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="PEM files")
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="MS", help="before each answer"
    )
    parser.add_argument(
        "--latency-spread", metavar="MEDIAN,P99", help="log-normal, in ms, instead of --latency"
    )
    parser.add_argument(
        "--slow-gets",
        metavar="SHARE,SECONDS",
        default="0,0",
        help="so many of the GETs of objects take so long: 0.01,3",
    )
    parser.add_argument(
        "--fill",
        action="append",
        type=Fill.parse,
        default=[],
        metavar="objects=10000,bytes=100000,groups=4,prefix=data/",
    )
    parser.add_argument(
        "--cheap-etags", action="store_true", help="parts' ETags are no MD5, as with SSE-KMS"
    )
    arguments = parser.parse_args()
    latency = (
        Latency.spread(*map(float, arguments.latency_spread.split(",")))
        if arguments.latency_spread
        else Latency(arguments.latency / 1000)
    )
    latency.slow, latency.slow_seconds = map(float, arguments.slow_gets.split(","))
    bucket = Bucket(filled(arguments.fill), cheap_etags=arguments.cheap_etags)
    control = Control(
        Service({arguments.bucket: bucket}, cheap_etags=arguments.cheap_etags), arguments.bucket
    )
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        run(serve(control, latency, arguments.port, arguments.tls))


def filled(fills: list[Fill]) -> dict[str, Stored]:
    """The data sets as objects."""
    headers, modified = {"content-type": "binary/octet-stream"}, time.time() - AGE
    return {
        key: Stored(
            (body,),
            len(body),
            sums.etag([body]),
            modified,
            headers,
            ("crc64nvme", sums.checksum("crc64nvme", [body])),
        )
        for fill in fills
        for key, body in objects(fill)
    }


async def serve(control: Control, latency: Latency, port: int, tls: list[str] | None) -> None:
    """Listens until it is cancelled."""
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(control.answer, latency, control.service.preamble),
        "127.0.0.1",
        port,
        ssl=context,
        backlog=1024,
    )
    scheme = "https" if tls else "http"
    print(
        json.dumps(
            {
                "endpoint": f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}",
                "loop": type(loop).__module__,
            }
        ),
        flush=True,
    )
    await server.serve_forever()


def run(work: object) -> None:
    """On uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)  # type: ignore[arg-type]
    else:
        uvloop.run(work)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
