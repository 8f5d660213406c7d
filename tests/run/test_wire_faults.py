"""What goes wrong between the program and a real server: each fault, the exit code, how often it is
tried, and what the bucket holds then and in the end.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import unquote

import pytest
from botocore.retries.standard import ExponentialBackoff

from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from support import auditor
from support.buckets import check_finished, fill, look, records_in, unfinished_in
from support.proxy import (
    Answer,
    Call,
    Handler,
    Proxy,
    Rule,
    cut,
    error_after,
    flipped_answer,
    flipped_request,
    lost_after,
    lost_before,
    proxy,
    refusal,
    shortened,
    stall,
    understated,
)
from support.servers import ACCEPTED, KEYS, bucket_of, lists_uploads, options_of
from support.settings import settings

ALWAYS = -1
ODD = "topic_0_20-"  # one source among the five of its group
OUTPUT = "topic_0_0_49"
RECORD = "_coalesce/groups/data/db.core.topic_0"
ENTRY = "_coalesce/ledger/data/db.core.topic_0"
PLACES = {
    "ListObjectsV2": "data/",
    "HeadObject": OUTPUT,
    "CreateMultipartUpload": OUTPUT,
    "PutObject": RECORD,
    "GetObject": ODD,
    "UploadPart": OUTPUT,
    "CompleteMultipartUpload": OUTPUT,
    "DeleteObject": RECORD,
}


@dataclass
class Field:
    """A bucket, the way to it through the proxy, and the way around."""

    proxy: Proxy
    options: S3Options
    store: S3Store
    sweeps: bool

    async def run(self, read_timeout: float = 60.0, **more: object) -> Report:
        """One run through the proxy."""
        async with open_s3(
            replace(self.options, endpoint_url=self.proxy.url, read_timeout=read_timeout)
        ) as store:
            return await Run(store, settings(accept_weaker=ACCEPTED, **more)).coalesce()

    async def check_settled(self, original: dict[str, bytes], left: int = 0) -> None:
        """Undisturbed runs later, every record is there exactly once, `left` sources stay, each
        output has its ledger entry, and there is nothing else.
        """
        for _ in range(3):
            report = await Run(self.store, settings(accept_weaker=ACCEPTED)).coalesce()
            held = await look(self.store)
            uploads = self.sweeps and await self.store.list_uploads(
                "data/db.core.topic_0_0_49.jsonl.gz"
            )
            if not uploads and not unfinished_in(held):
                break
        assert report.exit_code == 0, report.failures
        assert records_in(held) == records_in(original)
        check_finished(held)
        assert len(auditor.sources(held)) == left
        assert not uploads


@pytest.fixture
async def there(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Field]:
    """Two groups of five sources.

    Retries come at once: how long they wait is not what is tested.
    """
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.0)
    options = options_of(server, bucket_of(request.node.name))
    async with open_s3(options) as store, proxy(server, **KEYS) as before:
        await store.create_bucket()
        await fill(store, 2, 5)
        yield Field(before, options, store, await lists_uploads(store))


def everywhere(handler: Handler, times: int = 1) -> list[Rule]:
    """The fault for one request of each operation on a group's way, one after the other in one
    run.
    """
    places = [*PLACES.items(), ("PutObject", ENTRY)]
    return [Rule(operation, handler, where, times) for operation, where in places]


PASSING = {
    "a burst of 503 SlowDown": everywhere(refusal(503, "SlowDown"), times=3),
    "500 InternalError": everywhere(refusal(500, "InternalError")),
    "429": everywhere(refusal(429, "TooManyRequests")),
    "the connection lost before the effect": everywhere(lost_before),
    "the connection lost after the effect": everywhere(lost_after),
    "500 after the effect": everywhere(error_after(500, "InternalError")),
    "200 with an error in it for Complete": [
        Rule("CompleteMultipartUpload", refusal(200, "InternalError"), OUTPUT)
    ],
    "200 with an error in it after Complete's effect": [
        Rule("CompleteMultipartUpload", error_after(200, "InternalError"), OUTPUT)
    ],
    "every answer to Complete lost": [Rule("CompleteMultipartUpload", lost_after, OUTPUT, ALWAYS)],
    "409 for Complete": [
        Rule("CompleteMultipartUpload", refusal(409, "ConditionalRequestConflict"), OUTPUT)
    ],
    "a body cut short": [Rule("GetObject", cut, ODD)],
    "a body shorter than the object, its length agreeing": [Rule("GetObject", shortened, ODD)],
    "a length that is less than the body": [Rule("GetObject", understated, ODD)],
    "one bit of a source's body flipped": [Rule("GetObject", flipped_answer, ODD)],
}


def code_after(*, everything_lost: bool) -> int:
    """The exit code after faults that pass.

    Where a DELETE has no condition, one that got no answer is not sent again: a tombstone stays,
    and the next run clears it away.
    """
    return 75 if everything_lost and "delete-race" in ACCEPTED else 0


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_that_passes_is_not_noticed(there: Field, fault: str) -> None:
    original = await look(there.store)
    there.proxy.rules = [replace(rule) for rule in PASSING[fault]]
    report = await there.run()
    assert report.exit_code == code_after(everything_lost=fault.endswith("lost before the effect"))
    assert [rule.operation for rule in there.proxy.rules if rule.times > 0] == [], (
        "a fault that never came proves nothing"
    )
    assert report.retries <= 10 * len(there.proxy.rules)
    await there.check_settled(original)


async def test_a_request_that_is_never_answered_is_given_up_and_sent_again(there: Field) -> None:
    original = await look(there.store)
    there.proxy.rules = everywhere(stall)
    report = await there.run(read_timeout=0.5)
    assert report.exit_code == code_after(everything_lost=True)
    assert not any(rule.times for rule in there.proxy.rules)
    await there.check_settled(original)


def second_page(handler: Handler) -> Handler:
    """The fault for a listing's later pages; pages are small."""

    async def handle(call: Call) -> Answer | None:
        call.target = call.target.replace("max-keys=1000", "max-keys=4")
        return await (handler(call) if "continuation-token=" in call.target else call.forward())

    return handle


async def same_token(call: Call) -> Answer:
    """The next page's token is the one that led here."""
    answer = await call.forward()
    sent = re.search(r"continuation-token=([^&]*)", call.target)
    token = (
        f"<NextContinuationToken>{unquote(sent[1]) if sent else ''}</NextContinuationToken>"
        "<IsTruncated>true</IsTruncated>"
    )
    body = re.sub(
        rb"<NextContinuationToken>.*?</NextContinuationToken>|<IsTruncated>.*?</IsTruncated>",
        b"",
        answer.body,
    )
    return replace(
        answer, body=body.replace(b"</ListBucketResult>", f"{token}</ListBucketResult>".encode())
    )


@dataclass(frozen=True)
class Lasting:
    """A fault that does not pass: the exit code, how often the request is tried, and the sources
    that stay even in the end.
    """

    operation: str
    handler: Handler
    code: int
    at_most: int
    where: str = ""
    left: int = 0

    @property
    def place(self) -> str:
        """Where the fault is."""
        return self.where or PLACES[self.operation]


LASTING = {
    "503 SlowDown for one source": Lasting("GetObject", refusal(503, "SlowDown"), 75, 5),
    "429 for one source": Lasting("GetObject", refusal(429, "TooManyRequests"), 75, 5),
    "500 for a part": Lasting("UploadPart", refusal(500, "InternalError"), 75, 5),
    "500 for a plan record": Lasting("PutObject", refusal(500, "InternalError"), 75, 5),
    "500 for a ledger entry": Lasting("PutObject", refusal(500, "InternalError"), 75, 15, ENTRY),
    "403 for a ledger entry": Lasting("PutObject", refusal(403, "AccessDenied"), 1, 3, ENTRY),
    "500 for Complete": Lasting("CompleteMultipartUpload", refusal(500, "InternalError"), 75, 20),
    "200 with an error in it for Complete": Lasting(
        "CompleteMultipartUpload", refusal(200, "InternalError"), 75, 20
    ),
    "the connection lost before Complete's effect": Lasting(
        "CompleteMultipartUpload", lost_before, 75, 20
    ),
    "the connection lost at one source": Lasting("GetObject", lost_before, 75, 10),
    "a body cut short": Lasting("GetObject", cut, 75, 5),
    "a body shorter than the object, its length agreeing": Lasting(
        "GetObject", shortened, 4, 2, left=1
    ),
    "a length that is less than the body": Lasting("GetObject", understated, 4, 2, left=1),
    "one bit of a source's body flipped": Lasting("GetObject", flipped_answer, 4, 2, left=1),
    "one bit of a part flipped": Lasting("UploadPart", flipped_request, 1, 1),
    "403 for one source": Lasting("GetObject", refusal(403, "AccessDenied"), 1, 1),
    "403 for an upload": Lasting("CreateMultipartUpload", refusal(403, "AccessDenied"), 1, 1),
    "403 for Complete": Lasting("CompleteMultipartUpload", refusal(403, "AccessDenied"), 1, 1),
    "403 for the output's HEAD": Lasting("HeadObject", refusal(403, "AccessDenied"), 1, 1),
    "expired credentials at one source": Lasting("GetObject", refusal(400, "ExpiredToken"), 10, 1),
    "expired credentials at Complete": Lasting(
        "CompleteMultipartUpload", refusal(400, "ExpiredToken"), 10, 1
    ),
    "NoSuchUpload for a part": Lasting("UploadPart", refusal(404, "NoSuchUpload"), 1, 1),
    "NoSuchUpload for Complete": Lasting(
        "CompleteMultipartUpload", refusal(404, "NoSuchUpload"), 1, 1
    ),
    "409 for Complete": Lasting(
        "CompleteMultipartUpload", refusal(409, "ConditionalRequestConflict"), 1, 3
    ),
    "412 for Complete, and no output": Lasting(
        "CompleteMultipartUpload", refusal(412, "PreconditionFailed"), 1, 3
    ),
    "500 for a listing": Lasting("ListObjectsV2", refusal(500, "InternalError"), 1, 5),
    "500 for a listing's second page": Lasting(
        "ListObjectsV2", second_page(refusal(500, "InternalError")), 1, 6
    ),
    "403 for a listing's second page": Lasting(
        "ListObjectsV2", second_page(refusal(403, "AccessDenied")), 10, 2
    ),
    "a listing's second page that leads to itself": Lasting(
        "ListObjectsV2", second_page(same_token), 1, 5
    ),
}


@pytest.mark.parametrize("fault", LASTING)
async def test_a_fault_that_stays_is_told_costs_no_record_and_no_endless_tries(
    there: Field, fault: str
) -> None:
    """The other group is none the worse for it, unless nothing at all can be done any more."""
    case = LASTING[fault]
    original = await look(there.store)
    first_look = int(case.operation == "ListObjectsV2")  # at the bucket, before the listing
    there.proxy.rules = [Rule(case.operation, case.handler, case.place, ALWAYS, first_look)]
    report = await there.run()
    held = await look(there.store)
    assert report.exit_code == case.code, report.failures
    assert report.failures
    assert 1 <= there.proxy.sent(case.operation, case.place) - first_look <= case.at_most
    assert not records_in(original) - records_in(held)
    if case.operation == "ListObjectsV2":
        assert held == original
    elif case.code != 10:
        assert "data/db.core.topic_1_0_49.jsonl.gz" in held
    await there.check_settled(original, case.left)


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (refusal(500, "InternalError"), 75),
        (refusal(503, "SlowDown"), 75),
        (lost_before, 10),
        (refusal(404, "NoSuchBucket"), 10),
    ],
    ids=["500", "503 SlowDown", "no connection", "no bucket"],
)
async def test_a_store_that_fails_at_the_first_look_may_be_tried_again_and_a_wrong_one_may_not(
    there: Field, handler: Handler, code: int
) -> None:
    """Exit code 75 for what may pass, 10 for what somebody has to change."""
    original = await look(there.store)
    there.proxy.rules = [Rule("ListObjectsV2", handler, "data/", ALWAYS)]
    report = await there.run()
    assert (report.exit_code, len(report.failures)) == (code, 1), report.failures
    assert {call.operation for call in there.proxy.calls} == {"ListObjectsV2"}
    assert await look(there.store) == original


async def test_a_listing_that_gives_a_key_twice_is_not_believed(there: Field) -> None:
    original = await look(there.store)

    async def twice(call: Call) -> Answer:
        answer = await call.forward()
        return replace(
            answer,
            body=re.sub(rb"<Contents>.*?</Contents>", rb"\g<0>\g<0>", answer.body, flags=re.DOTALL),
        )

    there.proxy.rules = [Rule("ListObjectsV2", twice, "data/", ALWAYS)]
    report = await there.run()
    assert (report.exit_code, report.sources.joined) == (1, 0), report.failures
    assert await look(there.store) == original
    await there.check_settled(original)


async def refuse_one(call: Call) -> Answer:
    """One key of a DeleteObjects is not deleted, and the answer says so."""
    call.body = re.sub(
        rb"<Object>(?:(?!</Object>).)*topic_0_20-.*?</Object>", b"", call.body, flags=re.DOTALL
    )
    answer = await call.forward()
    refused = (
        b"<Error><Key>data/db.core.topic_0_20-29.jsonl.gz</Key>"
        b"<Code>AccessDenied</Code><Message>made up</Message></Error>"
    )
    return replace(
        answer, body=answer.body.replace(b"</DeleteResult>", refused + b"</DeleteResult>")
    )


async def silent_on_one(call: Call) -> Answer:
    """One key of a DeleteObjects is neither deleted nor mentioned."""
    call.body = re.sub(
        rb"<Object>(?:(?!</Object>).)*topic_0_20-.*?</Object>", b"", call.body, flags=re.DOTALL
    )
    return await call.forward()


@pytest.mark.parametrize("many", [refuse_one, silent_on_one])
async def test_a_source_that_cannot_be_deleted_is_told_and_its_record_stays(
    there: Field, many: Handler
) -> None:
    """Whether the program deletes one by one on this server, or many at once."""
    original = await look(there.store)
    there.proxy.rules = [
        Rule("DeleteObjects", many, times=ALWAYS),
        Rule("DeleteObject", refusal(403, "AccessDenied"), ODD, ALWAYS),
    ]
    report = await there.run()
    held = await look(there.store)
    assert (report.exit_code, report.sources.left["delete_refused"]) == (1, 1)
    assert auditor.sources(held) == ["data/db.core.topic_0_20-29.jsonl.gz"]
    assert [key for key in held if key.startswith("_coalesce/groups/")] == [f"{RECORD}"]
    await there.check_settled(original)
