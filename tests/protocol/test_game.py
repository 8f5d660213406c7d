"""The commit protocol as a game: producers, runs that die, freeze and wake up, answers that are
lost, rivals and leaping clocks, in any order.
"""

import asyncio
import gzip
import random

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coalesce import errors
from coalesce.report.report import Report
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.auditor import OUTPUT, Auditor
from support.runs import new_run
from support.scenarios import Killed, run
from support.timeless import Timeless

CODES = {0, 1, 4, 10, 11, 75}
PLACES = st.integers(0, 7)
REQUESTS = st.integers(1, 120)
DAMAGES = ["gone", "cut", "empty", "replaced"]
OTHERS: list[dict[str, object]] = [
    {},
    {"max_files": 2},
    {"max_size": 40},
    {"partition": [1]},
    {"shard": "1/2"},
    {"check": False},
    {"exclude": ["data/t_0_0*"]},
]


class Frozen:
    """A run that stands still at one of its requests, and all its later ones."""

    def __init__(self, number: int, *, answered: bool) -> None:
        self._number = number
        self._awake = asyncio.Event()
        self.answered = answered
        self.task: asyncio.Task[Report | None]
        self.stands = asyncio.Event()

    async def stand(self, request: Request) -> None:
        if request.number >= self._number and not self._awake.is_set():
            self.stands.set()
            await self._awake.wait()

    def wake(self) -> None:
        self._awake.set()


class Game(RuleBasedStateMachine):
    """After every move the auditor has seen no broken promise; in the end, when all is quiet, every
    record is there exactly once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bucket = MemoryBucket()
        self.loop = Timeless(self.bucket)
        self.audit = Auditor(self.bucket)
        self.frozen: list[Frozen] = []
        self.written = 0
        self.damaged = False
        self.spoilt = False

    @initialize(gzipped=st.booleans(), max_files=st.integers(2, 4), sources=st.integers(2, 8))
    def begin(self, gzipped: bool, max_files: int, sources: int) -> None:
        self.gzipped = gzipped
        layout = "corporate" if gzipped else "manifest"
        self.settings = Settings.model_validate(
            {
                "bucket": "b",
                "prefix": ["data"],
                "min_age": 0,
                "layout": layout,
                "max_files": max_files,
            }
        )
        for place in range(sources):
            self.put(place, spoilt=False)
        self.loop.leap(1000)

    @rule(place=PLACES, spoilt=st.sampled_from([False, False, False, True]))
    def put(self, place: int, spoilt: bool) -> None:
        """A producer writes a source, or writes over one: as long as it was."""
        self.written += 1
        self.spoilt |= spoilt and self.gzipped
        line = b'{"written": %06d}\n' % self.written
        body = gzip.compress(line, mtime=0) if self.gzipped else line
        with self.audit.others():
            self.bucket.store(self.key(place), body[:-1] if spoilt and self.gzipped else body)

    @rule(place=PLACES)
    def delete(self, place: int) -> None:
        """A producer takes a source away. One that a dead run has recorded may be missed: if its
        output never appears, the record stands and says so.
        """
        recorded = f"_coalesce/groups/data/t_{place % 2}" in self.bucket.objects
        self.damaged |= recorded and self.key(place) in self.bucket.objects
        with self.audit.others():
            self.bucket.remove(self.key(place))

    @rule(seconds=st.sampled_from([1.0, 20.0, 100.0, 5000.0]))
    def leap(self, seconds: float) -> None:
        """Time passes."""
        self.loop.leap(seconds)

    @precondition(lambda self: self.outputs())
    @rule(which=st.integers(0, 7), damage=st.sampled_from(DAMAGES))
    def damage(self, which: int, damage: str) -> None:
        """An output is cut, emptied, replaced or taken away: a disk, a person, another program."""
        key = self.outputs()[which % len(self.outputs())]
        self.damaged = True
        with self.audit.others():
            stored = self.bucket.objects[key]
            match damage:
                case "gone":
                    self.bucket.remove(key)
                case "cut":
                    self.bucket.store(key, stored.data[:-3], metadata=stored.metadata)
                case "empty":
                    self.bucket.store(key, b"", metadata=stored.metadata)
                case "replaced":
                    self.bucket.store(key, gzip.compress(b"{}\n", mtime=0))

    @rule(other=st.sampled_from(OTHERS))
    def run_in_peace(self, other: dict[str, object]) -> None:
        """A run to its end, with other limits and another share than the one before it.

        Without the content check only whole sources are joined rightly.
        """
        self.audit.begin()
        chosen = Settings.model_validate({**self.settings.model_dump(), **other})
        if self.spoilt:
            chosen = chosen.model_copy(update={"check": True})
        report = self.loop.run_until_complete(
            run(MemoryStore(self.bucket), chosen, clock=self.loop.time)
        )
        self.ended(report)
        self.audit.check_counts(report)

    @rule(number=REQUESTS, answered=st.booleans())
    def crash(self, number: int, answered: bool) -> None:
        """A run that dies at one of its requests."""
        store = MemoryStore(self.bucket)

        async def before(request: Request) -> None:
            if request.number > number or (request.number == number and not answered):
                raise Killed

        async def after(request: Request) -> None:
            if request.number >= number:
                raise Killed

        store.before, store.after = before, after
        event("died" if self.finish(store) is None else "lived")

    @rule(
        number=REQUESTS,
        fault=st.sampled_from(
            [
                errors.Throttled,
                errors.AccessDenied,
                errors.PreconditionFailed,
                errors.NoSuchUpload,
                errors.Conflict,
            ]
        ),
    )
    def refuse(self, number: int, fault: type[errors.StorageError]) -> None:
        """A run of which one request is refused."""
        store = MemoryStore(self.bucket)

        async def before(request: Request) -> None:
            if request.number == number:
                raise fault("made up", key=request.key, operation=request.operation)

        store.before = before
        self.audit.begin()
        report = self.finish(store)
        self.ended(report)
        self.audit.check_counts(report)

    @rule(number=REQUESTS)
    def lose(self, number: int) -> None:
        """A run of which one answer is lost."""
        store = MemoryStore(self.bucket)

        async def after(request: Request) -> None:
            if request.number == number:
                raise errors.Unavailable("made up", key=request.key, operation=request.operation)

        store.after = after
        self.audit.begin()
        report = self.finish(store)
        self.ended(report)
        self.audit.check_counts(report, unanswered=True)

    @precondition(lambda self: len(self.frozen) < 2)
    @rule(number=REQUESTS, answered=st.booleans(), clockless=st.booleans())
    def freeze(self, number: int, answered: bool, clockless: bool) -> None:
        """A run that stands still.

        `clockless`: its own clock stands still too, so that it never learns that its lease has
        ended.
        """
        store, begun = MemoryStore(self.bucket), self.loop.time()

        async def stand() -> None:
            frozen = Frozen(number, answered=answered)
            if answered:
                store.after = frozen.stand
            else:
                store.before = frozen.stand
            frozen.task = asyncio.ensure_future(
                new_run(
                    store, self.settings, clock=(lambda: begun) if clockless else self.loop.time
                ).coalesce()
            )
            await asyncio.wait(
                [frozen.task, asyncio.ensure_future(frozen.stands.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
            if frozen.task.done():
                frozen.stands.set()
                self.ended(frozen.task.result())
            else:
                self.frozen.append(frozen)

        self.loop.run_until_complete(stand())

    @precondition(lambda self: self.frozen)
    @rule(which=st.integers(0, 1))
    def wake(self, which: int) -> None:
        """A run that stood still goes on where it was."""
        frozen = self.frozen.pop(which % len(self.frozen))
        frozen.wake()
        self.ended(self.loop.run_until_complete(frozen.task))

    @rule(seed=st.integers(0, 2**32), leaps=st.booleans())
    def rivals(self, seed: int, leaps: bool) -> None:
        """Two runs at once, in an order that the seed decides.

        With leaps each finds the other's lease ended.
        """
        chance = random.Random(seed)

        async def before(_: Request) -> None:
            if leaps:
                self.bucket.now += 100
            for _turn in range(chance.randrange(6)):
                await asyncio.sleep(0)

        async def both() -> list[Report]:
            stores = [MemoryStore(self.bucket) for _ in range(2)]
            for store in stores:
                store.before = before
            return await asyncio.gather(
                *(
                    new_run(store, self.settings, clock=self.loop.time).coalesce()
                    for store in stores
                )
            )

        for report in self.loop.run_until_complete(both()):
            self.ended(report)

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.audit.check()

    def teardown(self) -> None:
        try:
            while self.frozen:
                self.wake(0)
            for _ in range(4):
                self.loop.leap(5000)
                report = self.finish(MemoryStore(self.bucket))
                assert report is not None
                assert report.exit_code in (0, 4), report.failures
            assert report.outputs.written == report.sources.deleted == 0
            self.audit.check_quiet(doubted=self.damaged)
        finally:
            self.loop.close()

    def key(self, place: int) -> str:
        group, n = place % 2, place // 2
        stem = f"data/t_{group}_{n * 10}-"
        return (
            f"{stem}{n * 10 + 9}.jsonl.gz" if self.gzipped else f"{stem}t_{group}_{n * 10 + 9}.txt"
        )

    def outputs(self) -> list[str]:
        return sorted(key for key in self.bucket.objects if OUTPUT.fullmatch(key))

    def finish(self, store: MemoryStore) -> Report | None:
        return self.loop.run_until_complete(run(store, self.settings, clock=self.loop.time))

    def ended(self, report: Report | None) -> None:
        assert report is not None
        event(f"exit code {report.exit_code}")
        assert report.exit_code in CODES
        assert [failure for failure in report.failures if failure.code == "Defect"] == []


TestProtocol = Game.TestCase
TestProtocol.settings = settings(
    stateful_step_count=12, max_examples=max(settings.default.max_examples // 2, 10)
)
