"""A real server that lacks one guarantee, as a proxy removes the condition from the request.

The probe names what is missing, and the run is safe all the same.
"""

import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from support.buckets import check_finished, data_in, fill, look, records_in
from support.proxy import Answer, Call, Proxy, Rule, proxy, refusal, without, without_etags
from support.servers import ACCEPTED, KEYS, bucket_of, options_of
from support.settings import settings

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

    async def run(self, *modes: str, attempts: int = 5) -> Report:
        """One run through the proxy, which sends a request so often at most."""
        chosen = settings(accept_weaker=sorted({*ACCEPTED, *modes}))
        options = replace(self.options, endpoint_url=self.proxy.url, attempts=attempts)
        async with open_s3(options) as store:
            return await Run(store, chosen).coalesce()


@pytest.fixture
async def there(server: str, request: pytest.FixtureRequest) -> AsyncIterator[Field]:
    options = options_of(server, bucket_of(request.node.name))
    async with open_s3(options) as store, proxy(server, **KEYS) as before:
        await store.create_bucket()
        await fill(store, 1, 6)
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
    original = await look(there.store)
    if mode in ACCEPTED:
        pytest.skip(
            f"this server is used with --accept-weaker {mode}: "
            "the probe measured that it lacks the guarantee"
        )
    report = await there.run()
    assert report.exit_code == 10
    assert f"--accept-weaker {mode}" in report.failures[0].hint
    assert await look(there.store) == original


@pytest.mark.parametrize("name", REMOVED)
async def test_a_server_that_is_accepted_with_less_ends_with_every_record_once(
    there: Field, name: str
) -> None:
    changes, expected, mode = REMOVED[name]
    there.proxy.always = changes
    original = await look(there.store)
    report = await there.run(*[mode] if mode else [])
    assert report.exit_code == 0, report.failures
    assert capabilities(report, expected) == expected
    assert report.store.mode == ("+".join(sorted({*ACCEPTED, mode} - {""})) or "full")
    held = await look(there.store)
    assert records_in(held) == records_in(original)
    assert list(data_in(held)) == ["data/db.core.topic_0_0_59.jsonl.gz"]
    check_finished(held)


async def test_a_server_whose_aborted_uploads_live_on_is_refused(there: Field) -> None:
    """The fence would not hold: a late Complete would make an output that nobody expects."""
    original = await look(there.store)

    async def nothing(call: Call) -> Answer:
        answer = await call.forward() if call.operation != "AbortMultipartUpload" else None
        return answer or Answer(204, call.headers.__class__(), b"")

    there.proxy.rules = [Rule("AbortMultipartUpload", nothing, "/probe/", -1)]
    report = await there.run()
    assert (report.exit_code, "--accept-weaker no-exclusion" in report.failures[0].hint) == (
        10,
        True,
    )
    assert data_in(await look(there.store)) == original


FAIL = refusal(500, "InternalError")


async def fail_late_complete(call: Call) -> Answer | None:
    """Of an upload that was aborted. Moto does so."""
    return await (FAIL(call) if call.key.endswith("/fence") else call.forward())


async def test_a_server_that_fails_where_it_should_refuse_is_believed_by_its_list_of_uploads(
    there: Field,
) -> None:
    original = await look(there.store)
    there.proxy.rules = [Rule("CompleteMultipartUpload", fail_late_complete, "/probe/", -1)]
    report = await there.run(attempts=1)
    held = await look(there.store)
    assert (report.exit_code, report.store.capabilities["fence"]) == (0, True)
    assert records_in(held) == records_in(original)
    check_finished(held)


async def test_where_a_guarantee_stays_in_doubt_the_run_ends_with_75_and_nothing_is_touched(
    there: Field,
) -> None:
    """It can be neither seen nor ruled out, so no weaker mode is offered for it."""
    original = await look(there.store)
    there.proxy.rules = [
        Rule("CompleteMultipartUpload", fail_late_complete, "/probe/", -1),
        Rule("ListMultipartUploads", FAIL, "/probe/", -1),
    ]
    report = await there.run(attempts=1)
    (failure,) = report.failures
    assert (report.exit_code, "--accept-weaker" in failure.hint) == (75, False)
    assert "the end of aborted uploads" in failure.message
    assert data_in(await look(there.store)) == original


@pytest.mark.parametrize(
    "name", ["conditional GET", "any conditional delete", "ETags in DeleteObjects", "checksums"]
)
@pytest.mark.parametrize("operation", ["GetObject", "CompleteMultipartUpload"])
async def test_a_source_that_changes_before_it_is_read_is_joined_anew_and_stays_if_it_is_too_late(
    there: Field, name: str, operation: str
) -> None:
    """Someone else replaces a source by one of the same size before it is read, or deleted."""
    changes, _, mode = REMOVED[name]
    there.proxy.always = changes
    original = await look(there.store)
    key = "data/db.core.topic_0_30-39.jsonl.gz"
    changed = gzip.compress(b'{"group": 0, "n": 9}\n', mtime=0)
    assert len(changed) == len(original[key])

    async def overwrite(call: Call) -> Answer:
        await there.store.put(key, changed)
        return await call.forward()

    there.proxy.rules = [Rule(operation, overwrite, key if operation == "GetObject" else "data/")]
    report = await there.run(*[mode] if mode else [])
    held = await look(there.store)
    output = "data/db.core.topic_0_0_59.jsonl.gz"
    joined, left = original | {key: changed}, {}
    if operation == "CompleteMultipartUpload":
        joined, left = original, {key: changed}
    assert data_in(held) == {output: held[output]} | left
    assert records_in({output: held[output]}) == records_in(joined)
    assert (report.exit_code, report.sources.left.get("changed", 0)) == (0, len(left))
    check_finished(held)
