"""What a person reads: why sources were kept, how near the path list is to its limit, what is
unfinished; and nothing about what is zero.
"""

from collections.abc import Iterator

import pytest

from coalesce.cli.columns import Block
from coalesce.cli.status import status_table
from coalesce.cli.tables import kept_rows, plan_table, summary_table
from coalesce.inspect.status import Lease, ObjectTotal, Status, UnfinishedGroup
from coalesce.model import Why
from coalesce.report.report import Failure, PlanPart, Report, ScopePart, StagePart

SCOPE = ScopePart(bucket="b", prefixes=["p/"], layout="corporate", partitions=[])


def lines(table: Block) -> list[str]:
    return [" ".join(line.split()) for line in table.lines(None) if line.strip()]


def report(**more: object) -> Report:
    start = {"version": "1", "run_id": "r", "started": "", "scope": SCOPE}
    return Report.model_validate({**start, **more})


def test_the_summary_says_what_became_of_groups_and_sources() -> None:
    shown = lines(
        summary_table(
            report(
                exit_code=12,
                stopped_by="--max-groups",
                groups={"seen": 9, "coalesced": 5, "left": 1, "leased": 1, "failed": 2},
                sources={
                    "seen": 70_000,
                    "joined": 30_000,
                    "deleted": 29_000,
                    "left": {"young": 20_800, "covered": 19_200, "single": 0},
                },
                path_list={"before": 5_000_000, "after": 2_147_484},
                stages={
                    "get": StagePart(requests=20_811, seconds=333.0),
                    "check": StagePart(seconds=3.21),
                    "delete": StagePart(),
                },
            ),
            300,
        )
    )
    for line in (
        "groups 9 found, 5 joined, 1 left as they are, 1 leased by another run, 2 failed",
        "sources 70,000 found, 30,000 joined, 29,000 deleted",
        "kept 20,800 younger than --min-age 5m; run later or use --min-age 0",
        "19,200 not joined: offsets already inside an existing output (duplicates?)",
        "path list 5,000,000 characters before, 2,147,484 after: 0.10% of the longest that Hadoop"
        " can take",
        "get 20,811 requests, 16 ms each",
        "check 3.2 s of CPU",
        "store not tried",
        "next run again, or with a higher --max-groups: it takes up what is left",
        "exit code 12: stopped at a limit that you set, --max-groups",
    ):
        assert line in shown
    assert not [line for line in shown if line.startswith("delete ")]


@pytest.mark.parametrize(("processes", "words"), [(1, ""), (4, " in 4 worker processes")])
def test_the_summary_says_how_many_processes_were_at_work(processes: int, words: str) -> None:
    shown = lines(summary_table(report(processes=processes, seconds=2.5, cpu_seconds=9)))
    assert f"time 2.5 s, 9.0 s of CPU{words}, peak memory 0 MiB" in shown


def test_records_that_nobody_counted_are_not_said_to_be_none() -> None:
    shown = lines(summary_table(report(outputs={"written": 2, "bytes": 7_000})))
    assert any(line.endswith("records not counted") for line in shown)
    assert any(line.endswith("0 records") for line in lines(summary_table(report())))


def test_the_summary_says_what_was_done_for_earlier_runs() -> None:
    recovered = {"groups": 18, "outputs": 18, "sources_deleted": 1_180, "unsettled_groups": 2}
    shown = lines(summary_table(report(recovered=recovered)))
    assert (
        "recovered 18 groups of earlier runs settled, 1,180 sources deleted for them,"
        " 2 groups not settled"
    ) in shown
    assert not [line for line in lines(summary_table(report())) if line.startswith("recovered")]
    one = {"groups": 1, "sources_deleted": 1}
    assert "recovered 1 group of earlier runs settled, 1 source deleted for them" in lines(
        summary_table(report(recovered=one))
    )


def test_one_is_no_plural() -> None:
    shown = lines(summary_table(report(retries=1, stages={"get": StagePart(requests=1)})))
    assert "requests 0 ($0.0000 at list price); 1 retry, 0 throttled" in shown
    assert "get 1 request, 0 ms each" in shown


def test_a_store_is_not_said_to_keep_more_than_a_run_needs() -> None:
    shown = lines(
        summary_table(
            report(store={"mode": "full", "capabilities": {"copy_condition": False}}), 300
        )
    )
    assert "store keeps every guarantee that a run needs" in shown


def test_a_summary_says_nothing_of_the_path_list_if_nothing_was_listed() -> None:
    """`recover` lists nothing, however many objects there are."""
    shown = lines(summary_table(report(), 300))
    assert not [line for line in shown if line.startswith("path list")]


def test_a_dry_run_says_what_it_expects() -> None:
    plan = PlanPart(
        topics=[],
        requests={"GetObject": 3},
        bytes=5,
        cost_usd=0.0001,
        seconds=2,
        memory_bytes=2**27,
    )
    shown = lines(plan_table(report(plan=plan)))
    assert "would be kept none" in shown
    assert "requests 3 ($0.0001 at list price); more where the store deletes one by one" in shown
    assert (
        "forecast about 2.0 s with one process, up to 128 MiB of memory, 5 B read and written"
        in shown
    )


@pytest.mark.parametrize("why", Why)
def test_every_reason_to_keep_a_source_has_its_words(why: Why) -> None:
    ((title, words),) = kept_rows("kept", {why: 1_234}, 90)
    assert title == "kept"
    assert words.startswith("1,234 ")
    assert words != f"1,234 {why}"
    assert "{" not in words


def test_a_reason_of_a_later_version_is_shown_by_its_name() -> None:
    assert kept_rows("kept", {"moonlight": 2}, None) == [("kept", "2 moonlight")]


def found(**more: object) -> Iterator[str]:
    """The rows of a status below its totals."""
    shown = lines(status_table(Status.model_validate({"scope": SCOPE, **more}), 300))
    return (line for line in shown if line.split()[0] in ("unfinished", "runs", "open"))


def test_a_status_leaves_out_what_is_not_there() -> None:
    assert list(found(uploads=0)) == []


def test_a_status_says_what_is_unfinished() -> None:
    lease = {"owner": "o", "prefixes": [], "shard": "0/1"}
    shown = list(
        found(
            unfinished=[UnfinishedGroup(group=f"g{n}", alive=n == 0) for n in range(3)],
            leftovers=571,
            leases=[Lease(run_id=str(n), alive=n > 1, **lease) for n in range(3)],
            uploads=2,
        )
    )
    assert shown == [
        "unfinished 3 groups unfinished (1 with an active run); 571 joined objects still to delete",
        "runs 1 active, 2 ended without cleaning up",
        "open uploads 2",
    ]
    assert list(found()) == ["open uploads this store does not list them"]


def test_a_status_does_not_blame_the_store_for_a_right_that_is_missing() -> None:
    denied = Failure(code="AccessDenied", operation="ListMultipartUploads")
    assert list(found(failures=[denied])) == ["open uploads unknown: see the failures"]


def test_a_status_says_one_of_one() -> None:
    one = found(unfinished=[UnfinishedGroup(group="g", alive=False)], leftovers=1, uploads=0)
    assert list(one) == [
        "unfinished 1 group unfinished (0 with an active run); 1 joined object still to delete"
    ]


def test_a_status_shows_its_totals() -> None:
    total = ObjectTotal(count=1_200, bytes=5_000)
    shown = lines(status_table(Status(scope=SCOPE, sources=total), 300))
    assert "sources 1,200, 5.00 kB" in shown


def test_the_summary_says_what_differs_in_attributes() -> None:
    said = {"differing": 1200, "not_kept": 1, "example": "K: content-type is a/b, of the output c"}
    (line,) = (
        line for line in lines(summary_table(report(attributes=said))) if "attributes" in line
    )
    assert line == (
        "attributes 1,200 sources unlike their output; 1 output changed by the store;"
        " such as K: content-type is a/b, of the output c"
    )
    assert not [line for line in lines(summary_table(report())) if "attributes" in line]


def test_the_summary_has_an_example_of_sources_that_were_not_joined_for_their_attributes() -> None:
    said = {"example": "K: content-type is a/b, of the output c"}
    shown = lines(summary_table(report(attributes=said)))
    assert "attributes not joined, such as K: content-type is a/b, of the output c" in shown
