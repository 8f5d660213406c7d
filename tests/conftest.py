"""Servers and stores that the tests run against."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from hypothesis import settings

from coalesce.demo.server import embedded_server
from coalesce.storage.base import ObjectStore
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.storage.s3 import S3Store, open_s3
from support.scenarios import SCENARIOS
from support.schedules import Tally
from support.servers import bucket_of, options_of

# What hypothesis tries of each property: a quick look by default, and as long a one as
# COALESCE_TEST_EXAMPLES says. No test is judged by its time.
settings.register_profile(
    "coalesce",
    deadline=None,
    print_blob=True,
    max_examples=int(os.environ.get("COALESCE_TEST_EXAMPLES", "100")),
)
settings.load_profile("coalesce")


@pytest.fixture
def tally(record_property: Tally) -> Tally:
    """Counts what a test has tried; the sums stand under the test run."""
    return record_property


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        tried.update(
            {
                what: count
                for what, count in report.user_properties
                if isinstance(count, int) and report.when == "call"
            }
        )
    for what, count in sorted(tried.items()):
        terminalreporter.write_line(f"{what} tried: {count}")


@pytest.fixture(params=SCENARIOS)
def name(request: pytest.FixtureRequest) -> str:
    """Each scenario in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def ministack() -> Iterator[str]:
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> str:
    """A real server: the one that COALESCE_TEST_ENDPOINT names, or the embedded one."""
    return os.environ.get("COALESCE_TEST_ENDPOINT") or str(request.getfixturevalue("ministack"))


STORES = ["endpoint"] if "COALESCE_TEST_ENDPOINT" in os.environ else ["memory", "ministack", "moto"]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ObjectStore]:
    """Each store in turn: in memory and two embedded servers, or the one that
    COALESCE_TEST_ENDPOINT names.
    """
    if request.param == "memory":
        yield MemoryStore(MemoryBucket())
        return
    url = (
        os.environ["COALESCE_TEST_ENDPOINT"]
        if request.param == "endpoint"
        else request.getfixturevalue(request.param)
    )
    options = options_of(url, bucket_of(request.node.name))
    if request.param == "moto":  # which fails at requests that S3 refuses, at each try
        options = replace(options, attempts=2)
    async with open_s3(options) as opened:
        await opened.create_bucket()
        yield opened


@pytest.fixture
async def bucket(server: str, request: pytest.FixtureRequest) -> AsyncIterator[S3Store]:
    async with open_s3(options_of(server, bucket_of(request.node.name))) as store:
        await store.create_bucket()
        yield store
