"""A run with workers, on a bucket in memory: whoever dies or is stopped, and wherever, no record is
lost or there twice; and the death of a worker ends neither the run nor a group that is shared.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import pytest

from coalesce.errors import NoSuchUpload, Unavailable
from coalesce.exits import ExitCode
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support import auditor
from support.crew import Crew, in_this_process
from support.nights import audited
from support.runs import new_run
from support.scenarios import (
    AuditedBucket,
    Killed,
    _only_killed,
    check_settled,
    contents,
    corporate,
    haunted,
    readable,
)
from support.schedules import Tally
from support.settings import settings

# Jobs whose groups have several batches each, of sources that can all be joined; and others.
SHARED = ("two groups of several outputs", "a group of several rounds")
JOBS = (*SHARED, "a spoilt source among others", "outputs without deletes")

SPOILT = "data/db.core.topic_0_20-29.jsonl.gz"
DEADLY = "data/db.core.topic_0_10-19.jsonl.gz"

Hook = Callable[[int, int, Request], Awaitable[None]]


@pytest.fixture(autouse=True)
def here() -> Iterator[None]:
    with in_this_process():
        yield


class Night:
    """A run of several workers, whose requests are numbered over all processes.

    The hooks are awaited with a request's number, and that of the worker that sends it: -1 for the
    run's own process.
    """

    def __init__(
        self, bucket: AuditedBucket, chosen: Settings, context: str, workers: int = 2
    ) -> None:
        self.bucket, self.chosen, self.context = bucket, chosen, context
        self.original = readable(contents(bucket))
        self.report: Report | None = None
        self.crew = Crew(workers, bucket)
        self.store = MemoryStore(bucket)
        self.requests = 0
        self.before: Hook = self._pass
        self.after: Hook = self._pass
        told = chosen.model_copy(update={"processes": workers})
        self.run: Run = new_run(self.store, told, workers=self.crew)
        for worker, store in ((-1, self.store), *enumerate(self.crew.stores)):
            self._watch(worker, store)

    async def _pass(self, *_: object) -> None: ...

    def _watch(self, worker: int, store: MemoryStore) -> None:
        numbers: dict[int, int] = {}

        async def before(request: Request) -> None:
            if "/probe/" not in request.key:  # they are the same without workers
                self.requests += 1
                numbers[request.number] = self.requests
                await self.before(self.requests, worker, request)

        async def after(request: Request) -> None:
            if request.number in numbers:
                await self.after(numbers[request.number], worker, request)

        store.before, store.after = before, after

    async def coalesce(self) -> Report | None:
        """The run to its end; None if its own process dies."""
        try:
            with self.crew:
                return await self.run.coalesce()
        except BaseException as error:
            if not _only_killed(error):
                raise
            return None
        finally:
            await self.crew.end()


async def nights(name: str, hook: Callable[[Night, int], None]) -> AsyncIterator[Night]:
    """The same night once for each of its requests, with hooks for the request of that number."""
    number, night = 0, None
    while night is None or night.requests >= number:
        number += 1
        night = Night(*await haunted(name), f"at request {number}")
        hook(night, number)
        night.report = await night.coalesce()
        night.bucket.audit.check(night.context)
        yield night
        await check_settled(night.bucket, night.chosen, night.original, night.context)


def check_complete(night: Night) -> None:
    """The run itself has done it all."""
    assert night.report is not None, night.context
    failed = [failure.code for failure in night.report.failures]
    assert (int(night.report.exit_code), failed) == (0, []), night.context
    assert auditor.sources(night.bucket.objects) == [], night.context
    assert night.bucket.uploads == {}, night.context


def a_worker_dies(night: Night, number: int) -> None:
    async def die(at: int, worker: int, request: Request) -> None:
        if at == number and worker >= 0:
            night.crew.kill(worker)
            raise Killed

    night.before = die


def a_worker_dies_with_the_answer_lost(night: Night, number: int) -> None:
    a_worker_dies(night, number)
    night.before, night.after = night.after, night.before


@pytest.mark.parametrize("death", [a_worker_dies, a_worker_dies_with_the_answer_lost])
@pytest.mark.parametrize("name", JOBS)
async def test_wherever_a_worker_dies_the_run_goes_on_and_every_record_is_there_once(
    name: str, death: Callable[[Night, int], None], tally: Tally
) -> None:
    died = 0
    async for night in nights(name, death):
        died += len(night.crew.dead)
        assert night.report is not None, night.context
        if name in SHARED:
            check_complete(night)
    assert died
    tally("deaths of workers", died)


@pytest.mark.parametrize("name", SHARED)
async def test_a_run_goes_on_by_itself_once_all_its_workers_are_dead(
    name: str, tally: Tally
) -> None:
    def all_die(night: Night, number: int) -> None:
        async def die(at: int, worker: int, request: Request) -> None:
            if at >= number and worker >= 0:
                night.crew.kill(worker)
                raise Killed

        night.before = die

    died: list[int] = []
    async for night in nights(name, all_die):
        died.append(len(night.crew.dead))
        check_complete(night)
    assert max(died) == 2
    tally("deaths of workers", sum(died))


@pytest.mark.parametrize("name", SHARED)
async def test_a_part_that_arrives_after_the_death_of_its_worker_spoils_nothing(
    name: str, tally: Tally
) -> None:
    """The store may act on it at any later moment."""
    arrived = 0

    def late(night: Night, number: int) -> None:
        on_its_way: list[tuple[str, str]] = []

        async def before(at: int, worker: int, request: Request) -> None:
            nonlocal arrived
            if at == number:
                for key, upload_id in on_its_way:
                    with suppress(NoSuchUpload):
                        night.bucket.add_part(
                            key, upload_id, 1, b"late", checksum=Checksum.CRC64NVME, value=""
                        )
                        arrived += 1
            if worker >= 0 and request.operation == "UploadPart" and not night.crew.dead:
                uploads = night.bucket.list_uploads(request.key)
                on_its_way.extend((upload.key, upload.upload_id) for upload in uploads)
                night.crew.kill(worker)
                raise Killed

        night.before = before

    async for night in nights(name, late):
        check_complete(night)
    assert arrived
    tally("late parts", arrived)


@pytest.mark.parametrize("name", JOBS)
async def test_wherever_the_run_itself_dies_with_its_workers_the_next_one_mends_it(
    name: str, tally: Tally
) -> None:
    def all_die(night: Night, number: int) -> None:
        async def die(at: int, worker: int, request: Request) -> None:
            if at >= number:
                night.crew.kill_all()
                raise Killed

        night.before = die

    tried = 0
    async for _ in nights(name, all_die):
        tried += 1
    tally("crash points", tried)


@pytest.mark.parametrize("name", JOBS)
async def test_whichever_answer_a_worker_never_sees_the_next_run_mends_it(
    name: str, tally: Tally
) -> None:
    def lose(night: Night, number: int) -> None:
        async def fail(at: int, worker: int, request: Request) -> None:
            if at == number and worker >= 0:
                raise Unavailable("no answer", key=request.key, operation=request.operation)

        night.after = fail

    tried = 0
    async for night in nights(name, lose):
        tried += 1
        assert night.report is not None, night.context
        assert night.report.exit_code in (0, 1, 4, 75), night.context
    tally("lost answers", tried)


@pytest.mark.parametrize("name", JOBS)
async def test_whenever_it_is_told_to_stop_a_run_with_workers_ends_and_the_next_one_does_the_rest(
    name: str, tally: Tally
) -> None:
    told: list[int] = []

    def tell(night: Night, number: int) -> None:
        told.clear()

        async def before(at: int, worker: int, request: Request) -> None:
            if at == number:
                night.run.interrupt(ExitCode.TERMINATED)
                told.append(at)

        night.before = before

    tried = 0
    async for night in nights(name, tell):
        tried += 1
        assert night.report is not None, night.context
        codes = (ExitCode.TERMINATED, ExitCode.INTEGRITY) if told else (0, ExitCode.INTEGRITY)
        assert night.report.exit_code in codes, night.context
        assert night.run.in_progress == "no output is being written", night.context
    tally("stops", tried)


async def test_a_source_that_cannot_be_joined_is_left_out_of_a_group_that_is_shared() -> None:
    """Its batch is planned again around it, and all else is joined."""

    def fill(bucket: MemoryBucket) -> None:
        corporate(bucket, groups=1, sources=9)
        bucket.store(SPOILT, bucket.objects[SPOILT].data[:-4])

    night = Night(audited(fill), settings(max_files=3), "a spoilt source")
    report = await night.coalesce()
    assert report is not None
    assert report.exit_code == ExitCode.INTEGRITY
    assert [failure.key for failure in report.failures] == [SPOILT]
    assert (report.sources.left["corrupt"], report.processes) == (1, 2)
    assert auditor.sources(night.bucket.objects) == [SPOILT]
    assert night.bucket.uploads == {}
    await check_settled(night.bucket, night.chosen, night.original, night.context)


async def test_an_output_of_which_every_worker_dies_fails_and_its_sources_stay() -> None:
    """After three of them: who is out of memory must not go on for ever."""
    bucket = audited(lambda bucket: corporate(bucket, groups=1, sources=8))
    night = Night(bucket, settings(max_files=4), "deadly", workers=4)

    async def die(_: int, worker: int, request: Request) -> None:
        if worker >= 0 and request.key == DEADLY:
            night.crew.kill(worker)
            raise Killed

    night.before = die
    report = await night.coalesce()
    assert report is not None
    assert [failure.code for failure in report.failures] == ["WorkerDied"]
    assert len(night.crew.dead) == 3
    assert (report.exit_code, report.outputs.written, report.sources.deleted) == (1, 1, 4)
    assert report.sources.left["failed"] == 4
    await check_settled(night.bucket, night.chosen, night.original, night.context)


async def test_what_no_worker_has_sent_is_sent_by_the_run_itself() -> None:
    bucket = audited(lambda bucket: corporate(bucket, groups=1, sources=8))
    night = Night(bucket, settings(max_files=2), "no worker lives")

    async def die(_: int, worker: int, request: Request) -> None:
        if worker >= 0:
            night.crew.kill(worker)
            raise Killed

    night.before = die
    night.report = await night.coalesce()
    check_complete(night)
    assert night.crew.dead == {0, 1}


async def test_what_workers_find_to_differ_among_the_sources_of_a_shared_group_is_told() -> None:
    def fill(bucket: MemoryBucket) -> None:
        corporate(bucket, groups=1, sources=8)
        bucket.store(DEADLY, bucket.objects[DEADLY].data, content_type="text/odd")

    night = Night(audited(fill), settings(max_files=4), "another content type")
    night.report = await night.coalesce()
    check_complete(night)
    assert night.report is not None
    assert night.report.processes == 2
    assert night.report.attributes.differing == 1
    assert "text/odd" in night.report.attributes.example
