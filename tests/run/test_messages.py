"""What a run and its workers say to each other arrives as it was sent, and counts once."""

import asyncio
import socket

import pytest

from coalesce.errors import ContentError, LeaseLost
from coalesce.model import CommittedOutput, GroupId, Kept, Plan, Why
from coalesce.protocol.outcome import GroupOutcome
from coalesce.report.usage import ProcessUsage
from coalesce.run.messages import GroupTask, Halt, Reply, TaskEnd, receive, send

KEPT = Kept("data/t_0_1-1.jsonl.gz", Why.DELETE_REFUSED)
SINGLE = Kept("data/t_0_9-9.jsonl.gz", Why.SINGLE)
OUTPUT = CommittedOutput(
    key="data/t_0_0_1.jsonl.gz",
    sources=2,
    size=100,
    records=2,
    first=0,
    last=1,
    checksum="crc",
    deleted=1,
    gone=1,
    freed=21,
    kept=(KEPT,),
)


async def test_messages_arrive_in_order_and_as_they_were_sent() -> None:
    failure = ContentError("cut short", key="data/t_0_2-2.jsonl.gz", request_id="r")
    sent = [
        GroupTask(1, Plan(GroupId("data/", "t", 0), (), (SINGLE,)), frozenset({"taken"})),
        Halt(143),
        Reply(1, ProcessUsage(cpu_seconds=1.5), False, 0, OUTPUT),
        Reply(
            1,
            ProcessUsage(),
            True,
            12,
            TaskEnd((KEPT,), (failure,), True, True, LeaseLost("over"), "unlike"),
        ),
    ]
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_unix_connection(sock=ours)
    reader, other = await asyncio.open_unix_connection(sock=theirs)
    for message in sent:
        send(writer, message)
    arrived = [await receive(reader) for _ in sent]
    assert arrived[:3] == sent[:3]
    end = arrived[3].news
    assert (end.kept, end.unsettled, end.stale, end.unlike) == ((KEPT,), True, True, "unlike")
    assert [(type(error), error.message, error.key) for error in (*end.failures, end.fatal)] == [
        (ContentError, "cut short", "data/t_0_2-2.jsonl.gz"),
        (LeaseLost, "over", ""),
    ]
    writer.close()
    with pytest.raises(asyncio.IncompleteReadError):
        await receive(reader)
    other.close()


def test_a_source_that_a_committed_output_keeps_counts_once() -> None:
    """The output is sent when it is committed, and the whole outcome at the end."""
    sent: list[CommittedOutput] = []
    worker = GroupOutcome(sent.append)
    worker.kept.append(SINGLE)
    worker.add(OUTPUT)
    worker.stale = True
    end = TaskEnd.of(worker, None)
    run = GroupOutcome(lambda _: None)
    for output in sent:
        run.add(output)
    end.add_to(run)
    assert (run.kept, run.outputs, run.stale) == ([SINGLE, KEPT], 1, True)
