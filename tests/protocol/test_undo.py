"""An undo gives every source back as it was, and only then is the output gone: wherever it is
killed, whichever answer it never sees, and whoever else is at work.
"""

import asyncio
import gzip
import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from coalesce import errors
from coalesce.errors import Unavailable
from coalesce.protocol import giving, lease
from coalesce.protocol.record import UNDO_MARK
from coalesce.run.undoing import Wanted
from coalesce.settings import Settings
from coalesce.storage.base import Deleted, DeleteResult
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.auditor import sources
from support.buckets import contents, data_in, entries_in, unfinished_in
from support.nights import at, audited, dead_run, remove, rewrite
from support.runs import new_run
from support.scenarios import (
    AuditedBucket,
    Killed,
    copied,
    corporate,
    dying,
    manifests,
    readable,
)
from support.schedules import SEEDS, Tally
from support.settings import settings
from support.turns import Turns
from support.undos import (
    ONE,
    SCENES,
    Scene,
    check_given_back,
    dying_undo,
    joined,
    outputs_in,
    requests_of,
    undo,
)

RECORD = "_coalesce/groups/data/db.core.topic_0"
OUTPUT = "data/db.core.topic_0_0_49.jsonl.gz"
MIDDLE = "data/db.core.topic_0_20-29.jsonl.gz"


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An undo record names two uploads at a time."""
    monkeypatch.setattr(giving, "UNDO_PAGE", 2)


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest) -> Scene:
    return SCENES[request.param]


# --- what is given back


def odd(bucket: MemoryBucket) -> None:
    """Sources of several members, without a last newline, of nothing, and a long one."""
    bodies = [
        gzip.compress(b"a\n", mtime=0) + gzip.compress(b"b\nc\n", mtime=0),
        gzip.compress(b"no newline", mtime=0),
        gzip.compress(b"only a newline is its own member", mtime=0) + gzip.compress(b"\n", mtime=0),
        gzip.compress(b"", mtime=0),
        gzip.compress(b"", mtime=0) + gzip.compress(b"after nothing\n", mtime=0),
        gzip.compress(b"long %d\n" % 10**9 * 5000, mtime=0),
        gzip.compress(b"\n", mtime=0),
    ]
    for n, body in enumerate(bodies):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body)


def whole(bucket: MemoryBucket) -> None:
    """The same without members that hold nothing, of which no byte is left."""
    odd(bucket)
    for n in (3, 4):
        bucket.remove(f"data/t_0_{n}-{n}.jsonl.gz")


def nothing(bucket: MemoryBucket) -> None:
    for n in range(3):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"", mtime=0))


def lines(bucket: MemoryBucket) -> None:
    for n, body in enumerate((b"one\ntwo\n", b"three", b"four\n\n", b"\n")):
        bucket.store(f"data/t_0_{n}-u_1_{n + 7}.txt", body)


def large(bucket: MemoryBucket) -> None:
    """Sources of several parts each, where a part has 100 bytes."""
    for n in range(3):
        text = b"".join(b"%d %d\n" % (n, random.Random(i).randrange(10**9)) for i in range(200))
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(text, mtime=0))


def described(bucket: MemoryBucket) -> None:
    """Sources that say much of themselves, the last one something else."""
    for n in range(4):
        bucket.store(
            f"data/t_0_{n}-{n}.jsonl.gz",
            gzip.compress(b"%d\n" % n, mtime=0),
            {"team": "a" if n < 3 else "b"},
            "application/x-made-up",
            storage_class="STANDARD_IA",
            headers={"cache-control": "no-cache"} if n < 3 else {"content-encoding": "gzip"},
            tags={"owner": "x"} if n != 1 else {},
        )


EXACT: dict[str, tuple[Callable[[MemoryBucket], None], dict[str, object]]] = {
    "members": (whole, {"gzip": "members"}),
    "unchecked members": (large, {"check": False}),
    "lines": (lines, {"layout": "manifest"}),
    "unchecked lines": (manifests, {"layout": "manifest", "check": False}),
    "large members": (large, {"gzip": "members"}),
    "copied by the store": (copied, {"check": False}),
}
SAME_CONTENT = {
    "one member": (odd, {}),
    "members that hold nothing": (odd, {"gzip": "members"}),
    "sources that hold nothing": (nothing, {}),
    "members of nothing": (nothing, {"gzip": "members"}),
    "large, in one member": (large, {}),
    "attributes": (described, {}),
}


@pytest.mark.parametrize("name", [*EXACT, *SAME_CONTENT])
async def test_what_was_joined_is_given_back(name: str) -> None:
    """To the byte where the output has the sources' bytes: else with the same content."""
    fill, more = (EXACT | SAME_CONTENT)[name]
    bucket = audited(fill)
    bucket.min_part_bytes, bucket.part_bytes = (1000, 1000) if "copied" in name else (100, 100)
    before = dict(bucket.objects)
    report = await new_run(MemoryStore(bucket), settings(**more)).coalesce()
    assert report.exit_code == 0, report.failures
    (output,) = outputs_in(bucket)
    size = len(bucket.objects[output].data)
    bucket.now += 3600
    bucket.audit.undoing = True
    report = await undo(bucket)
    assert report.exit_code == 0, report.failures
    assert report.undone.model_dump() == {"outputs": 1, "sources": len(before), "bytes": size}
    check_given_back(bucket, before, exact=name in EXACT)


async def test_a_run_after_an_undo_makes_the_same_outputs(scene: Scene) -> None:
    bucket, _ = await joined(scene)
    made = {key: readable({key: held.data}) for key, held in data_in(bucket.objects).items()}
    made.pop(scene.left, None)
    assert (await undo(bucket, chosen=scene.settings)).exit_code == 0
    bucket.now += 3600
    weaker = scene.settings.accept_weaker
    chosen = settings(**scene.joined, accept_weaker=weaker)
    assert (await new_run(MemoryStore(bucket), chosen).coalesce()).exit_code == 0
    again = {key: readable({key: held.data}) for key, held in data_in(bucket.objects).items()}
    assert again == made
    bucket.audit.check_once()


async def test_what_is_given_back_can_be_joined_and_given_back_again() -> None:
    bucket, before = await joined(SCENES[ONE])
    for _ in range(3):
        assert (await undo(bucket)).exit_code == 0
        check_given_back(bucket, before)
        bucket.now += 3600
        assert (await new_run(MemoryStore(bucket), settings()).coalesce()).outputs.written == 1
        bucket.now += 3600


async def test_only_outputs_that_are_wanted_are_given_back() -> None:
    bucket = audited(lambda bucket: corporate(bucket, groups=2, sources=5))
    first = await new_run(MemoryStore(bucket), settings(partition=[0])).coalesce()
    await new_run(MemoryStore(bucket), settings()).coalesce()
    bucket.audit.undoing = True
    other = "data/db.core.topic_1_0_49.jsonl.gz"
    assert (await undo(bucket, wanted=Wanted(run_id=first.run_id))).undone.outputs == 1
    assert outputs_in(bucket) == [other]
    assert (await undo(bucket, wanted=Wanted(run_id="another"))).undone.outputs == 0
    assert (await undo(bucket, wanted=Wanted((other,)))).undone.outputs == 1
    assert outputs_in(bucket) == []
    bucket.audit.check_quiet()


async def test_an_output_that_nothing_is_known_of_is_told_and_stays() -> None:
    bucket, _ = await joined(SCENES[ONE])
    held = contents(bucket)
    with bucket.audit.others():
        for key in [key for key in bucket.objects if key.startswith("_coalesce/ledger/")]:
            bucket.remove(key)
    report = await undo(bucket, wanted=Wanted((OUTPUT,)))
    assert (report.exit_code, [failure.key for failure in report.failures]) == (1, [OUTPUT])
    assert "ledger" in report.failures[0].message
    assert data_in(contents(bucket)) == data_in(held)


async def test_an_undo_is_planned_without_a_write() -> None:
    bucket, _ = await joined(SCENES["two outputs of a group"])
    changes, store = bucket.changes, MemoryStore(bucket)
    report = await new_run(store, settings()).plan_undo(Wanted())
    assert (report.exit_code, bucket.changes) == (0, changes)
    assert report.plan is not None
    (topic,) = report.plan.topics
    assert (topic.outputs, topic.sources) == (2, 6)
    planned = report.plan.requests
    real = MemoryStore(bucket)
    assert (await undo(bucket, real)).exit_code == 0
    for name in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"):
        assert planned[name] == 6 <= real.usage.requests[name]


# --- deaths, and answers that are lost


async def finish(bucket: AuditedBucket, scene: Scene, command: str, context: str) -> None:
    """A run in between, which leaves alone what an undo has begun; then whatever finishes it."""
    bucket.now += 1000
    held = contents(bucket)
    begun = held.get(RECORD, b"").startswith(UNDO_MARK)
    if begun:
        report = await new_run(MemoryStore(bucket), scene.settings).coalesce()
        assert data_in(contents(bucket)) == data_in(held), context
        assert [failure.code for failure in report.failures] == ["UndoUnfinished"], context
        assert report.exit_code == 1, context
        bucket.now += 1000
    run = new_run(MemoryStore(bucket), scene.settings)
    report = await (run.recover() if command == "recover" and begun else run.undo(Wanted()))
    assert report.exit_code == 0, f"{context}: {report.failures}"
    if command == "recover" and begun:
        bucket.now += 1000
        assert (await undo(bucket, chosen=scene.settings)).exit_code == 0, context
    bucket.audit.check(context)


@pytest.mark.parametrize(
    "answered", [False, True], ids=["before the store acts", "with the answer lost"]
)
async def test_killed_at_any_request_the_next_undo_or_recover_finishes_it(
    scene: Scene, answered: bool, tally: Tally
) -> None:
    tried = await requests_of(scene)
    tally("crash points", len(tried))
    for number, request in tried:
        bucket, before = await joined(scene)
        context = f"killed at request {number}: {request.operation} {request.key}"
        await dying_undo(dying(MemoryStore(bucket), number, answered=answered), scene.settings)
        bucket.audit.check(context)
        await finish(bucket, scene, ("undo", "recover")[number % 2], context)
        check_given_back(bucket, before, context)


async def test_killed_again_and_again_it_is_finished_in_the_end(tally: Tally) -> None:
    scene = SCENES["two outputs of a group"]
    requests = len(await requests_of(scene)) + 60  # those of the probe
    tally("crash points", 3 * 4 * SEEDS)
    for seed in range(4 * SEEDS):
        chance = random.Random(seed)
        bucket, before = await joined(scene)
        for _ in range(3):
            store = MemoryStore(bucket)
            number, answered = chance.randint(1, requests), chance.random() < 0.5
            await dying_undo(dying(store, number, answered=answered), scene.settings)
            bucket.audit.check(f"seed {seed}")
            bucket.now += 1000
        await finish(bucket, scene, "undo", f"seed {seed}")
        check_given_back(bucket, before, f"seed {seed}")


async def test_an_answer_that_is_lost_does_no_harm(scene: Scene, tally: Tally) -> None:
    tried = await requests_of(scene)
    tally("lost answers", len(tried))
    for number, request in tried:
        bucket, before = await joined(scene)
        store = MemoryStore(bucket)

        async def after(seen: Request, number: int = number) -> None:
            if seen.number == number:
                raise Unavailable("the connection broke", key=seen.key, operation=seen.operation)

        store.after = after
        context = f"answer lost of request {number}: {request.operation} {request.key}"
        report = await undo(bucket, store, scene.settings)
        assert report.exit_code in (0, 1, 10, 75), context
        bucket.audit.check(context)
        await finish(bucket, scene, "undo", context)
        check_given_back(bucket, before, context)


@pytest.mark.parametrize(
    "fault", [errors.Unavailable, errors.AccessDenied, errors.Conflict, errors.NotFound]
)
async def test_a_request_that_is_refused_does_no_harm(
    fault: type[errors.StorageError], tally: Tally
) -> None:
    scene = SCENES[ONE]
    tried = await requests_of(scene)
    tally("refusals", len(tried))
    for number, request in tried:
        bucket, before = await joined(scene)
        store = MemoryStore(bucket)

        async def refuse(seen: Request, number: int = number) -> None:
            if seen.number == number:
                raise fault("made up", key=seen.key, operation=seen.operation)

        store.before = refuse
        context = f"refused at request {number}: {request.operation} {request.key}"
        await undo(bucket, store, scene.settings)
        bucket.audit.check(context)
        bucket.now += 1000
        assert (await undo(bucket, chosen=scene.settings)).exit_code == 0, context
        check_given_back(bucket, before, context)


async def test_an_output_that_is_named_again_after_a_death_is_no_failure() -> None:
    bucket, before = await joined(SCENES[ONE])
    await dead_undo(bucket, "CompleteMultipartUpload", MIDDLE)
    report = await undo(bucket, wanted=Wanted((OUTPUT,)))
    assert (report.exit_code, report.undone.outputs) == (0, 1), report.failures
    check_given_back(bucket, before)


# --- others at work


def process(
    bucket: MemoryBucket, chosen: Settings, turns: Turns, *, undoes: bool, leap: int = 0
) -> "asyncio.Task[object]":
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        bucket.now += leap
        await turns.before(request)

    store.before = before
    clock = {} if leap else {"clock": lambda: bucket.now}
    run = new_run(store, chosen, **clock)
    return asyncio.create_task(run.undo(Wanted()) if undoes else run.coalesce())


@pytest.mark.parametrize("others", ["another undo", "a run"])
@pytest.mark.parametrize("respected", [False, True], ids=["leases ignored", "leases kept"])
async def test_rivals_lose_and_repeat_nothing(
    scene: Scene, others: str, respected: bool, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """In any order of their requests, while a producer adds a source."""
    tally("interleavings", SEEDS)
    for seed in range(SEEDS):
        bucket, _ = await joined(scene)
        turns = Turns(seed, bucket)
        chosen = scene.settings
        with monkeypatch.context() as time:
            if respected:
                clock = SimpleNamespace(
                    sleep=turns.sleep,
                    create_task=asyncio.create_task,
                    gather=asyncio.gather,
                    timeout=asyncio.timeout,
                )
                time.setattr(lease, "asyncio", clock)
            leap = 0 if respected else 100
            both = [
                process(bucket, chosen, turns, undoes=True, leap=leap),
                process(bucket, chosen, turns, undoes=others != "a run", leap=leap),
            ]
            await turns.give_until(both)  # type: ignore[arg-type]
        bucket.audit.check(f"seed {seed}")
        for done in both:
            assert done.result().exit_code in (0, 1, 11, 75), f"seed {seed}"  # type: ignore[attr-defined]
        bucket.now += 1000
        assert (await undo(bucket, chosen=chosen)).exit_code == 0, f"seed {seed}"
        assert outputs_in(bucket) == [], f"seed {seed}"
        bucket.audit.check_once(f"seed {seed}")
        assert unfinished_in(bucket.objects) == [], f"seed {seed}"
        assert bucket.uploads == {}, f"seed {seed}"


@pytest.mark.parametrize(
    "answered", [False, True], ids=["before its request", "with its answer under way"]
)
@pytest.mark.parametrize("respected", [False, True], ids=["lease ignored", "lease respected"])
async def test_an_undo_that_was_frozen_and_overtaken_does_no_harm_when_it_wakes_up(
    scene: Scene, respected: bool, answered: bool, tally: Tally
) -> None:
    tried = await requests_of(scene)
    tally("frozen undos", len(tried))
    for number, request in tried:
        context = f"frozen at request {number}: {request.operation} {request.key}"
        bucket, before = await joined(scene)
        thaw, frozen = asyncio.Event(), asyncio.Event()

        async def freeze(
            seen: Request,
            number: int = number,
            thaw: asyncio.Event = thaw,
            frozen: asyncio.Event = frozen,
        ) -> None:
            if seen.number >= number:
                frozen.set()
                await thaw.wait()

        sleeper = MemoryStore(bucket)
        if answered:
            sleeper.after = freeze
        else:
            sleeper.before = freeze
        clock = {"clock": lambda bucket=bucket: bucket.now} if respected else {}
        task = asyncio.create_task(undo(bucket, sleeper, scene.settings, **clock))
        await frozen.wait()
        bucket.now += 1000
        try:
            report = await undo(bucket, chosen=scene.settings)
        finally:
            thaw.set()
        assert report.exit_code == 0, f"{context}: {report.failures}"
        bucket.audit.check(context)
        assert (await task).exit_code in (0, 1, 10, 11, 75), context
        bucket.audit.check(context)
        bucket.now += 1000
        assert (await undo(bucket, chosen=scene.settings)).exit_code == 0, context
        check_given_back(bucket, before, context)


@pytest.mark.parametrize("listed", [True, False], ids=["", "on a store that lists no uploads"])
async def test_an_upload_of_an_overtaken_undo_never_becomes_a_source(listed: bool) -> None:
    """Given back and joined again meanwhile, its records would be there twice."""
    bucket, _ = await joined(SCENES["members as they are"])
    sleeper, thaw, frozen = MemoryStore(bucket), asyncio.Event(), asyncio.Event()

    async def freeze(seen: Request) -> None:
        if seen.operation == "CompleteMultipartUpload" and seen.key == MIDDLE:
            frozen.set()
            await thaw.wait()

    sleeper.before = freeze
    task = asyncio.create_task(undo(bucket, sleeper))
    await frozen.wait()
    bucket.now += 1000
    store = MemoryStore(bucket)

    async def refuse(seen: Request) -> None:
        if seen.operation == "ListMultipartUploads" and not listed:
            raise errors.NotImplementedByStore("made up", key=seen.key)

    store.before = refuse
    assert (await undo(bucket, store)).exit_code == 0
    assert bucket.uploads == {}
    bucket.now += 1000
    assert (await new_run(MemoryStore(bucket), settings()).coalesce()).outputs.written == 1
    thaw.set()
    assert (await task).exit_code in (1, 75)
    assert sources(bucket.objects) == []
    bucket.audit.check_once()


# --- names that are taken


async def test_a_name_that_the_same_content_has_counts_as_given_back() -> None:
    bucket, before = await joined(SCENES[ONE])
    text = gzip.decompress(before[MIDDLE].data)
    body = gzip.compress(text[:5], mtime=0) + gzip.compress(text[5:], mtime=0)
    with bucket.audit.others():
        bucket.store(MIDDLE, body, content_type="application/gzip")
    report = await undo(bucket)
    assert (report.exit_code, report.undone.sources) == (0, 5)
    assert bucket.objects[MIDDLE].data == body
    check_given_back(bucket, before)


async def test_a_name_that_other_content_has_costs_nothing_and_is_told() -> None:
    bucket, _ = await joined(SCENES[ONE])
    with bucket.audit.others():
        bucket.store(MIDDLE, gzip.compress(b"another\n"))
    held, store = contents(bucket), MemoryStore(bucket)

    async def before(seen: Request) -> None:
        assert (seen.operation, seen.key) != ("PutObject", RECORD)

    store.before = before
    report = await undo(bucket, store)
    assert (report.exit_code, [failure.code for failure in report.failures]) == (1, ["KeyTaken"])
    assert report.failures[0].key == MIDDLE
    assert contents(bucket) == held
    bucket.audit.check_once()


TAKEN = gzip.compress(b"another\n")


def taking(bucket: AuditedBucket) -> MemoryStore:
    """Right before the third source is completed another object takes its name."""

    def take() -> None:
        with bucket.audit.others():
            bucket.store(MIDDLE, TAKEN)

    return at(MemoryStore(bucket), "CompleteMultipartUpload", MIDDLE, take)


def check_taken_back(bucket: AuditedBucket, context: str = "") -> None:
    """Its own sources are gone, the other's object and the output are there."""
    assert sources(bucket.objects) == [MIDDLE], context
    assert bucket.objects[MIDDLE].data == TAKEN, context
    assert outputs_in(bucket) == [OUTPUT], context
    bucket.audit.check_quiet(context)


@pytest.mark.parametrize("mode", ["single", "members"])
async def test_what_was_begun_is_taken_back_when_a_name_is_taken_meanwhile(mode: str) -> None:
    bucket, _ = await joined(Scene(SCENES[ONE].fill, {"gzip": mode}))
    report = await undo(bucket, taking(bucket))
    assert (report.exit_code, [failure.code for failure in report.failures]) == (1, ["KeyTaken"])
    check_taken_back(bucket)


async def test_killed_while_it_is_taken_back_the_next_one_takes_it_back(tally: Tally) -> None:
    left, number = True, 0
    while left:
        bucket, _ = await joined(SCENES[ONE])
        store, since = taking(bucket), 0

        async def after(_: Request, bucket: AuditedBucket = bucket, number: int = number) -> None:
            nonlocal since
            since += MIDDLE in bucket.objects
            if since > number:
                raise Killed

        store.after = after
        left = await dying_undo(store, settings()) is None
        bucket.audit.check(f"killed after {number}")
        bucket.now += 1000
        await new_run(MemoryStore(bucket), settings()).recover()
        check_taken_back(bucket, f"killed after {number}")
        number += 1
    tally("crash points", number)
    assert number > 10


async def test_sources_that_were_there_before_an_undo_that_is_taken_back_stay() -> None:
    bucket, before = await joined(SCENES["a source that was never deleted"])
    last = "data/db.core.topic_0_40-49.jsonl.gz"
    store = at(
        MemoryStore(bucket),
        "CompleteMultipartUpload",
        last,
        lambda: bucket.store(last, gzip.compress(b"another\n")),
    )
    report = await undo(bucket, store)
    assert [failure.code for failure in report.failures] == ["KeyTaken"]
    assert sources(bucket.objects) == [MIDDLE, last]
    assert bucket.objects[MIDDLE] == before[MIDDLE]
    assert outputs_in(bucket) == [OUTPUT]


# --- outputs that are not what they were


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "lengthened": lambda data: data + gzip.compress(b"more\n", mtime=0),
    "replaced": lambda _: gzip.compress(b"theirs\n", mtime=0),
    "a bit flipped": flip,
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("shown", ["none", "as it was"])
@pytest.mark.parametrize("mode", ["single", "members"])
async def test_of_a_damaged_output_nothing_is_given_back_or_deleted(
    how: str, shown: str, mode: str
) -> None:
    """Whatever checksum the store shows of it."""
    bucket, _ = await joined(Scene(SCENES[ONE].fill, {"gzip": mode}))
    data = DAMAGES[how](bucket.objects[OUTPUT].data)
    rewrite(bucket, OUTPUT, data, None if shown == "as it was" else {})
    held = contents(bucket)
    report = await undo(bucket)
    assert report.exit_code == 4
    unseen = (how, shown) == ("a bit flipped", "as it was")  # until it is read
    assert contents(bucket).items() >= held.items()
    assert unseen or contents(bucket) == held
    bucket.audit.check()


@pytest.mark.parametrize("how", [*DAMAGES, "deleted"])
async def test_an_output_that_is_damaged_between_a_death_and_the_next_costs_nothing(
    how: str, tally: Tally
) -> None:
    """What was given back stays, the record too, and a person has to look."""
    scene = SCENES[ONE]
    tried = await requests_of(scene)
    tally("crash points", len(tried))
    for number, request in tried:
        bucket, _ = await joined(scene)
        await dying_undo(dying(MemoryStore(bucket), number, answered=True), scene.settings)
        if OUTPUT not in bucket.objects or RECORD not in bucket.objects:
            continue
        context = f"killed at request {number}: {request.operation} {request.key}"
        if how == "deleted":
            remove(bucket, OUTPUT)
        else:
            rewrite(bucket, OUTPUT, DAMAGES[how](bucket.objects[OUTPUT].data), {})
        held = data_in(contents(bucket))
        for _ in range(2):
            bucket.now += 1000
            await undo(bucket, chosen=scene.settings)
            bucket.audit.check(context)
            assert data_in(contents(bucket)).items() >= held.items(), context


@pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload"])
async def test_an_output_that_changes_while_it_is_given_back_is_not_deleted(operation: str) -> None:
    bucket, _ = await joined(SCENES[ONE])
    store = at(
        MemoryStore(bucket),
        operation,
        "data/",
        lambda: rewrite(bucket, OUTPUT, gzip.compress(b"theirs\n")),
    )
    report = await undo(bucket, store)
    assert report.exit_code in (1, 4)
    assert gzip.decompress(bucket.objects[OUTPUT].data) == b"theirs\n"
    assert RECORD in bucket.objects


async def test_a_source_that_vanishes_again_keeps_the_output() -> None:
    bucket, before = await joined(SCENES[ONE])
    store = at(
        MemoryStore(bucket),
        "CompleteMultipartUpload",
        "data/db.core.topic_0_40-49",
        lambda: remove(bucket, "data/db.core.topic_0_0-9.jsonl.gz"),
    )
    report = await undo(bucket, store)
    assert (report.exit_code, outputs_in(bucket)) == (1, [OUTPUT])
    bucket.now += 1000
    assert (await undo(bucket)).exit_code == 0
    check_given_back(bucket, before)


async def test_a_source_that_is_stored_otherwise_than_it_was_sent_keeps_the_output() -> None:
    """On a store that keeps no checksum nothing but reading it again shows that."""
    scene = SCENES["a store that keeps no checksums"]
    bucket, _ = await joined(scene)

    def spoil() -> None:
        held = bucket.objects[MIDDLE]
        rewrite(bucket, MIDDLE, flip(held.data), {})

    store = at(MemoryStore(bucket), "CompleteMultipartUpload", MIDDLE, spoil, after=True)
    report = await undo(bucket, store, scene.settings)
    assert (report.exit_code, outputs_in(bucket)) == (4, [OUTPUT])


@pytest.mark.parametrize("ignores", ["", "delete-many-etag", "delete-if-match delete-many-etag"])
async def test_an_output_that_is_replaced_at_the_last_moment_stays(ignores: str) -> None:
    """Between the look that proves it and the delete."""
    scene = Scene(SCENES[ONE].fill, ignores=ignores)
    bucket, _ = await joined(scene)
    store, deleting = MemoryStore(bucket), False

    async def before(seen: Request) -> None:
        nonlocal deleting
        if seen.operation == "PutObject" and seen.key == RECORD and outputs_in(bucket):
            deleting = len(sources(bucket.objects)) == 5
        elif deleting and seen.key == OUTPUT:
            rewrite(bucket, OUTPUT, gzip.compress(b"theirs\n"))
            deleting = False

    store.before = before
    await undo(bucket, store, scene.settings)
    assert gzip.decompress(bucket.objects[OUTPUT].data) == b"theirs\n"
    assert len(sources(bucket.objects)) == 5


async def dead_undo(bucket: AuditedBucket, operation: str, key: str, times: int = 1) -> None:
    """An undo dies right after its request number `times` of this kind has had its effect."""
    store, met = MemoryStore(bucket), 0

    async def before(_: Request) -> None:
        if met == times:
            raise Killed

    async def after(request: Request) -> None:
        nonlocal met
        met += request.operation == operation and request.key.startswith(key)
        if met == times:
            raise Killed

    store.before, store.after = before, after
    assert await dying_undo(store, settings()) is None
    bucket.now += 1000


async def test_a_run_leaves_alone_what_an_undo_has_begun() -> None:
    bucket, before = await joined(SCENES[ONE])
    await dead_undo(bucket, "CompleteMultipartUpload", MIDDLE)
    await finish(bucket, SCENES[ONE], "recover", "")
    check_given_back(bucket, before)


async def test_an_undo_that_was_frozen_before_its_first_upload_is_named_writes_nothing() -> None:
    """Another one has finished meanwhile, and a run has joined everything again."""
    bucket, _ = await joined(SCENES[ONE])
    sleeper, thaw, frozen = MemoryStore(bucket), asyncio.Event(), asyncio.Event()
    uploads = 0

    async def freeze(seen: Request) -> None:
        nonlocal uploads
        uploads += seen.operation == "CreateMultipartUpload" and seen.key.startswith("data/")
        if uploads == 1:
            frozen.set()
            await thaw.wait()

    sleeper.before = freeze
    task = asyncio.create_task(undo(bucket, sleeper))
    await frozen.wait()
    bucket.now += 1000
    assert (await undo(bucket)).exit_code == 0
    bucket.now += 1000
    assert (await new_run(MemoryStore(bucket), settings()).coalesce()).outputs.written == 1
    thaw.set()
    await task
    assert sources(bucket.objects) == []
    bucket.audit.check_once()


@pytest.mark.parametrize("vanished", [False, True], ids=["replaced", "and another has vanished"])
async def test_once_the_output_may_be_deleted_nothing_is_taken_back(vanished: bool) -> None:
    """Its delete may still be on its way: only the sources hold the records for certain."""
    bucket, _ = await joined(SCENES[ONE])
    store, lost = MemoryStore(bucket), 0

    async def before(seen: Request) -> None:
        nonlocal lost
        if seen.operation == "DeleteObjects" and seen.key == OUTPUT:
            lost += 1
        if lost:
            raise Killed

    store.before = before
    assert await dying_undo(store, settings()) is None
    bucket.now += 1000
    with bucket.audit.others():
        bucket.store(MIDDLE, gzip.compress(b"another\n"))
    if vanished:
        remove(bucket, "data/db.core.topic_0_0-9.jsonl.gz")
    for _ in range(2):
        await undo(bucket)
        bucket.now += 1000
        assert len(sources(bucket.objects)) == 5
        assert outputs_in(bucket) == [OUTPUT]
        assert RECORD in bucket.objects


# --- refusals, and runs that died before


class KeepsOutputs(MemoryStore):
    """The role may not delete outputs."""

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        if key == OUTPUT:
            return DeleteResult(key, Deleted.REFUSED, "AccessDenied", "not allowed")
        return await super().delete(key, etag=etag)

    async def delete_many(self, targets: "list[tuple[str, str]]") -> list[DeleteResult]:  # type: ignore[override]
        return [await self.delete(key, etag=etag) for key, etag in targets]


async def test_an_output_that_may_not_be_deleted_is_told_and_finished_later() -> None:
    bucket, before = await joined(SCENES[ONE])
    report = await undo(bucket, KeepsOutputs(bucket))
    assert [failure.code for failure in report.failures] == ["AccessDenied"]
    assert (outputs_in(bucket), len(sources(bucket.objects))) == ([OUTPUT], 5)
    bucket.now += 1000
    assert (await undo(bucket)).exit_code == 0
    check_given_back(bucket, before)


async def test_what_a_dead_run_left_is_finished_first_and_then_given_back() -> None:
    bucket = audited(SCENES[ONE].fill)
    before = dict(bucket.objects)
    await dead_run(bucket, "CompleteMultipartUpload", "data/")
    bucket.audit.undoing = True
    report = await undo(bucket)
    assert (report.exit_code, report.recovered.outputs, report.undone.outputs) == (0, 1, 1)
    check_given_back(bucket, before)


async def test_an_undo_that_is_stopped_finishes_the_output_that_it_has_begun() -> None:
    bucket, before = await joined(SCENES["two outputs of a group"])
    store = MemoryStore(bucket)
    run = new_run(store, settings())
    at(store, "CompleteMultipartUpload", "data/db.core.topic_0", lambda: run.interrupt(143))
    report = await run.undo(Wanted())
    assert (report.exit_code, report.undone.outputs) == (143, 1)
    assert len(outputs_in(bucket)) == 1
    assert unfinished_in(bucket.objects) == []
    bucket.now += 1000
    assert (await undo(bucket)).exit_code == 0
    check_given_back(bucket, before)


async def test_entries_of_uploads_that_never_became_outputs_do_not_confuse_it() -> None:
    """Beside the output's own."""
    bucket, before = await joined(SCENES[ONE])
    (key,) = (key for key in bucket.objects if key.startswith("_coalesce/ledger/"))
    text = gzip.decompress(bucket.objects[key].data)
    header, _, rest = text.partition(b"\n")
    assert entries_in([key]) == [OUTPUT]
    upload = b'"upload_id":"upload-'
    other = header.replace(upload, b'"upload_id":"stray-').replace(b'"size":', b'"size":1')
    import hashlib
    import json

    name = hashlib.sha256(json.loads(other)["upload_id"].encode()).hexdigest()[:16]
    stray = f"_coalesce/ledger/{OUTPUT}.{name}.jsonl.gz"
    with bucket.audit.others():
        bucket.store(stray, gzip.compress(other + b"\n" + rest))
    report = await undo(bucket)
    assert report.exit_code == 0, report.failures
    bucket.remove(stray)
    check_given_back(bucket, before)
