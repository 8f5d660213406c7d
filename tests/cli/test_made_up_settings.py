"""Whatever stands in the configuration file or is typed: settings, or one clear line and exit code
2; never a traceback.
"""

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from coalesce.cli.app import app
from coalesce.cli.log import set_up_log
from coalesce.cli.origins import file_spellings, gather, read_file
from coalesce.cli.output import Printer
from coalesce.cli.request import FILE_NAMES, Request
from coalesce.errors import CoalesceError, ConfigurationError, UsageError
from coalesce.library.files import check_writable
from coalesce.naming.days import parse_days
from coalesce.settings import Settings, as_directory, parse_duration, parse_size

NAMES = sorted([*FILE_NAMES, "buckt", "targets", "config"])
TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "",
        "-1",
        "0",
        "1",
        "9" * 400,
        "1e9",
        "inf",
        "nan",
        "128MB",
        "5m",
        "today",
        "2026-02-30",
        "2026-11-01..2026-11-03",
        "a/b",
        "s3://b/",
        "path",
        "json",
        "../",
    ]
)
SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | TEXTS
    | st.datetimes()
    | st.dates()
    | st.times()
)
VALUES = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "b"]), SCALARS, max_size=2)
)


def toml(value: Any) -> str:
    """A value as a configuration file spells it."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return (
                '"'
                + "".join(f"\\U{ord(c):08x}" for c in value.encode("utf-8", "ignore").decode())
                + '"'
            )
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + "}"
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
    return repr(value)


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """The command sets up the log of its own process."""
    root, own = logging.getLogger(), logging.getLogger("coalesce")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def read(config: Path) -> Settings:
    """All that the command makes of a file, before it talks to anybody."""
    request = Request.of(gather({}, {}, read_file(str(config), file_spellings([], FILE_NAMES)), {}))
    set_up_log(request.output)
    Printer.of(request.output)
    if request.output.report:
        check_writable(request.output.report, "--report")
    request.settings.prefixes(dt.date(2026, 11, 22))
    return request.settings


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4), st.booleans())
def test_any_value_in_any_place_of_the_file_is_taken_or_refused_with_a_clear_line(
    tmp_path: Path, values: dict[str, Any], sound: bool
) -> None:
    base = {"bucket": "b", "prefix": ["a"]} if sound else {}
    config = tmp_path / "c.toml"
    config.write_text(
        "".join(f"{name} = {toml(value)}\n" for name, value in (base | values).items()), "utf-8"
    )
    try:
        chosen = read(config)
    except (UsageError, ConfigurationError) as error:
        event("refused")
        said = error.message
    else:
        event("taken")
        said = chosen.bucket
        assert all(
            prefix.endswith("/") or chosen.whole_bucket
            for prefix in chosen.prefixes(dt.date(2026, 11, 22))
        )
    assert said.strip()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.text(alphabet='abucket="[]{}\n#.,\\u0 1', max_size=60).map(str.encode)
)
def test_any_bytes_as_a_file_are_read_or_refused_with_a_clear_line(
    tmp_path: Path, body: bytes
) -> None:
    config = tmp_path / "c.toml"
    config.write_bytes(body)
    with suppress(UsageError):
        read_file(str(config), file_spellings([], FILE_NAMES))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=max(settings.default.max_examples // 4, 10),
)
@given(
    st.lists(
        st.sampled_from(
            [
                "run",
                "plan",
                "-b",
                "-p",
                "-f",
                "-s",
                "-n",
                "-d",
                "--min-age",
                "--check",
                "--config",
                "--shard",
                "-x",
                "s3://b/p",
            ]
        )
        | TEXTS,
        max_size=6,
    )
)
def test_any_words_typed_end_in_a_clear_line(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Nothing is reached: the end is 2, 10, or what help and the demo of nothing say."""
    monkeypatch.setenv("COALESCE_ENDPOINT_URL", "http://127.0.0.1:1/nothing?there")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    result = CliRunner().invoke(app, ["plan", *words, "--no-sign-request"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 2, 10)


@given(TEXTS | st.from_regex(r"\d{1,30}(\.\d{1,5})?[kmgtKMGT]?i?[bB]?", fullmatch=True))
def test_sizes_and_durations_are_numbers_or_refused(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            number = parse(text)
        except ValueError:
            continue
        assert isinstance(number, int | float)
        assert 0 <= number < float("inf")


@given(TEXTS | st.from_regex(r"\d{4}[-/]\d\d[-/]\d\d(\.\.\d{4}-\d\d-\d\d)?", fullmatch=True))
def test_days_are_days_or_refused(text: str) -> None:
    try:
        days = parse_days(text, dt.date(2026, 11, 22))
    except ValueError:
        return
    assert list(days) == sorted(set(days))


@given(st.lists(st.from_regex(r"[ab][ab/]{0,4}", fullmatch=True), max_size=6))
def test_no_prefix_is_listed_inside_another(prefixes: list[str]) -> None:
    chosen = Settings.model_validate(
        {"bucket": "b", "prefix": prefixes, "whole_bucket": not prefixes}
    ).prefixes(dt.date(2026, 11, 22))
    for wanted in map(as_directory, prefixes):
        assert sum(wanted.startswith(prefix) for prefix in chosen) == 1
    assert set(chosen) <= set(map(as_directory, prefixes)) | {""}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("partition = 5", "--partition"),
        ('prefix = "data"', "--prefix"),
        ("stats-interval = [1]", "--stats-interval"),
        ("endpoint-url = 5", "--endpoint-url"),
        ("quiet = 3", "--quiet"),
        ('report = "a\\u0000b"', "--report"),
        ('max-size = "' + "9" * 400 + '"', "--max-size"),
        ("lease = inf", "--lease"),
        ('report = "s3://"', "s3://"),
        ('report = "s3://b/"', "s3://b/"),
        ('report = "/"', "'/'"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, line: str, said: str) -> None:
    config = tmp_path / "c.toml"
    prefix = "" if line.startswith("prefix") else 'prefix = ["a"]'
    config.write_text(f'bucket = "b"\n{prefix}\n{line}\n')
    with pytest.raises(CoalesceError) as raised:
        read(config)
    assert said in raised.value.message
