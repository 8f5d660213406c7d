"""What a person sees in a terminal of 60, 80 and 120 columns, and what a pipe gets.

The tables stand in `golden/` as they are shown. `WRITE_GOLDEN=1` writes them anew: look at
the difference before you commit it.
"""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coalesce.cli.output import Printer
from coalesce.cli.request import OutputOptions
from coalesce.report.account import Phase
from coalesce.report.report import Report
from coalesce.storage.s3 import S3Store
from support.buckets import fill
from support.command import coalesce, environment, job
from support.terminal import run_in_terminal, screen

pytestmark = pytest.mark.timeout(180)

GOLDEN = Path(__file__).parent / "golden"
FAILURE = re.compile(r"AccessDenied|TruncatedGzip")
WIDTHS = (60, 80, 120)
TOPICS = ("db.crm.subscription-preferences_changes-v2", "db.core.claimant", "a")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "coalesce", *words]


def in_terminals(words: list[str], variables: dict[str, str]) -> str:
    """The same command in terminals of each width, then in a pipe. Nothing is too wide for its
    terminal but failures: they stay one line each, for whoever copies a key.
    """
    shown = []
    for columns in WIDTHS:
        _, written = run_in_terminal(words, variables, columns)
        lines = screen(written)
        assert [line for line in lines if len(line) > columns and not FAILURE.match(line)] == []
        shown.append((f"{columns} columns", "\n".join(lines)))
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    shown.append(("a pipe", done.stdout + done.stderr))
    return "".join(f"=== {where}\n\n{text.strip()}\n\n" for where, text in shown)


def check_golden(name: str, text: str) -> None:
    text = re.sub(r"\d{8}T\d{6}Z-[0-9a-f]{8}", "20261122T023000Z-0a1b2c3d", text)
    path = GOLDEN / f"{name}.txt"
    if "WRITE_GOLDEN" in os.environ:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


async def put_small_objects(bucket: S3Store) -> None:
    for at, topic in enumerate(TOPICS):
        for number in range(3 + at):
            key = f"data/2026/11/22/{topic}_0_{10 * number}-{10 * number + 9}.jsonl.gz"
            await bucket.put(key, bytes(1234 * 10**at))
    await bucket.put("data/2026/11/22/lonely_0_0-9.jsonl.gz", b"x")
    await bucket.put("data/2026/11/22/README", b"x")


@pytest.mark.parametrize("name", ["plan", "status"])
async def test_topics_are_shown_whole_at_any_width(name: str, bucket: S3Store) -> None:
    await put_small_objects(bucket)
    scope = ["-b", bucket.bucket, "-p", "data", "--min-age", "0"]
    check_golden(name, in_terminals(command(name, *scope), environment(bucket.endpoint)))


def failed_night() -> Report:
    key = "data/2026/11/22/db.core.claimant_0_{n}0-{n}9.jsonl.gz"
    denied = [
        {
            "group": "data/2026/11/22/db.core.claimant_0",
            "key": key.format(n=n),
            "code": "AccessDenied",
            "operation": "PutObject",
            "message": f"PutObject {key.format(n=n)!r}: 403 AccessDenied Access Denied",
            "hint": "Check the IAM policy; `coalesce policy` prints what a run needs.",
        }
        for n in range(412)
    ]
    spoilt = {
        "key": "data/2026/11/22/a_0_0-9.jsonl.gz",
        "code": "TruncatedGzip",
        "message": "data/2026/11/22/a_0_0-9.jsonl.gz: the gzip stream ends early",
        "hint": "Replace the object.",
    }
    return Report.model_validate(
        {
            "version": "0.2.0",
            "run_id": "20261122T023000Z-0a1b2c3d",
            "started": "2026-11-22T02:30:00+00:00",
            "seconds": 754.2,
            "exit_code": 4,
            "scope": {
                "bucket": "lake",
                "prefixes": [f"data/2026/11/{day}/" for day in range(15, 23)],
                "layout": "corporate",
                "partitions": [],
            },
            "groups": {"seen": 900, "coalesced": 487, "left": 0, "failed": 413},
            "sources": {
                "seen": 2_345_678,
                "joined": 2_000_000,
                "deleted": 2_000_000,
                "left": {"young": 300_000, "corrupt": 1, "failed": 45_677},
            },
            "outputs": {"written": 1234, "bytes": 151_000_000_000, "records": 45_000_000},
            "path_list": {"before": 234_567_800, "after": 34_691_200},
            "requests": {"GetObject": 2_345_678},
            "stages": {"get": {"requests": 2_345_678, "seconds": 65432.1}},
            "cost_usd": 1.2345,
            "cpu_seconds": 4321.0,
            "peak_rss_bytes": 2**28,
            "processes": 4,
            "failures": [denied[0], spoilt, *denied[1:]],
        }
    )


def test_the_summary_of_a_night_says_where_how_fast_and_what_next(tmp_path: Path) -> None:
    """And equal failures once, with how many there were."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps(failed_night().as_json()))
    check_golden("report", in_terminals(command("report", str(path)), dict(os.environ)))


async def spoil(bucket: S3Store, groups: int) -> None:
    """Puts a group that is in order, and some whose second source is cut short."""
    await fill(bucket)
    for number in range(groups):
        for first in range(3):
            body = gzip.compress(b'{"n": 1}\n' * 10, mtime=0)
            key = f"data/spoilt_{number}_{10 * first}-{10 * first + 9}.jsonl.gz"
            await bucket.put(key, body[:-9] if first == 1 else body, content_type="x/y")


async def test_log_lines_go_above_the_bar_and_the_bar_is_gone_in_the_end(bucket: S3Store) -> None:
    await spoil(bucket, 1)
    words = command(*job(bucket, "-v"))
    _, written = run_in_terminal(words, environment(bucket.endpoint), 80)
    drawn = [piece for piece in re.split(r"[\r\n]|\x1b\[2K", written) if "─" in piece]
    assert any(piece.startswith(tuple(phase.value for phase in Phase)) for piece in drawn)
    lines = screen(written)
    assert not any("─" in line or "━" in line for line in lines)
    (said,) = (line for line in lines if "TruncatedGzip: " in line)
    assert said.startswith("ERROR TruncatedGzip: ")
    assert "data/spoilt_0_10-19.jsonl.gz" in said  # one line, however long
    assert lines[lines.index(said) + 1].startswith(("INFO kept ", "bucket "))


async def test_a_verification_shows_a_bar_below_what_it_finds(bucket: S3Store) -> None:
    await fill(bucket, 3)
    assert coalesce(bucket, *job(bucket)).returncode == 0
    await bucket.put("data/strange_0_0_9.jsonl.gz", b"not ours")
    words = command("verify", "-b", bucket.bucket, "-p", "data", "--deep")
    _, written = run_in_terminal(words, environment(bucket.endpoint), 80)
    assert "checking ─" in written
    lines = screen(written)
    assert not any("─" in line or "━" in line for line in lines)
    assert lines[0].startswith("NoPlanDigest: data/strange_0_0_9.jsonl.gz: ")
    assert "4 found, 3 proven, 1 failed" in lines[1]


async def test_equal_failures_are_logged_once_and_counted(bucket: S3Store) -> None:
    await spoil(bucket, 5)
    done = coalesce(bucket, *job(bucket, "--log-format", "text"))
    assert done.returncode == 4
    first, total = (line for line in done.stderr.splitlines() if "TruncatedGzip" in line)
    assert first.startswith("ERROR TruncatedGzip: ")
    assert total.startswith("ERROR TruncatedGzip, 5 times, first ")
    every = coalesce(bucket, *job(bucket, "--log-format", "text", "-v")).stderr
    assert every.count("ERROR TruncatedGzip: ") == 5


async def test_events_go_into_their_file_while_a_bar_is_shown(
    bucket: S3Store, tmp_path: Path
) -> None:
    await fill(bucket, 3)
    events = tmp_path / "events.jsonl"
    words = command(*job(bucket, "--output", "json"))
    shell = ["sh", "-c", f'"$@" > {events}', "sh", *words]
    code, written = run_in_terminal(shell, environment(bucket.endpoint), 80)
    assert code == 0, written
    types = [json.loads(line)["type"] for line in events.read_text().splitlines()]
    assert types == ["output"] * 3 + ["summary"]
    assert "starting" in written
    assert '"type"' not in written


async def test_no_bar_is_drawn_into_json_on_a_terminal(bucket: S3Store) -> None:
    await fill(bucket)
    words = command(*job(bucket, "--output", "json"))
    _, written = run_in_terminal(words, environment(bucket.endpoint), 80)
    assert [json.loads(line)["type"] for line in written.splitlines()] == ["output", "summary"]


@pytest.mark.parametrize(("kind", "bar"), [("xterm", True), ("dumb", False), ("unknown", False)])
def test_a_terminal_without_a_cursor_gets_lines(
    kind: str, bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert Printer.of(OutputOptions()).bar is bar


@pytest.mark.parametrize(
    ("more", "code"),
    [([], 0), (["--dry-run", "--save-plan", "s3://no-such-bucket-of-ours/plan"], 10)],
)
async def test_a_pipe_gets_nothing_but_json_on_stderr(
    more: list[str], code: int, bucket: S3Store
) -> None:
    await fill(bucket)
    done = coalesce(bucket, *job(bucket, "-u", "3", *more))
    assert done.returncode == code
    levels = [json.loads(line)["level"] for line in done.stderr.splitlines()]
    assert levels == ["warning", "error"][: 1 + bool(code)]


async def test_a_refusal_is_all_that_stands_on_stderr(bucket: S3Store) -> None:
    done = coalesce(bucket, *job(bucket, "-u", "3", "--save-plan", "x"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --save-plan is for `plan`")


def test_a_name_cannot_move_the_cursor(tmp_path: Path) -> None:
    report = failed_night().model_copy(update={"run_id": "\x1b[2Jx\r"})
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.as_json()))
    _, written = run_in_terminal(command("report", str(path)), dict(os.environ), 80)
    assert "\x1b" not in written
    assert "\\x1b[2Jx\\r" in written
