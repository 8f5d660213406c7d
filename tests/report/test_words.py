"""Numbers, failures and places in a person's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Why
from coalesce.report.failure_kinds import FailureTally
from coalesce.report.locations import Locations, locate
from coalesce.report.next_step import next_step
from coalesce.report.report import MOST_LOCATIONS, Failure, Report, ScopePart
from coalesce.report.units import clock, human_bytes, human_rate, human_seconds, human_share

_POWERS = {"B": 0, "kB": 3, "MB": 6, "GB": 9, "TB": 12, "PB": 15, "EB": 18}


@given(st.integers(0, 10**21))
def test_a_size_is_right_to_three_digits(size: int) -> None:
    number, unit = human_bytes(size).split()
    assert float(number.replace(",", "")) * 10 ** _POWERS[unit] == pytest.approx(size, rel=0.005)
    assert unit == "EB" or float(number) < 1000


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (999_499, "999 kB"), (999_500, "1.00 MB"), (12_340, "12.3 kB")],
)
def test_sizes(size: int, text: str) -> None:
    assert human_bytes(size) == text


@given(st.floats(0, 1))
def test_a_share_is_right_to_two_digits_and_never_zero_for_something(share: float) -> None:
    text = human_share(share, 1)
    if text.startswith("less than "):
        assert 0 < share < 1e-6
        return
    assert float(text.rstrip("%")) / 100 == pytest.approx(share, rel=0.051)
    assert (text == "0%") == (share == 0)


def test_shares() -> None:
    said = [human_share(part, 1) for part in (0, 0.0006, 0.001, 0.034, 0.5, 1.2)]
    assert said == ["0%", "0.060%", "0.10%", "3.4%", "50%", "120%"]
    assert human_share(1, 0) == "0%"


@pytest.mark.parametrize(
    ("seconds", "text", "clock_text"),
    [
        (0, "0.0 s", "0:00"),
        (59.94, "59.9 s", "1:00"),
        (59.96, "1 min", "1:00"),
        (61, "1 min 1 s", "1:01"),
        (3599.6, "1 h", "1:00:00"),
        (7500, "2 h 5 min", "2:05:00"),
        (90_000, "1 d 1 h", "25:00:00"),
    ],
)
def test_spans_of_time(seconds: float, text: str, clock_text: str) -> None:
    assert human_seconds(seconds) == text
    assert clock(seconds) == clock_text


def test_rates() -> None:
    assert [human_rate(*pair) for pair in ((5, 0), (1, 4), (99, 10), (12_345, 1))] == [
        "0",
        "0.2",
        "9.9",
        "12,345",
    ]


def denied(operation: str, key: str) -> Failure:
    message = f"{operation} {key!r}: 403 AccessDenied"
    hint = "Check the policy."
    return Failure(code="AccessDenied", key=key, message=message, hint=hint, operation=operation)


def test_equal_failures_are_counted_under_the_right_that_is_missing() -> None:
    failures = [
        denied("PutObject", "a"),
        denied("GetObject", "b"),
        denied("UploadPart", "c"),
        Failure(
            code="SlowDown",
            message="GetObject 'd': 503 SlowDown",
            hint="Wait.",
            operation="GetObject",
        ),
    ]
    tally = FailureTally(failures)
    assert [(count.kind.name, count.times, count.first.key) for count in tally.counts] == [
        ("AccessDenied s3:PutObject", 2, "a"),
        ("AccessDenied s3:GetObject", 1, "b"),
        ("SlowDown GetObject", 1, ""),
    ]
    assert [count.line for count in tally.repeated] == [
        "AccessDenied s3:PutObject, 2 times, first PutObject 'a': 403 AccessDenied."
        " Check the policy."
    ]
    assert (
        tally.counts[1].line == "AccessDenied: GetObject 'b': 403 AccessDenied. Check the policy."
    )


def test_a_location_is_what_goes_before_the_day_or_the_prefix() -> None:
    prefixes = ("storage/", "storage/events/")
    assert locate("storage/events/2026/11/22/x/", prefixes) == ("storage/events/", "2026/11/22")
    assert locate("2026/11/22/", prefixes) == ("", "2026/11/22")
    assert locate("storage/events/a/b/", prefixes) == ("storage/events/", "")
    assert locate("elsewhere/12026/11/22/", prefixes) == ("elsewhere/12026/11/22/", "")


def test_a_report_tells_a_bounded_number_of_locations_apart() -> None:
    locations = Locations(["p/"])
    for number in range(MOST_LOCATIONS + 5):
        locations.share_of(f"p/{number}/2026/11/22/").sources += 1
    found = locations.sorted()
    assert len(found) == MOST_LOCATIONS + 1
    assert sum(one.sources for one in found) == MOST_LOCATIONS + 5
    assert [one.sources for one in found if one.location == "(others)"] == [5]


def report(code: int, **more: object) -> Report:
    scope = ScopePart(bucket="b", prefixes=[], layout="corporate", partitions=[])
    start = {"version": "1", "run_id": "r", "started": "", "scope": scope, "exit_code": code}
    return Report.model_validate({**start, **more})


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (report(0), "nothing"),
        (report(0, sources={"joined": 5, "deleted": 5}), "nothing"),
        (report(0, sources={"joined": 5}), "run without --no-delete: it deletes the 5 joined"),
        (report(0, sources={"left": {Why.YOUNG: 7}}), "the next run takes the 7 sources"),
        (report(12, stopped_by="--deadline"), "run again, or with a higher --deadline"),
        (report(12), "run again, or with a higher limit"),
        (report(75), "run again"),
        (report(4), "docs/exit-codes.md"),
        (report(77), "see the failures"),
    ],
)
def test_a_summary_ends_with_what_to_do_next(one: Report, words: str) -> None:
    assert words in next_step(one)
