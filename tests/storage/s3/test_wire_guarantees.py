"""A real server that lacks one guarantee, as a proxy removes the condition from the request.

The probe names what is missing, and the run is safe all the same.
"""

import gzip
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from support import auditor
from support.proxy import Answer, Call, Proxy, Rule, proxy, without, without_etags
from support.servers import KEYS, bucket_of

ACCEPTED = os.environ.get("COALESCE_ACCEPT_WEAKER", "").split()  # what the server needs anyway
SUMS = ("x-amz-checksum-*", "x-amz-sdk-checksum-algorithm")


def unchecked(call: Call) -> None:
    """Removes everything that protects an upload's bytes."""
    for operation in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"):
        without(operation, *SUMS)(call)


# What the proxy removes; what the probe sees then; the mode without which a run is refused then.
REMOVED: dict[str, tuple[list[Callable[[Call], None]], dict[str, bool | str], str]] = {
    "create-only PUT": (
        [without("PutObject", "if-none-match")],
        {"create_only_put": False},
        "no-exclusion",
    ),
    "conditional PUT": (
        [without("PutObject", "if-match")],
        {"conditional_put": False},
        "no-exclusion",
    ),
    "create-only Complete": (
        [without("CompleteMultipartUpload", "if-none-match")],
        {"create_only_complete": False},
        "overwrite-race",
    ),
    "any conditional delete": (
        [without("DeleteObject", "if-match"), without_etags],
        {"conditional_delete": False, "conditional_delete_many": False},
        "delete-race",
    ),
    "conditional GET": ([without("GetObject", "if-match")], {"conditional_get": False}, ""),
    "ETags in DeleteObjects": ([without_etags], {"conditional_delete_many": False}, ""),
    "the copy condition": (
        [without("UploadPartCopy", "x-amz-copy-source-if-match")],
        {"copy_condition": False},
        "",
    ),
    "checksums": ([unchecked], {"checksum": "NONE"}, ""),
}
REFUSED = [name for name, (_, _, mode) in REMOVED.items() if mode]


class Field:
    """A bucket with six sources of one group, reached through the proxy or directly."""

    def __init__(self, before: Proxy, options: S3Options, store: S3Store) -> None:
        self.proxy, self.options, self.store = before, options, store

    async def run(self, *modes: str) -> Report:
        """One run through the proxy."""
        chosen = {
            "bucket": "b",
            "prefix": ["data"],
            "min_age": 0,
            "accept_weaker": sorted({*ACCEPTED, *modes}),
        }
        async with open_s3(replace(self.options, endpoint_url=self.proxy.url)) as store:
            return await Run(store, Settings.model_validate(chosen)).coalesce()

    async def look(self) -> dict[str, bytes]:
        """Every object, read directly."""
        return {
            entry.key: (await self.store.get(entry.key)).data
            for entry in (await self.store.list_page("")).objects
        }


@pytest.fixture
async def there(server: str, request: pytest.FixtureRequest) -> AsyncIterator[Field]:
    options = S3Options(
        bucket_of(request.node.name),
        endpoint_url=server,
        region="us-east-1",
        addressing="path",
        **KEYS,
    )
    async with open_s3(options) as store, proxy(server, **KEYS) as before:
        await store.create_bucket()
        for n in range(6):
            await store.put(
                f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b'{"n": %d}\n' % n, mtime=0)
            )
        yield Field(before, options, store)


def capabilities(report: Report, expected: dict[str, bool | str]) -> dict[str, bool | str]:
    """The named part of what the probe saw."""
    return {name: report.store.capabilities[name] for name in expected}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_server_that_keeps_too_little_is_refused_and_nothing_is_touched(
    there: Field, name: str
) -> None:
    changes, _, mode = REMOVED[name]
    there.proxy.always = changes
    original = await there.look()
    if mode in ACCEPTED:
        pytest.skip(
            f"this server is used with --accept-weaker {mode}: "
            "the probe measured that it lacks the guarantee"
        )
    report = await there.run()
    assert report.exit_code == 10
    assert f"--accept-weaker {mode}" in report.failures[0].hint
    assert await there.look() == original


@pytest.mark.parametrize("name", REMOVED)
async def test_a_server_that_is_accepted_with_less_ends_with_every_record_once(
    there: Field, name: str
) -> None:
    changes, expected, mode = REMOVED[name]
    there.proxy.always = changes
    original = await there.look()
    report = await there.run(*[mode] if mode else [])
    assert report.exit_code == 0, report.failures
    assert capabilities(report, expected) == expected
    assert report.store.mode == ("+".join(sorted({*ACCEPTED, mode} - {""})) or "full")
    held = await there.look()
    assert auditor.records(held, "") == auditor.records(original, "")
    assert list(held) == ["data/t_0_0_5.jsonl.gz"]


async def test_a_server_whose_aborted_uploads_live_on_is_refused(there: Field) -> None:
    """The fence would not hold: a late Complete would make an output that nobody expects."""
    original = await there.look()

    async def nothing(call: Call) -> Answer:
        answer = await call.forward() if call.operation != "AbortMultipartUpload" else None
        return answer or Answer(204, call.headers.__class__(), b"")

    there.proxy.rules = [Rule("AbortMultipartUpload", nothing, "/probe/", -1)]
    report = await there.run()
    assert (report.exit_code, "--accept-weaker no-exclusion" in report.failures[0].hint) == (
        10,
        True,
    )
    assert {
        key: body for key, body in (await there.look()).items() if key.startswith("data/")
    } == original


@pytest.mark.parametrize(
    "name", ["conditional GET", "any conditional delete", "ETags in DeleteObjects", "checksums"]
)
@pytest.mark.parametrize("operation", ["GetObject", "CompleteMultipartUpload"])
async def test_a_source_that_changes_meanwhile_is_not_lost(
    there: Field, name: str, operation: str
) -> None:
    """Someone else replaces a source by one of the same size before it is read, or deleted."""
    changes, _, mode = REMOVED[name]
    there.proxy.always = changes
    changed = gzip.compress(b'{"n": 9}\n', mtime=0)
    key = "data/t_0_3-3.jsonl.gz"

    async def overwrite(call: Call) -> Answer:
        await there.store.put(key, changed)
        return await call.forward()

    there.proxy.rules = [Rule(operation, overwrite, "data/")]
    await there.run(*[mode] if mode else [])
    held = await there.look()
    assert held[key] == changed
    seen = auditor.records(
        {name: body for name, body in held.items() if name.startswith("data/")}, ""
    )
    assert {json.loads(line)["n"] for line in seen} >= {0, 1, 2, 4, 5, 9}
    assert all(times == 1 for line, times in seen.items() if json.loads(line)["n"] not in (3, 9))
