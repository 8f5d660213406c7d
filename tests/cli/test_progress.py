"""How far a run is: the line fits its terminal, the pace is that of the last half minute, and no
time is promised before all is listed.
"""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.cli.progress import Pace, Progress
from coalesce.inspect.verify import Extent
from coalesce.report.account import Phase
from coalesce.report.report import Report, ScopePart

COUNTS = st.integers(0, 10**9)


@dataclass
class Night:
    """A run that is watched."""

    report: Report = field(
        default_factory=lambda: Report(
            version="1",
            run_id="r",
            started="",
            scope=ScopePart(bucket="b", prefixes=[], layout="corporate", partitions=[]),
        )
    )
    phase: Phase = Phase.JOINING
    all_listed: bool = True

    def at(self, joined: int, seen: int, size: int = 0) -> "Night":
        self.report.sources.joined, self.report.sources.seen = joined, seen
        self.report.outputs.bytes = size
        return self


HALF = Progress(
    phase="joining",
    done=6_000,
    seen=12_000,
    whole=True,
    joined=6_000,
    outputs=24,
    bytes=600_000_000,
    failures=3,
    source_rate=1234.0,
    byte_rate=98.7e6,
    left=4.9,
)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            120,
            "joining  ━━━━━━━━━━━━━━━━━━━━────────────────────  6,000/12,000 sources  1,234/s"
            "  98.7 MB/s  0:05 left  3 failed",
        ),
        (80, "joining  ━━━━────  6,000/12,000 sources  1,234/s  98.7 MB/s  0:05 left  3 failed"),
        (60, "joining  ━━───  6,000/12,000  98.7 MB/s  0:05 left  3 failed"),
        (30, "joining  ━━━────  6,000/12,000"),
        (20, "joining  6,000/12,00"),
    ],
)
def test_the_less_important_numbers_go_first(width: int, line: str) -> None:
    assert HALF.bar(width) == line
    assert len(line) <= width


@given(
    COUNTS, COUNTS, st.booleans(), st.floats(0, 1e9), st.integers(1, 200), st.sampled_from(Phase)
)
def test_the_line_fits_any_terminal(
    done: int, more: int, whole: bool, rate: float, width: int, phase: Phase
) -> None:
    now = replace(
        HALF, phase=phase.value, done=done, seen=done + more, whole=whole, source_rate=rate
    )
    assert len(now.bar(width)) <= width
    assert now.bar(width, ascii_only=True).isascii()


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_the_bar_is_as_full_as_the_run_is_far(done: int, more: int) -> None:
    bar = replace(HALF, done=done, seen=done + more).bar(120)
    full = bar.count("━")
    assert full == (full + bar.count("─")) * done // (done + more)


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    night, pace = Night(), Pace()
    pace.look(night.at(0, 1_000), 0.0)
    for second in range(1, 61):
        now = pace.look(night.at(second, 1_000, second * 5), float(second))
    assert (now.source_rate, now.byte_rate, now.left) == (1.0, 5.0, 940.0)
    for second in range(61, 91):
        now = pace.look(night.at(60 + 10 * (second - 60), 1_000), float(second))
    assert (now.source_rate, now.left) == (10.0, 64.0)


def test_no_time_is_promised_before_all_is_listed_or_anything_is_done() -> None:
    night, pace = Night(all_listed=False), Pace()
    assert pace.look(night.at(0, 10), 0.0).left is None
    listing = pace.look(night.at(5, 10), 1.0)
    assert (listing.left, "5/10+ sources" in listing.bar(80)) == (None, True)
    night.all_listed = True
    assert pace.look(night, 2.0).left == 2.0


def test_a_verification_counts_outputs_and_the_bytes_that_are_proven() -> None:
    extent, pace = Extent(found=40), Pace()
    begun = pace.look_at_check(extent, 0.0)
    assert (begun.left, "0/40+ outputs" in begun.bar(80)) == (None, True)
    extent.proven = 1
    assert pace.look_at_check(extent, 1.0).left is None
    extent.proven, extent.failed, extent.bytes = 9, 1, 5_000_000
    extent.found, extent.all_listed = 50, True
    assert pace.look_at_check(extent, 2.0).bar(80) == (
        "checking ━━━──────────────  10/50 outputs  5.0/s  2.50 MB/s  0:08 left  1 failed"
    )


def test_sources_that_are_kept_count_as_done() -> None:
    night = Night()
    night.report.sources.left["young"] = 4
    assert Pace().look(night.at(5, 10), 0.0).done == 9


def test_the_event_has_exact_numbers_and_the_line_human_ones() -> None:
    assert HALF.as_event() == {
        "type": "progress",
        "phase": "joining",
        "seen": 12_000,
        "joined": 6_000,
        "outputs": 24,
        "bytes": 600_000_000,
        "sources_per_second": 1234.0,
        "bytes_per_second": 98.7e6,
        "seconds_left": 4.9,
    }
    assert HALF.sentence() == (
        "joining: 12,000 sources found, 6,000 joined into 24 outputs, 600 MB, 1,234 sources/s,"
        " 98.7 MB/s, 0:05 left, 3 failed"
    )
