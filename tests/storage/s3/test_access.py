"""The first look at a bucket needs no right to list anything but the job's own prefixes, and no
refusal of it stands in the audit trail every night.
"""

from collections.abc import Awaitable, Callable

import pytest

from coalesce.inspect.status import read_status
from coalesce.inspect.verify import verify
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from support.proxy import proxy
from support.scripted import Server, answer, serving, store_of
from support.servers import KEYS, bucket_of, options_of
from support.settings import settings


def options(server: Server) -> S3Options:
    return server.options()


LOOKS: dict[str, tuple[Callable[[S3Store], Awaitable[object]], str]] = {
    "the check itself": (lambda store: store.check_access("data/2026/"), "data/2026/"),
    "a GET without a check": (lambda store: store.get("data/k"), "data/k"),
    "a listing without a check": (lambda store: store.list_page("data/"), "data/"),
}


@pytest.mark.parametrize("name", LOOKS)
async def test_a_bucket_is_located_by_listing_what_is_asked_for(name: str) -> None:
    look, prefix = LOOKS[name]
    page = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    reply = answer(page, etag='"e"')
    async with serving(store_of(lambda _: reply)) as server, open_s3(options(server)) as store:
        await look(store)
        first = server.requests[0]
    assert (first.query["prefix"], first.query["max-keys"]) == (prefix, "1")
    assert sum(request.locates for request in server.requests) == 1


class Recording(MemoryStore):
    """Notes under which prefixes the first looks are."""

    def __init__(self) -> None:
        super().__init__(MemoryBucket())
        self.looks: list[str] = []

    async def check_access(self, prefix: str) -> None:
        self.looks.append(prefix)


SETTINGS = settings(prefix=["data", "more"])
JOBS: dict[str, Callable[[MemoryStore], Awaitable[object]]] = {
    "run": lambda store: Run(store, SETTINGS).coalesce(),
    "recover": lambda store: Run(store, SETTINGS).recover(),
    "plan": lambda store: Run(store, SETTINGS).plan(),
    "status": lambda store: read_status(store, SETTINGS),
    "verify": lambda store: verify(store, SETTINGS, deep=False),
}


@pytest.mark.parametrize("job", JOBS)
async def test_every_job_looks_under_its_first_prefix(job: str) -> None:
    store = Recording()
    await JOBS[job](store)
    assert store.looks == ["data/"]


async def test_no_listing_of_a_run_is_outside_its_prefixes(
    server: str, request: pytest.FixtureRequest
) -> None:
    chosen = options_of(server, bucket_of(request.node.name))
    async with open_s3(chosen) as store, proxy(server, **KEYS) as before:
        await store.create_bucket()
        for n in range(3):
            await store.put(f"data/t_0_{n}-db.core.t_1_{n}.txt", b"id-%d\n" % n)
        async with open_s3(options_of(before.url, chosen.bucket)) as seen:
            report = await Run(seen, settings(layout="manifest")).coalesce()
        listings = [call.key for call in before.calls if call.operation.startswith("List")]
    assert report.exit_code == 0, report.failures
    assert listings
    assert [key for key in listings if not key.startswith(("data/", "_coalesce/"))] == []
