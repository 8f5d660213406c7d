"""The commit protocol as a game: producers, runs that die, freeze and wake up, answers that are
lost, requests that arrive late, rivals and leaping clocks, in any order and on stores of all kinds.
"""

import asyncio
import gzip
import random
import re
from collections.abc import Callable
from contextlib import nullcontext

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coalesce import errors
from coalesce.report.report import Report
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.auditor import OUTPUT, Auditor, sources
from support.late import PROBE, WORK, Client, Late, Moment, OnItsWay, is_of_probe, land_all
from support.runs import new_run
from support.scenarios import Killed, run
from support.timeless import Timeless

CODES = {0, 1, 4, 10, 11, 12, 75}
PLACES = st.integers(0, 7)
MOMENTS = st.one_of(
    st.tuples(st.just(WORK), st.integers(1, 80)),
    st.tuples(st.just(PROBE), st.integers(1, 100)),
    st.tuples(
        st.sampled_from(
            [
                "PutObject",
                "CompleteMultipartUpload",
                "HeadObject",
                "DeleteObjects",
                "AbortMultipartUpload",
            ]
        ),
        st.integers(1, 6),
    ),
)
LOOKS = st.tuples(st.sampled_from(["AbortMultipartUpload", "HeadObject"]), st.integers(1, 2))
NEVER = WORK, 0
TIMES = st.sampled_from([1, 1, 2, 5, 1000])

# What a store may ignore or drop, and the mode that a user has to accept for it. In these modes
# nothing else may run or change the sources meanwhile.
WEAKER = {
    "delete-if-match delete-many-etag": "delete-race",
    "complete-if-none-match": "overwrite-race",
    "put-if-none-match": "no-exclusion",
    "put-if-match": "no-exclusion",
    "abort": "no-exclusion",
}
LESSER = [
    "checksum",
    "full-object-checksum",
    "checksum copy-if-match delete-many-etag",
    "delete-if-match",
    "delete-many-etag",
    "get-if-match",
]
DROPS_METADATA = "upload-metadata"
STORES = st.sampled_from([*[""] * 8, *LESSER, *WEAKER, DROPS_METADATA])

DAMAGES = ["gone", "cut", "empty", "replaced", "flipped"]
SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-4],
    "flipped": lambda data: data[:-6] + bytes(byte ^ 0x80 for byte in data[-6:-5]) + data[-5:],
    "followed by something": lambda data: data + b"\xff\x00",
    "empty": lambda _: b"",
}
OTHERS = st.sampled_from(
    [
        {},
        {},
        {"max_files": 2},
        {"max_files": 4},
        {"max_size": 40},
        {"partition": [1]},
        {"shard": "1/2"},
        {"date": "2026-11-22"},
        {"layout": "the other one"},
        {"check": False},
        {"gzip": "members"},
        {"delete": False},
        {"min_age": 500},
        {"max_groups": 1},
        {"max_delete": 2},
        {"exclude": ["data/t_0_0*"]},
    ]
)
Other = dict[str, object]


class Frozen:
    """A run that stands still at one of its requests, and all its later ones."""

    def __init__(self, store: Client) -> None:
        self._store = store
        self._awake = asyncio.Event()
        self.task: asyncio.Task[Report | None]
        self.stands = asyncio.Event()
        self.deletes: set[str] = set()  # the groups of which it may be about to delete sources

    async def stand(self, request: Request) -> None:
        if request.number >= self._store.at and not self._awake.is_set():
            if request.operation.startswith("Delete"):
                self.deletes.add(group_of(request.key))
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
        self.late: list[OnItsWay] = []
        self.written = 0
        self.damaged = False
        self.spoilt = False

    @initialize(
        gzipped=st.booleans(),
        max_files=st.integers(2, 4),
        count=st.sampled_from([2, 3, 4, 5, 6, 7, 8, 40]),
        ignores=STORES,
        accepted=st.sampled_from([True, True, False]),
        lists_uploads=st.sampled_from([True, True, False]),
    )
    def begin(
        self,
        gzipped: bool,
        max_files: int,
        count: int,
        ignores: str,
        accepted: bool,
        lists_uploads: bool,
    ) -> None:
        self.gzipped = gzipped
        unlisted = [] if lists_uploads else ["list-uploads"]  # so no sweep stands in for a fence
        self.bucket.ignores = frozenset([*ignores.split(), *unlisted])
        self.races = ignores in WEAKER
        self.refused = ignores == DROPS_METADATA or (self.races and not accepted)
        self.settings = Settings.model_validate(
            {
                "bucket": "b",
                "prefix": ["data"],
                "min_age": 0,
                "layout": "corporate" if gzipped else "manifest",
                "max_files": max_files,
                "accept_weaker": [*{WEAKER[ignores]}] if self.races and accepted else [],
            }
        )
        for place in range(count):
            self.put(place)
        self.loop.leap(1000)

    # --- what others do

    @rule(place=PLACES)
    def put(self, place: int) -> None:
        """A producer writes a source, or writes over one: as long as it was."""
        with self.audit.others():
            self.bucket.store(self.key(place), self.new_source())

    @rule(first=st.integers(0, 3), every=st.integers(1, 3), how=st.sampled_from([*SPOILT]))
    def spoil(self, first: int, every: int, how: str) -> None:
        """Sources are written over with spoilt ones: a few of them, each third, half, or all."""
        self.spoilt = True
        for key in sources(self.bucket.objects)[first::every]:
            with self.audit.others():
                body = self.new_source()
                body = SPOILT[how](body if self.gzipped else body + b"\x00\xff\n")
                self.bucket.store(key, body)

    @rule(place=PLACES)
    def delete(self, place: int) -> None:
        """A producer takes a source away. One that a dead run has recorded may be missed: if its
        output never appears, the record stands and says so.
        """
        key = self.key(place)
        self.damaged |= key in self.bucket.objects and group_of(key) in map(
            group_of, self.standing()
        )
        with self.audit.others():
            self.bucket.remove(key)

    @rule(seconds=st.sampled_from([1.0, 20.0, 100.0, 5000.0]))
    def leap(self, seconds: float) -> None:
        """Time passes."""
        self.loop.leap(seconds)

    @rule(which=st.integers(0, 7), damage=st.sampled_from(DAMAGES))
    def damage(self, which: int, damage: str) -> None:
        """An output is cut, emptied, replaced or taken away: a disk, a person, another program."""
        if not self.outputs():
            return
        key = self.outputs()[which % len(self.outputs())]
        self.damaged = True
        stored = self.bucket.objects[key]
        if self.is_being_deleted(group_of(key)):
            self.audit.excuse(stored.data)
        with self.audit.others():
            match damage:
                case "gone":
                    self.bucket.remove(key)
                case "cut":
                    self.bucket.store(key, stored.data[:-3], metadata=stored.metadata)
                case "empty":
                    self.bucket.store(key, b"", metadata=stored.metadata)
                case "replaced":
                    self.bucket.store(key, gzip.compress(b"{}\n", mtime=0))
                case "flipped":
                    self.bucket.store(key, SPOILT[damage](stored.data), metadata=stored.metadata)

    # --- runs that come to an end

    @rule(other=OTHERS)
    def run_in_peace(self, other: Other) -> None:
        """A run to its end, with other limits and another share than the one before it."""
        self.run_alone(self.client(NEVER), other)

    @rule(
        moment=MOMENTS,
        fault=st.sampled_from(
            [
                errors.Throttled,
                errors.AccessDenied,
                errors.PreconditionFailed,
                errors.NoSuchUpload,
                errors.Conflict,
            ]
        ),
        other=OTHERS,
    )
    def refuse(self, moment: Moment, fault: type[errors.StorageError], other: Other) -> None:
        """A run of which one request is refused."""
        store = self.client(moment)

        async def before(request: Request) -> None:
            if request.number == store.at:
                raise fault("made up", key=request.key, operation=request.operation)

        store.before = before
        self.run_alone(
            store,
            other,
            unanswered=fault is errors.Throttled,
            silent="delete-many-etag" in self.bucket.ignores,
            denied=fault is errors.AccessDenied,
        )

    @rule(moment=MOMENTS, times=TIMES, other=OTHERS)
    def lose(self, moment: Moment, times: int, other: Other) -> None:
        """A run of which one answer is lost, or all from then on for a while."""
        store = self.client(moment)

        async def after(request: Request) -> None:
            if 0 <= request.number - store.at < times:
                raise no_answer(request)

        store.after = after
        self.run_alone(store, other, unanswered=True, silent=times > 1)

    @rule(
        first=st.integers(1, 100),
        every=st.sampled_from([1, 2, 3, 10, 1000]),
        answered=st.booleans(),
    )
    def silence_the_probe(self, first: int, every: int, answered: bool) -> None:
        """Requests of the probe get no answer: one, some, or all from the first of them on. Whether
        they had their effect or not, nobody takes silence for a guarantee or for the lack of one.
        """
        store = self.client((PROBE, first))

        async def fail(request: Request) -> None:
            past = request.number - store.at
            if is_of_probe(request.key) and past >= 0 and past % every == 0:
                raise no_answer(request)

        if answered:
            store.after = fail
        else:
            store.before = fail
        self.run_alone(store, {})

    # --- requests that arrive late

    @rule(
        first=st.integers(1, 3),
        times=st.sampled_from([1, 4, 1000, 1000]),
        other=OTHERS,
        then=st.none() | LOOKS,
    )
    def give_up_completes(self, first: int, times: int, other: Other, then: Moment | None) -> None:
        """A run of which Completes get no answer. They are on their way, and arrive some day, or
        just then when the next run looks for the output or aborts the upload.
        """
        if "abort" in self.bucket.ignores:  # which leaves nothing that could stop them
            return
        store, met = self.client(NEVER), 0

        def give_up(request: Request) -> BaseException | None:
            nonlocal met
            if request.operation != "CompleteMultipartUpload" or is_of_probe(request.key):
                return None
            met += 1
            return no_answer(request) if first <= met < first + times else None

        store.gives_up = give_up
        self.run_alone(store, other, unanswered=True)
        if then:
            self.land_in_a_run(then, {})

    @rule(later=st.integers(1, 20), other=OTHERS, repeated=st.booleans())
    def complete_slowly(self, later: int, other: Other, repeated: bool) -> None:
        """A Complete gets no answer because the store is still at it. Its effect comes some
        requests later, or after the run.
        """
        store, seen = Late(self.bucket), 0
        store.repeated = repeated

        async def after(_: Request) -> None:
            nonlocal seen
            seen += store.under_way is not None
            if seen == later:
                seen += 1
                await store.land()

        store.after = after
        self.run_alone(store, other, unanswered=True)
        if store.under_way is not None and seen < later:
            self.loop.run_until_complete(store.land())

    @rule(which=st.integers(0, 7))
    def land(self, which: int) -> None:
        """A request that its run has given up, or that was on its way when its run died, arrives:
        long after the group was fenced, perhaps.
        """
        if self.late:
            late = [self.late.pop(which % len(self.late))]
            with self.audit.others() if self.is_excused(late[0]) else nullcontext():
                land_all(late)

    @rule(moment=MOMENTS | LOOKS, other=OTHERS)
    def land_in_a_run(self, moment: Moment, other: Other) -> None:
        """All such Completes arrive while another run is at work."""
        if not self.late:
            return
        store = self.client(moment)

        async def before(request: Request) -> None:
            if request.number == store.at:
                deletes = [late for late in self.late if late.operation.startswith("Delete")]
                land_all([late for late in self.late if late not in deletes])
                self.late[:] = deletes

        store.before = before
        self.ended(self.finish(store, other), self.chosen(other))

    # --- runs that die or stand still

    @rule(moment=MOMENTS, last=st.sampled_from(["sent", "unsent", "late"]), other=OTHERS)
    def crash(self, moment: Moment, last: str, other: Other) -> None:
        """A run that dies at one of its requests. That one has arrived, or arrives never, or when
        the run is long dead.
        """
        store = self.client(moment)

        async def before(request: Request) -> None:
            if request.number > store.at or (request.number == store.at and last != "sent"):
                raise Killed

        async def after(request: Request) -> None:
            if request.number >= store.at:
                raise Killed

        def give_up(request: Request) -> BaseException | None:
            at_last = request.number == store.at and last == "late"
            return Killed() if at_last and self.may_be_late(request) else None

        store.before, store.after, store.gives_up = before, after, give_up
        event("died" if self.finish(store, other) is None else "lived")

    @rule(moment=MOMENTS, answered=st.booleans(), clockless=st.booleans(), other=OTHERS)
    def freeze(self, moment: Moment, answered: bool, clockless: bool, other: Other) -> None:
        """A run that stands still.

        `clockless`: its own clock stands still too, so that it never learns that its lease has
        ended.
        """
        if self.races or len(self.frozen) == 2:
            return
        store, begun = self.client(moment), self.loop.time()
        chosen = self.chosen(other).model_copy(update={"check": True})

        async def stand() -> None:
            frozen = Frozen(store)
            if answered:
                store.after = frozen.stand
            else:
                store.before = frozen.stand
            clock = (lambda: begun) if clockless else self.loop.time
            frozen.task = asyncio.ensure_future(new_run(store, chosen, clock=clock).coalesce())
            await asyncio.wait(
                [frozen.task, asyncio.ensure_future(frozen.stands.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
            if frozen.task.done():
                frozen.stands.set()
                self.ended(frozen.task.result(), chosen)
            else:
                self.frozen.append(frozen)

        self.loop.run_until_complete(stand())

    @rule(which=st.integers(0, 1))
    def wake(self, which: int) -> None:
        """A run that stood still goes on where it was."""
        if self.frozen:
            frozen = self.frozen.pop(which % len(self.frozen))
            frozen.wake()
            self.ended(self.loop.run_until_complete(frozen.task), swept=True)

    @rule(seed=st.integers(0, 2**32), leaps=st.booleans(), others=st.tuples(OTHERS, OTHERS))
    def rivals(self, seed: int, leaps: bool, others: tuple[Other, Other]) -> None:
        """Two runs at once, in an order that the seed decides.

        With leaps each finds the other's lease ended.
        """
        if self.races:
            return
        chance = random.Random(seed)

        async def before(_: Request) -> None:
            if leaps:
                self.bucket.now += 100
            for _turn in range(chance.randrange(6)):
                await asyncio.sleep(0)

        async def rival(other: Other) -> Report:
            store = self.client(NEVER)
            store.before = before
            return await new_run(store, self.chosen(other), clock=self.loop.time).coalesce()

        async def both() -> list[Report]:
            return await asyncio.gather(*map(rival, others))

        for report in self.loop.run_until_complete(both()):
            self.ended(report, swept=leaps)

    # --- what must be true

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.audit.check()

    def teardown(self) -> None:
        try:
            while self.frozen:
                self.wake(0)
            for number in range(5):
                while self.late and number == 1:
                    self.land(0)
                self.loop.leap(5000)
                report = self.finish(self.client(NEVER))
                self.ended(report, self.settings)
                assert report is not None
                assert report.exit_code in ((10,) if self.refused else (0, 4)), report.failures
            assert report.outputs.written == report.sources.deleted == 0
            untidy = self.damaged or self.refused or {"abort", "list-uploads"} & self.bucket.ignores
            self.audit.check_quiet(doubted=bool(untidy))
            assert self.damaged or self.refused or self.standing() == []
        finally:
            self.loop.close()

    def run_alone(
        self,
        store: MemoryStore,
        other: Other,
        *,
        unanswered: bool = False,
        silent: bool = False,
        denied: bool = False,
    ) -> None:
        if other.keys() & {"layout", "partition"}:
            # A record of a group that this run does not list must be settled before its listing:
            # see the known gaps in docs/reliability.md.
            self.loop.leap(200)
        self.audit.begin()
        report = self.finish(store, other)
        self.ended(report, self.chosen(other), denied=denied)
        self.audit.check_counts(report, unanswered=unanswered, silent=silent)

    def ended(
        self,
        report: Report | None,
        chosen: Settings | None = None,
        *,
        denied: bool = False,
        swept: bool = False,
    ) -> None:
        """What must be true after any run; with `chosen` after one that was alone.

        `swept`: another run may have swept away what its probe was trying, and its clock does not
        tell it so.
        """
        assert report is not None
        event(f"exit code {report.exit_code}")
        assert report.exit_code in CODES
        assert [failure for failure in report.failures if failure.code == "Defect"] == []
        assert denied or swept or self.refused or report.exit_code != 10, report.failures
        if self.refused:
            assert report.exit_code in (1, 10, 75), report.failures
            assert self.outputs() == []
            assert all(is_of_probe(upload.key) for upload in self.bucket.uploads.values())
        elif chosen and chosen.delete and report.exit_code == 0 and not self.standing():
            self.audit.check_once()

    # --- what the moves are made of

    def key(self, place: int) -> str:
        """Of two groups, one of them of a day."""
        group, n = place % 2, place // 2
        stem = f"data/2026/11/22/t_1_{n * 10}-" if group else f"data/t_0_{n * 10}-"
        return (
            f"{stem}{n * 10 + 9}.jsonl.gz" if self.gzipped else f"{stem}t_{group}_{n * 10 + 9}.txt"
        )

    def new_source(self) -> bytes:
        self.written += 1
        line = b'{"written": %06d}\n' % self.written
        return gzip.compress(line, mtime=0) if self.gzipped else line

    def outputs(self) -> list[str]:
        return sorted(key for key in self.bucket.objects if OUTPUT.fullmatch(key))

    def standing(self) -> list[str]:
        """The plan records that stand."""
        return [key for key in self.bucket.objects if key.startswith("_coalesce/groups/")]

    def chosen(self, other: Other) -> Settings:
        """The game's settings but for some. Without the content check only whole sources are joined
        rightly.
        """
        if "layout" in other:
            other = {"layout": "manifest" if self.gzipped else "corporate"}
        chosen = Settings.model_validate({**self.settings.model_dump(exclude_unset=True), **other})
        return chosen.model_copy(update={"check": True}) if self.spoilt else chosen

    def client(self, moment: Moment) -> Client:
        return Client(self.bucket, moment, self.late)

    def finish(self, store: MemoryStore, other: Other | None = None) -> Report | None:
        chosen = self.chosen(other or {})
        return self.loop.run_until_complete(run(store, chosen, clock=self.loop.time))

    def may_be_late(self, request: Request) -> bool:
        """Only what finds no sweep behind it: a new upload or lease would be left for good."""
        if self.races or request.operation == "CreateMultipartUpload":
            return False
        changes = not request.operation.startswith(("Get", "Head", "List"))
        places = ("data/", "_coalesce/groups/", "_coalesce/ledger/")
        return changes and request.key.startswith(places)

    def is_being_deleted(self, group: str) -> bool:
        """Whether deletes of the group's sources are sent, or about to be, and cannot be stopped:
        if its output is damaged now, records are lost.
        """
        late = {group_of(late.key) for late in self.late if late.operation.startswith("Delete")}
        return group in late or any(group in frozen.deletes for frozen in self.frozen)

    def is_excused(self, late: OnItsWay) -> bool:
        return self.damaged and late.operation.startswith("Delete")


def group_of(key: str) -> str:
    found = re.search(r"/(t_\d)", key)
    return found[1] if found else ""


def no_answer(request: Request) -> errors.Unavailable:
    return errors.Unavailable("made up", key=request.key, operation=request.operation)


TestProtocol = Game.TestCase
TestProtocol.settings = settings(
    stateful_step_count=12, max_examples=max(settings.default.max_examples // 2, 10)
)
