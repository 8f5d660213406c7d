"""Whatever is wrong is said in one line: the option, its value, what it should be."""

import pytest
from typer.testing import CliRunner

from coalesce.cli.app import app
from coalesce.cli.request import DataSetOptions, OutputOptions, StoreOptions, parse
from coalesce.errors import UsageError
from coalesce.settings import (
    Settings,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--memory 1", "--memory must be at least 32MiB"),
        ("--max-files 1", "--max-files must be at least 2"),
        ("--max-files many", "--max-files many: not a whole number"),
        ("--lease 2d", "--lease must be at most 24h"),
        ("--deadline 0", "--deadline must be more than 0"),
        ("--max-bytes 0", "--max-bytes must be at least 1"),
        ("--max-size 1XB", "--max-size 1XB: not a size; write bytes, or a number with a unit"),
        ("--min-age soon", "--min-age soon: not a duration; write a number with a unit"),
        ("--date 2026-13-01", "--date 2026-13-01: no such month"),
        ("--date 2026-02-30", "--date 2026-02-30: no such day"),
        ("--date 2026-02-03..2026-02-01", "--date 2026-02-03..2026-02-01: ends before it begins"),
        ("--date tomorrow", "--date tomorrow: not a day; write today, yesterday, 2026-11-22"),
        ("--date today..2001-01-01", "--date today..2001-01-01: ends before it begins"),
        ("--layout other", "--layout other: choose corporate, manifest, kafka-connect, "),
        ("--accept-weaker all", "--accept-weaker all: choose delete-race, overwrite-race or"),
        ("--addressing none", "--addressing none: choose path, virtual or auto"),
        ("--log-level loud", "--log-level loud: choose debug, info, warning or error"),
        ("--output xml", "--output xml: choose text or json"),
        ("--partition -2", "--partition -2: not a partition; they are numbered from 0"),
        ("--shard 4/4", "--shard '4/4' is not a shard; write I/N with I from 0 to N-1"),
        ("--state p/x", "--state p/x/ and --prefix p/ overlap; choose another --state"),
        ("--stats-interval 0", "--stats-interval must be more than 0"),
        ("lake", "'lake' is not an s3:// URL. Write s3://lake/PREFIX."),
        ("s3://lake/x", "'s3://lake/x' is not in the bucket 'b'"),
        ("-b s3://lake", "--bucket takes a name: -b lake, or give s3://lake/PREFIX"),
        ("-b s3://lake/x/y", "--bucket takes a name: -b lake, or give s3://lake/x/y"),
        ("-b lake/x/y", "--bucket takes a name: -b lake -p x/y"),
        ("-b lake/", "--bucket takes a name: -b lake -p PREFIX"),
        ("-p s3://lake/x/y", "--prefix takes a path in the bucket: -b lake -p x/y"),
        ("-p s3://lake", "--prefix takes a path in the bucket: -b lake -p PREFIX"),
        ("--report s3://b", "cannot write 's3://b': not a URL of one object"),
        ("--report /none/r.json", "cannot write '/none/r.json': no folder '/none'"),
        ("--plan /none/p", "cannot read the plan '/none/p': No such file or directory"),
        ("--plan s3://b/plans/", "cannot read the plan 's3://b/plans/': not a URL of one object"),
        ("--plan s3://b", "cannot read the plan 's3://b': not a URL of one object"),
        ("--config /none/c", "cannot read the configuration file '/none/c': No such file or"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_in_plain_words(words: str, said: str) -> None:
    done = CliRunner().invoke(app, ["run", "-b", "b", "-p", "p", *words.split()])
    assert done.exit_code in (2, 10), done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {said}"), line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run", "--bucket is required: -b NAME, or s3://BUCKET/PREFIX"),
        ("run -b b", "--prefix is required: -p PREFIX, s3://BUCKET/PREFIX, or --whole-bucket"),
        ("run s3://b", "an empty --prefix is the whole bucket; add --whole-bucket if you mean"),
        (
            "run -b b -p a --whole-bucket",
            "--whole-bucket and --prefix a contradict each other; leave one of them out",
        ),
        ("run s3://b/a --whole-bucket", "--whole-bucket and --prefix a contradict each other"),
        (
            "run -b b -p a -a --layout corporate",
            "--manifests and --layout corporate contradict each other",
        ),
        ("plan -b b -p a -m --processes 4", "--multiprocessor and --processes 4 contradict"),
        ("run -b b -p a -q -v", "--quiet and --verbose contradict each other"),
        ("run -b b -p a --ca-bundle f --no-verify-ssl", "--no-verify-ssl and --ca-bundle contra"),
        ("run -b b -p a --content-encoding aws-chunked", "--content-encoding aws-chunked: aws-ch"),
        ("generate s3://b/x -p y", "'s3://b/x' and --prefix y contradict each other"),
        ("probe", "--bucket is required. See `coalesce probe --help`"),
        ("generate", "--bucket is required. See `coalesce generate --help`"),
        ("generate -b b --gaps 2", "--gaps must be at most 1"),
        ("generate -b b -p s3://b/x", "--prefix takes a path in the bucket: -b b -p x"),
        ("report", "no report is named. Give files or s3:// URLs of JSON reports."),
        ("policy -b b -p p --bucket-policy", "--bucket-policy needs --role"),
        ("policy -b b -p p --bucket-policy --role job", "--role job: not an ARN. Write it as arn:"),
        ("recover -b b -p p --date x", "--date x: not a day"),
    ],
)
def test_what_is_missing_is_said_with_the_command_to_ask(words: str, said: str) -> None:
    done = CliRunner().invoke(app, words.split())
    (line,) = done.stderr.splitlines()
    assert (done.exit_code, line.startswith(f"error: {said}")) == (2, True), line
    assert "`coalesce --help`" not in line, "a hint names the command"


@pytest.mark.parametrize(
    ("model", "values", "said"),
    [
        (StoreOptions, {"endpoint_url": 5}, "--endpoint-url 5: not text"),
        (StoreOptions, {"region": "a\0"}, "--region 'a\\x00': not text in UTF-8"),
        (OutputOptions, {"quiet": 3}, "--quiet 3: neither true nor false"),
        (OutputOptions, {"stats_interval": [1]}, "--stats-interval [1]: not a number"),
        (DataSetOptions, {"bucket": "b", "prefix": ["a", "b"]}, "--prefix ['a', 'b']: not text"),
        (Settings, {"bucket": "b", "prefix": "p"}, '--prefix p: not a list; write it as ["a"'),
        (
            Settings,
            {"bucket": "b", "prefix": ["p"], "max_files": 1, "date": "x" * 99},
            f"--date {'x' * 60}…: not a day; write today, yesterday, 2026-11-22, 2026/11/22,"
            " FIRST..LAST or NOT_SET; --max-files must be at least 2",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_said_as_it_stands_in_a_file(
    model: type[Settings], values: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError) as raised:
        parse(model, values)
    assert raised.value.message.startswith(said)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1, "1"), (1024, "1KiB"), (128_000_000, "128MB"), (32 * 1024**2, "32MiB")],
)
def test_sizes_are_written_as_they_are_read(size: int, text: str) -> None:
    assert format_size(size) == text
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (0.5, "0.5s"), (60, "60s"), (300, "5m"), (86_400, "24h")]
)
def test_durations_are_written_as_they_are_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds
