"""Whatever the store answers, a command ends in one line that says what and where, and never shows
a password.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coalesce.cli.request import StoreOptions, parse
from coalesce.errors import UsageError
from support.scripted import EMPTY_LISTING, Request, Server, answer, refusal, serving, store_of

DENIED = refusal("403 Forbidden", "AccessDenied")
EXPIRED = refusal("400 Bad Request", "ExpiredToken", "The provided token has expired.")
OUTPUTS = b"<ListBucketResult><IsTruncated>false</IsTruncated>%b</ListBucketResult>" % b"".join(
    b"<Contents><Key>data/t_0_%d_%d.jsonl.gz</Key>"
    b"<LastModified>2026-11-22T12:00:00.000Z</LastModified>"
    b"<ETag>&quot;e&quot;</ETag><Size>5</Size></Contents>" % (n, n)
    for n in range(50)
)

ONE = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>data/t_0_0_1.jsonl.gz</Key>"
    b"<LastModified>2026-11-22T10:00:00.000Z</LastModified>"
    b"<ETag>&quot;e&quot;</ETag><Size>5</Size></Contents></ListBucketResult>"
)


async def coalesce(server: Server, *words: str, userinfo: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command on the bucket of a server."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "coalesce", *words],
        env=os.environ
        | {
            "AWS_ACCESS_KEY_ID": "AK",
            "AWS_SECRET_ACCESS_KEY": "SK",
            "AWS_EC2_METADATA_DISABLED": "true",
            "COALESCE_ENDPOINT_URL": f"http://{userinfo}127.0.0.1:{server.port}",
            "COALESCE_REGION": "us-east-1",
            "COALESCE_ADDRESSING": "path",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [(DENIED, 10, "needs s3:PutObject on arn:aws:s3:::b/data/"), (EXPIRED, 10, "400 ExpiredToken")],
)
async def test_generate_ends_in_one_line(reply: bytes, code: int, said: str) -> None:
    async with serving(store_of(lambda _: reply)) as server:
        found = await coalesce(server, "generate", "-b", "b", "--objects", "100")
    assert (found[0], found[1]) == (code, "")
    (line,) = found[2].splitlines()
    assert line.startswith("error: PutObject 'data/")
    assert said in line


async def test_verify_ends_in_one_line_if_its_token_has_expired() -> None:
    async with serving(store_of(lambda _: EXPIRED)) as server:
        code, out, err = await coalesce(server, "verify", "-b", "b", "-p", "data")
    assert (code, out) == (10, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ListObjectsV2 'data/': 400 ExpiredToken")


async def test_verify_ends_in_one_line_once_its_token_expires() -> None:
    """Not in one for each output that is left."""
    head = answer(
        b"12345", etag='"e"', x_amz_meta_coalesce_plan="0" * 64, x_amz_meta_coalesce_sources="2"
    )

    def reply(request: Request) -> bytes:
        if request.method == "HEAD":
            return head.removesuffix(b"12345")
        if request.path.endswith(".gz"):
            return EXPIRED
        return answer(OUTPUTS if request.query.get("prefix") == "data/" else EMPTY_LISTING)

    async with serving(store_of(reply)) as server:
        code, out, err = await coalesce(server, "verify", "-b", "b", "-p", "data", "--deep")
    assert (code, out) == (10, "")
    (line,) = err.splitlines()
    assert line.startswith("error: GetObject 'data/t_0_")
    assert "400 ExpiredToken" in line


def _denies(method: str, part: str) -> Callable[[Request], bytes]:
    """A bucket with one output that refuses one kind of request."""

    def reply(request: Request) -> bytes:
        if request.method == method and part in request.target:
            return DENIED
        return answer(ONE if request.query.get("prefix") == "data/" else EMPTY_LISTING)

    return reply


@pytest.mark.parametrize(
    ("words", "method", "part", "right"),
    [
        ("plan", "GET", "prefix=data", "s3:ListBucket on arn:aws:s3:::b for the prefix 'data/'"),
        ("status", "GET", "prefix=data", "s3:ListBucket on arn:aws:s3:::b for the prefix 'data/'"),
        ("verify", "GET", "prefix=data", "s3:ListBucket on arn:aws:s3:::b for the prefix 'data/'"),
        ("run", "GET", "prefix=_coal", "s3:ListBucket on arn:aws:s3:::b for the prefix '_coal"),
        ("status", "GET", "prefix=_coal", "s3:ListBucket on arn:aws:s3:::b for the prefix '_coal"),
        ("recover", "PUT", "_coalesce", "s3:PutObject on arn:aws:s3:::b/_coalesce/runs/"),
        ("probe", "PUT", "_coalesce", "s3:PutObject on arn:aws:s3:::b/_coalesce/runs/"),
        ("verify", "HEAD", "data", "s3:GetObject on arn:aws:s3:::b/data/t_0_0_1.jsonl.gz and"),
    ],
)
async def test_a_right_that_is_missing_before_anything_is_done_is_named_and_exits_with_10(
    words: str, method: str, part: str, right: str
) -> None:
    scope = [] if words == "probe" else ["-p", "data"]
    async with serving(store_of(_denies(method, part))) as server:
        code, _, err = await coalesce(server, words, "-b", "b", *scope)
    assert code == 10, err
    assert right in err
    assert err.count(f"{right.split()[0]} ") == 1


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("run", DENIED),
        ("run", EXPIRED),
        ("run", answer(EMPTY_LISTING)),
        ("plan", answer(EMPTY_LISTING)),
        ("recover", DENIED),
        ("status", EXPIRED),
        ("verify", DENIED),
    ],
)
async def test_a_password_in_the_endpoint_is_shown_nowhere(
    command: str, reply: bytes, tmp_path: Path
) -> None:
    """Not on stdout, not on stderr, not in the report."""
    report = tmp_path / "report.json"
    more = ["--report", str(report)] if command in ("run", "plan", "recover") else []
    async with serving(store_of(lambda _: reply)) as server:
        words = [command, "-b", "b", "-p", "data", "--output", "json", *more]
        _, out, err = await coalesce(server, *words, userinfo="user:secret@")
    written = report.read_text() if more else "{}"
    assert "secret" not in out + err + written
    if more:
        assert json.loads(written)["store"]["endpoint"] == server.url


def test_a_password_in_an_endpoint_that_is_no_text_is_shown_nowhere() -> None:
    with pytest.raises(UsageError) as caught:
        parse(StoreOptions, {"endpoint_url": "http://user:secret@h\0"})
    assert "--endpoint-url 'http://h\\x00'" in caught.value.message
