"""What a person reads on stdout."""

from __future__ import annotations

from rich.table import Table

from coalesce.report.report import Report


def summary_table(report: Report) -> Table:
    """What came of a run."""
    sources, outputs, groups = report.sources, report.outputs, report.groups
    left = ", ".join(f"{count:,} {why}" for why, count in sources.left.items() if count) or "none"
    rows = {
        "groups": f"{groups.seen:,} seen, {groups.coalesced:,} coalesced, {groups.left:,} left, {groups.leased:,} leased, {groups.failed:,} failed",
        "sources": f"{sources.seen:,} seen, {sources.joined:,} joined, {sources.deleted:,} deleted",
        "left": left,
        "outputs": f"{outputs.written:,} written, {outputs.recovered:,} recovered; {outputs.bytes:,} bytes, {outputs.records:,} records",
        "offsets": f"{report.offsets.gaps:,} gaps, {report.offsets.overlaps:,} overlaps",
        "path list": _path_list(report),
        "requests": f"{sum(report.requests.values()):,} (${report.cost_usd:.4f}); {report.retries:,} retries, {report.throttled:,} throttled",
        "stages": ", ".join(
            f"{name} {stage.seconds:.1f} s" for name, stage in report.stages.items()
        )
        + " (those under way at once added up)",
        "time": f"{report.seconds:.1f} s, CPU {report.cpu_seconds:.1f} s, peak memory {report.peak_rss_bytes // 2**20:,} MiB",
        "store": _store(report),
        "exit code": str(report.exit_code),
    }
    return pairs(rows)


def plan_table(report: Report) -> Table:
    """What a run would do, topic by topic."""
    assert report.plan is not None
    plan = report.plan
    table = Table("topic", box=None, pad_edge=False)
    for heading in ("sources", "bytes", "would be joined", "into outputs", "of bytes"):
        table.add_column(heading, justify="right")
    for topic in plan.topics:
        numbers = (topic.sources, topic.bytes, topic.joined, topic.outputs, topic.output_bytes)
        table.add_row(topic.topic, *(f"{number:,}" for number in numbers))
    left = (
        ", ".join(f"{count:,} {why}" for why, count in report.sources.left.items() if count)
        or "none"
    )
    rows = {
        "left": left,
        "path list": _path_list(report),
        "requests": f"{sum(plan.requests.values()):,} (${plan.cost_usd:.4f})",
        "expected": f"about {plan.seconds:.0f} s in one process, {plan.memory_bytes // 2**20:,} MiB of memory, {plan.bytes:,} bytes read and written",
        "exit code": str(report.exit_code),
    }
    both = Table.grid()
    both.add_row(table)
    both.add_row("")
    both.add_row(pairs(rows))
    return both


def _store(report: Report) -> str:
    """Its mode, and by which checksum its outputs are proven; merged reports of several stores have
    modes only.
    """
    checksum = report.store.capabilities.get("checksum")
    return (
        f"{report.store.mode}, checksum {checksum}"
        if checksum
        else report.store.mode or "not tried"
    )


def _path_list(report: Report) -> str:
    paths = report.path_list
    return f"{paths.before:,} characters before, {paths.after:,} after, of {paths.limit:,} at most"


def pairs(rows: dict[str, str]) -> Table:
    """Names and what there is to say of each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
