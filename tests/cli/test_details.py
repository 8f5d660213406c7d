"""Details of the command line that a job relies on: exit codes, signals, files, what is said."""

import datetime as dt
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from coalesce import errors
from coalesce.cli.log import JsonLines
from coalesce.exits import ExitCode
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket
from support import lakes
from support.invoke import invoke
from support.settings import settings

JOB = ["-b", "b", "-p", "data", "--min-age", "0", "--output", "json"]


def test_no_delete_keeps_every_source_and_recover_deletes_them(tmp_path: Path) -> None:
    before = lakes.lake().objects.keys()
    kept = invoke(["run", *JOB, "--no-delete"], {"b": lakes.lake()}, folder=tmp_path)
    assert (kept.code, len(kept.outputs)) == (0, 4)
    assert before <= kept.bucket.objects.keys()
    assert not [name for name, _ in kept.requests if name.startswith("Delete") and "data/" in _]
    done = invoke(["recover", "-b", "b", "-p", "data"], {"b": kept.bucket}, folder=tmp_path)
    assert done.code == 0, done.stderr
    gone = before - done.bucket.objects.keys()
    assert gone == {key for key in before if key.startswith("data/") and key.endswith(".gz")}


def test_a_plan_is_not_saved_if_a_listing_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would leave out what was not seen, and the run would be none the wiser."""
    listed = MemoryBucket.list_page

    def list_page(bucket: MemoryBucket, prefix: str, *rest: object) -> object:
        if prefix.startswith("more/"):
            raise errors.AccessDenied("no", code="AccessDenied")
        return listed(bucket, prefix, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryBucket, "list_page", list_page)
    words = ["plan", *JOB, "-p", "more", "--save-plan", "plan.jsonl"]
    done = invoke(words, {"b": lakes.lake()}, folder=tmp_path)
    assert (done.code, done.last["plan"]["topics"] != []) == (1, True)
    assert not (tmp_path / "plan.jsonl").exists()


@pytest.mark.parametrize("shard", ["0/4", "2/4"])
def test_each_shard_writes_a_report_of_its_own(shard: str, tmp_path: Path) -> None:
    words = ["plan", *JOB, "--shard", shard, "--report", "r-{shard}-{run_id}.json"]
    done = invoke(words, {"b": lakes.lake()}, folder=tmp_path)
    name = f"r-{shard.replace('/', '-of-')}-{done.last['run_id']}.json"
    assert json.loads((tmp_path / name).read_text()) == done.last


def test_probe_exits_with_10_on_a_store_that_a_run_refuses(tmp_path: Path) -> None:
    for fill, code in ((lakes.lake, 0), (lakes.weak, 10)):
        probed = invoke(["probe", "-b", "b"], {"b": fill()}, folder=tmp_path)
        ran = invoke(["run", *JOB], {"b": fill()}, folder=tmp_path)
        assert (probed.code, ran.code) == (code, code)


def test_only_json_objects_under_a_url_are_taken_for_reports(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    scope = {"bucket": "b", "prefixes": ["p/"], "layout": "corporate", "partitions": []}
    report = Report.model_validate(
        {"version": "1", "run_id": "r", "started": "2026-11-22T00:00:00Z", "scope": scope}
    )
    bucket.store("reports/one.json", json.dumps(report.as_json()).encode())
    bucket.store("reports/one.html", b"<html>")
    words = ["report", "s3://b/reports/", "--output", "json"]
    done = invoke(words, {"b": bucket}, folder=tmp_path)
    assert (done.code, len(done.last["runs"])) == (0, 1), done.stderr


def test_a_folder_stands_for_all_json_files_in_it(tmp_path: Path) -> None:
    scope = {"bucket": "b", "prefixes": ["p/"], "layout": "corporate", "partitions": []}
    (tmp_path / "night" / "1").mkdir(parents=True)
    for name in ("night/a.json", "night/1/b.json", "c.json"):
        report = Report.model_validate(
            {"version": "1", "run_id": name, "started": "2026-11-22T00:00:00Z", "scope": scope}
        )
        (tmp_path / name).write_text(json.dumps(report.as_json()))
    (tmp_path / "night" / "a.html").write_text("<html>")
    for folder in ("night/", "night"):
        words = ["report", folder, "--output", "json"]
        done = invoke(words, {}, folder=tmp_path)
        assert (done.code, len(done.last["runs"])) == (0, 2), done.stderr


def test_the_demo_fails_with_4_if_a_record_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coalesce = Run.coalesce

    async def lose_one(run: Run) -> Report:
        report = await coalesce(run)
        bucket: MemoryBucket = run._store.bucket  # type: ignore[attr-defined]
        bucket.remove(next(key for key in bucket.objects if key.startswith("storage/")))
        return report

    words = ["demo", "--objects", "90"]
    done = invoke(words, {"demo": MemoryBucket()}, folder=tmp_path)
    assert (done.code, "every record is there exactly once" in done.stdout) == (0, True)
    monkeypatch.setattr(Run, "coalesce", lose_one)
    done = invoke(words, {"demo": MemoryBucket()}, folder=tmp_path)
    assert (done.code, "FAILED" in done.stdout) == (4, True)


def test_sigterm_ends_the_program_while_it_is_still_loading() -> None:
    """The first process of a container ignores a signal that it does not handle."""
    program = (
        "import os, signal, sys\n"
        "from coalesce.cli import app\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def load(arguments): os.kill(os.getpid(), signal.SIGTERM); print('goes on')\n"
        "app.main.__globals__['app'] = load\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, ""), done.stderr


def test_the_libraries_below_never_log_requests(tmp_path: Path) -> None:
    """Their lines hold headers, and so tokens, whatever level is asked for."""
    words = ["plan", *JOB, "--log-level", "debug"]
    assert invoke(words, {"b": lakes.lake()}, folder=tmp_path).code == 0
    for name in ("botocore", "aiobotocore", "aiohttp", "asyncio"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO), name


@pytest.mark.parametrize("more", [[], ["-v"]])
def test_sources_that_are_left_are_told_one_by_one_only_if_asked(
    more: list[str], tmp_path: Path
) -> None:
    words = ["run", *JOB, "--min-files", "3", *more]
    done = invoke(words, {"b": lakes.lake()}, folder=tmp_path)
    assert done.last["sources"]["left"]["single"] == 4
    assert sum(event["type"] == "left" for event in done.events) == (4 if more else 0)


def test_a_plan_names_each_output_only_if_asked(tmp_path: Path) -> None:
    words = ["plan", "-b", "b", "-p", "data", "--min-age", "0", "--log-format", "text"]
    quiet = invoke(words, {"b": lakes.lake()}, folder=tmp_path).stderr
    told = invoke([*words, "-v"], {"b": lakes.lake()}, folder=tmp_path).stderr
    assert "would write" not in quiet
    assert "INFO would write data/t_0_0_3.jsonl.gz from 4 sources" in told.splitlines()


def test_a_run_says_where_its_report_is(tmp_path: Path) -> None:
    words = ["run", *JOB, "--log-format", "text", "--report", "{shard}.json"]
    done = invoke(words, {"b": lakes.lake()}, folder=tmp_path)
    assert "INFO the report is 0-of-1.json" in done.stderr.splitlines()
    assert (tmp_path / "0-of-1.json").is_file()


@pytest.mark.parametrize("targets", [["s3://b/more", "s3://other/data"], ["s3://other/data"]])
def test_one_command_never_works_in_two_buckets(targets: list[str], tmp_path: Path) -> None:
    buckets = {"b": lakes.lake(), "other": lakes.other()}
    words = ["run", "--min-age", "0", *([] if len(targets) > 1 else ["-b", "b"]), *targets]
    done = invoke(words, buckets, folder=tmp_path)
    assert (done.code, done.outputs, done.requests) == (2, [], [])


def test_another_prefix_beside_a_plan_is_refused(tmp_path: Path) -> None:
    save = ["plan", *JOB, "--save-plan", "plan.jsonl"]
    assert invoke(save, {"b": lakes.lake()}, folder=tmp_path).code == 0
    words = ["run", "--plan", "plan.jsonl", "-b", "b", "-p", "more"]
    done = invoke(words, {"b": lakes.lake()}, folder=tmp_path)
    assert (done.code, done.outputs) == (2, [])


def test_a_refused_data_set_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*_: object, **__: object) -> str:
        raise errors.AccessDenied("PutObject 'x': 403", code="AccessDenied")

    monkeypatch.setattr(MemoryBucket, "put", put)
    done = invoke(["generate", "-b", "b", "--objects", "9"], {"b": MemoryBucket()}, folder=tmp_path)
    assert (done.code, len(done.stderr.splitlines())) == (ExitCode.CONFIGURATION, 1)


@pytest.mark.parametrize("prefix", ["gen", "gen/"])
def test_a_data_set_lies_under_whole_path_segments(prefix: str, tmp_path: Path) -> None:
    """So `run -p gen` finds what `generate -p gen` wrote."""
    words = ["generate", "-b", "b", "-p", prefix, "--objects", "9"]
    done = invoke(words, {"b": MemoryBucket()}, folder=tmp_path)
    assert {key.split("/")[0] for key in done.bucket.objects} == {"gen"}


@pytest.mark.parametrize(("fill", "code"), [(lakes.lake, 0), (lakes.joined, 3), (lakes.empty, 3)])
def test_a_plan_fails_on_nothing_only_if_nothing_would_be_joined(
    fill: object, code: int, tmp_path: Path
) -> None:
    words = ["plan", *JOB, "--error-on-nothing"]
    assert invoke(words, {"b": fill()}, folder=tmp_path).code == code  # type: ignore[operator]


@pytest.mark.parametrize(
    ("date", "joined"),
    [
        ("today", {"today"}),
        ("yesterday", {"yesterday"}),
        ("2026-11-01..2026-11-03", {"first", "middle", "last"}),
        ("2026/11/02", {"middle"}),
        ("not_set", {"today", "yesterday", "first", "middle", "last", "after"}),
    ],
)
def test_days_are_directories_of_year_month_and_day(
    date: str, joined: set[str], tmp_path: Path
) -> None:

    today = dt.datetime.now(dt.UTC).date()
    days = {
        "today": f"{today:%Y/%m/%d}",
        "yesterday": f"{today - dt.timedelta(days=1):%Y/%m/%d}",
        "first": "2026/11/01",
        "middle": "2026/11/02",
        "last": "2026/11/03",
        "after": "2026/11/04",
    }
    bucket = MemoryBucket()
    for name, day in days.items():
        lakes.put(bucket, f"data/{day}/{name}_0", 2)
    bucket.now += 3600
    done = invoke(["run", *JOB, "-d", date], {"b": bucket}, folder=tmp_path)
    assert {key.rpartition("/")[2].split("_")[0] for key in done.outputs} == joined


def test_a_range_of_days_may_end_with_today_or_yesterday() -> None:
    today = dt.datetime.now(dt.UTC).date()
    for word, days in (("yesterday", 2), ("today", 3)):
        first = today - dt.timedelta(days=2)
        prefixes = settings(date=f"{first}..{word}").prefixes(today)
        assert (prefixes[0], len(prefixes)) == (f"data/{first:%Y/%m/%d}/", days)


@pytest.mark.parametrize(
    ("age", "code"), [(None, 299), ("2h", 7199), ("1d", 86_399), ("5m", 299), ("90s", 89)]
)
def test_sources_are_young_up_to_the_age(age: str | None, code: int, tmp_path: Path) -> None:
    """The default is five minutes."""
    words = ["run", "-b", "b", "-p", "data", *([] if age is None else ["--min-age", age])]
    for seconds, outputs in ((code, 0), (code + 1, 1)):
        bucket = MemoryBucket()
        lakes.put(bucket, "data/t_0", 2)
        bucket.now += seconds
        done = invoke(words, {"b": bucket}, folder=tmp_path)
        assert len(done.outputs) == outputs, seconds


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        ("100KB", 100_000),
        ("100KiB", 102_400),
        ("0.1MB", 100_000),
        ("100k", 100_000),
    ],
)
def test_decimal_and_binary_units_of_size(size: str, limit: int, tmp_path: Path) -> None:
    """Two sources that fill the limit are joined, with a byte more they are not."""
    words = ["plan", *JOB, "-s", size, "--gzip", "members"]
    for total, outputs in ((limit, 1), (limit + 1, 0)):
        bucket = MemoryBucket()
        bucket.store("data/t_0_0-0.jsonl.gz", b"x" * (limit // 2))
        bucket.store("data/t_0_1-1.jsonl.gz", b"x" * (total - limit // 2))
        done = invoke(words, {"b": bucket}, folder=tmp_path)
        assert len([e for e in done.events if e["type"] == "planned"]) == outputs, total


@pytest.mark.parametrize(
    ("mode", "limit"), [("members", 128_000_000), ("single", 128_000_000 * 97 // 100)]
)
@pytest.mark.parametrize(("more", "outputs"), [(0, 1), (1, 0)])
def test_an_output_has_128_megabytes_by_default(
    mode: str, limit: int, more: int, outputs: int, tmp_path: Path
) -> None:
    """Planned: two sources that fill them, or 97% of them where they are deflated again; with a
    byte more they are not joined.
    """
    bucket = MemoryBucket()
    half = bytes(limit // 2)
    bucket.store("data/t_0_0-0.jsonl.gz", half, etag='"a"')
    bucket.store("data/t_0_1-1.jsonl.gz", half + bytes(more), etag='"b"')
    done = invoke(["plan", *JOB, "--gzip", mode], {"b": bucket}, folder=tmp_path)
    assert len([event for event in done.events if event["type"] == "planned"]) == outputs


def test_the_time_of_a_log_line_is_utc_and_says_so() -> None:
    record = logging.LogRecord("coalesce", logging.INFO, "", 0, "text", None, None)
    record.created = 0.25
    assert json.loads(JsonLines().format(record))["time"] == "1970-01-01T00:00:00.250+00:00"
