"""A batch's way through its states, and what an answer to Complete means: both decided without a
store.
"""

import re
from dataclasses import fields
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.errors import (
    AccessDenied,
    BadRequest,
    Conflict,
    IntegrityError,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    StorageError,
    Throttled,
    Unavailable,
)
from coalesce.model import Batch
from coalesce.naming.layouts import layout
from coalesce.planning.rules import Limits
from coalesce.protocol import batch as module
from coalesce.protocol.batch import ENDS, Event, State, next_step
from coalesce.protocol.commit import (
    DIGEST,
    Blocked,
    Committed,
    NotCompleted,
    complete,
    judge,
    prove,
)
from coalesce.protocol.ledger import Expected
from coalesce.protocol.session import GroupRules, Session
from coalesce.storage import checksums
from coalesce.storage.base import Head
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.transfer.limits import Capacity
from support.runs import NoLease
from support.settings import settings

# --- the states of a batch


def followers(state: State) -> dict[Event, State]:
    """What may happen in a state, and where it leads."""
    found = {}
    for event in Event:
        try:
            found[event] = next_step(state, event)
        except ValueError:
            continue
    return found


def rows() -> dict[str, str]:
    """The table of the module's docstring: what is done next, by state."""
    found = re.findall(r"^\| ([A-Z]+) \| .* \| (.*) \|$", module.__doc__ or "", re.MULTILINE)
    return dict(found)


def test_the_table_names_exactly_the_states() -> None:
    assert list(rows()) == [*dict.fromkeys(rows())]
    assert set(rows()) == {state.name for state in State}


def test_the_table_calls_those_states_ends_from_which_nothing_leads_on() -> None:
    ends = {name for name, then in rows().items() if then.startswith("end")}
    assert ends == {state.name for state in ENDS}
    assert {state for state in State if not followers(state)} == ENDS


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_way_to_an_end(state: State) -> None:
    reached, todo = set[State](), [state]
    while todo:
        here = todo.pop()
        if here not in reached:
            reached.add(here)
            todo += followers(here).values()
    assert reached & ENDS


def test_every_state_but_the_first_can_be_reached() -> None:
    reached, todo = set[State](), [State.PLANNED]
    while todo:
        here = todo.pop()
        if here not in reached:
            reached.add(here)
            todo += followers(here).values()
    assert reached == set(State)


def test_what_cannot_happen_in_a_state_is_refused_by_its_name() -> None:
    refused = [pair for pair in product(State, Event) if pair[1] not in followers(pair[0])]
    assert len(refused) > len(State)
    for state, event in refused:
        with pytest.raises(ValueError, match=f"{state.value} cannot meet {event.name}"):
            next_step(state, event)


def leads_to(state: State) -> set[tuple[State, Event]]:
    """From where, and by what."""
    return {
        (before, event)
        for before in State
        for event, then in followers(before).items()
        if then is state
    }


def test_no_entry_no_complete_and_no_proof_no_delete() -> None:
    assert leads_to(State.COMPLETED) == {
        (State.TRANSFERRED, Event.WRITTEN),
        (State.COMPLETED, Event.UNANSWERED),
    }
    assert leads_to(State.COMMITTED) == {(State.COMPLETED, Event.PROVEN)}
    assert leads_to(State.DELETED) == {(State.COMMITTED, Event.GONE)}


def ways(length: int) -> st.SearchStrategy[list[Event]]:
    return st.lists(st.sampled_from(Event), max_size=length)


@given(ways(40))
def test_whatever_happens_to_a_batch_its_sources_are_deleted_only_once_it_is_committed(
    events: list[Event],
) -> None:
    state, way = State.PLANNED, [State.PLANNED]
    for event in events:
        if event in followers(state):
            state = next_step(state, event)
            way.append(state)
    if State.DELETED in way:
        assert way[way.index(State.DELETED) - 1] is State.COMMITTED
    if State.COMMITTED in way:
        assert way[way.index(State.COMMITTED) - 1] is State.COMPLETED
        assert State.TRANSFERRED in way  # and so its ledger entry was written
        assert not {State.FENCED, State.TAKEN, State.CONFLICTED, State.ABANDONED} & set(way)


def test_nothing_is_dropped_whose_output_may_be_there() -> None:
    """Only an upload that was aborted, or that nobody can complete any more, is forgotten."""
    before_dropped = {state for state in State if State.DROPPED in followers(state).values()}
    assert before_dropped == {
        State.SPOILT,
        State.STALE,
        State.CONFLICTED,
        State.LOST,
        State.TAKEN,
        State.FENCED,
        State.ABANDONED,
    }
    for state in before_dropped:
        assert followers(state) == {Event.ABORTED: State.DROPPED, Event.UNKNOWN: State.UNKNOWN}


# --- the answer to Complete, where no object has the output's name


def answer(kind: type[StorageError], *, repeated: bool = False) -> StorageError:
    error = kind("made up")
    error.repeated = repeated
    return error


@pytest.mark.parametrize(
    ("kind", "blocked"),
    [
        (NoSuchUpload, Blocked.FENCED),
        (Conflict, Blocked.CONFLICT),
        (PreconditionFailed, Blocked.CONFLICT),
        (Unavailable, Blocked.UNANSWERED),
        (Throttled, Blocked.UNANSWERED),
    ],
)
def test_the_first_answer_to_complete_means(kind: type[StorageError], blocked: Blocked) -> None:
    assert judge(answer(kind), unanswered=False) is blocked


@pytest.mark.parametrize("kind", [NoSuchUpload, Conflict, PreconditionFailed, NotFound, BadRequest])
@pytest.mark.parametrize(("unanswered", "repeated"), [(True, False), (False, True), (True, True)])
def test_after_a_complete_without_an_answer_no_refusal_says_what_became_of_it(
    kind: type[StorageError], unanswered: bool, repeated: bool
) -> None:
    """It may be that Complete's success, on its way."""
    error = answer(kind, repeated=repeated)
    with pytest.raises(kind):
        judge(error, unanswered=unanswered)


@pytest.mark.parametrize("kind", [AccessDenied, BadRequest, NotFound, StorageError])
def test_any_other_refusal_leaves_the_output_unknown(kind: type[StorageError]) -> None:
    with pytest.raises(kind):
        judge(answer(kind), unanswered=False)


@pytest.mark.parametrize("unanswered", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
def test_silence_is_asked_again(unanswered: bool, repeated: bool) -> None:
    error = answer(Unavailable, repeated=repeated)
    assert judge(error, unanswered=unanswered) is Blocked.UNANSWERED


# --- what an output is held against


DATA = b"what was sent"
OUTPUT = "data/t_0_0_9.jsonl.gz"
BATCH = Batch(OUTPUT, (), 0, "the digest of the plan")
CRC64 = checksums.encode(checksums.crc64([DATA]))
SENT = {"CRC64NVME": CRC64}


def session(store: MemoryStore) -> Session:
    names = [field.name for field in fields(Capabilities) if field.name != "checksum"]
    rules = GroupRules(
        state="_coalesce/",
        run_id="r",
        version="1",
        layout=layout("corporate"),
        limits=Limits.of(settings(min_age=300)),
        capabilities=Capabilities(**dict.fromkeys(names, True), checksum=Checksum.CRC64NVME),
    )
    return Session(store, rules, NoLease(), Capacity.of(1, 2**20, lambda: 0))


def holding(data: bytes, shown: dict[str, str], digest: str = BATCH.digest) -> MemoryStore:
    bucket = MemoryBucket()
    bucket.store(OUTPUT, data, {DIGEST: digest}, checksum=shown)
    return MemoryStore(bucket)


async def head_of(store: MemoryStore) -> Head:
    head = await store.head(OUTPUT)
    assert head is not None
    return head


def expected(mode: Checksum = Checksum.CRC64NVME, composite: str = "") -> Expected:
    return Expected(size=len(DATA), crc64=CRC64, mode=mode, composite=composite)


OTHER = b"what was senT"
SOUND = {
    "its checksum is shown": (DATA, SENT, expected()),
    "no checksum is shown": (DATA, {}, expected()),
    "the checksum of its parts is shown": (
        DATA,
        {"CRC32": "AAAAAA==-1"},
        expected(Checksum.CRC32, "AAAAAA==-1"),
    ),
    "the store keeps none": (DATA, {}, expected(Checksum.NONE)),
}
WRONG = {
    "cut": (DATA[:-1], SENT, expected()),
    "cut, and the store keeps no checksums": (DATA[:-1], {}, expected(Checksum.NONE)),
    "empty": (b"", {}, expected()),
    "longer": (DATA + b"\n", {}, expected()),
    "another checksum": (OTHER, {"CRC64NVME": checksums.encode(7)}, expected()),
    "other bytes, no checksum shown": (OTHER, {}, expected()),
    "other bytes, and the store keeps none": (OTHER, {}, expected(Checksum.NONE)),
    "another checksum of its parts": (
        DATA,
        {"CRC32": "AAAAAA==-1"},
        expected(Checksum.CRC32, "BBBBBB==-1"),
    ),
    "other bytes, no checksum of parts shown": (OTHER, {}, expected(Checksum.CRC32, "AAAAAA==-1")),
}


@pytest.mark.parametrize("case", SOUND)
@pytest.mark.parametrize("own", [False, True])
async def test_an_output_is_proven_where(case: str, own: bool) -> None:
    data, shown, wanted = SOUND[case]
    store = holding(data, shown)
    head = await head_of(store)
    committed = await prove(session(store), BATCH, head, wanted, own=own)
    assert (committed.size, committed.crc64, committed.etag) == (len(DATA), CRC64, head.etag)


@pytest.mark.parametrize("case", WRONG)
async def test_an_output_is_not_proven_where(case: str) -> None:
    data, shown, wanted = WRONG[case]
    store = holding(data, shown)
    with pytest.raises(IntegrityError):
        await prove(session(store), BATCH, await head_of(store), wanted, own=False)


async def test_an_output_that_shows_no_checksum_is_read_unless_our_own_complete_held_to_it() -> (
    None
):
    for own, reads in ((True, 0), (False, 1)):
        store = holding(DATA, {})
        await prove(session(store), BATCH, await head_of(store), expected(), own=own)
        assert store.usage.requests["GetObject"] == reads


# --- Complete, and the look at what is there then


class Answering(MemoryStore):
    """Says to Complete what it is told, and has no part in what is there."""

    said: StorageError | None = None

    async def complete_upload(self, *_: object, **__: object) -> None:
        if self.said is not None:
            raise self.said


def store_with(
    said: StorageError | None, data: bytes | None, digest: str = BATCH.digest
) -> Answering:
    bucket = MemoryBucket()
    if data is not None:
        bucket.store(OUTPUT, data, {DIGEST: digest}, checksum=SENT)
    store = Answering(bucket)
    store.said = said
    return store


ANSWERS: list[type[StorageError] | None] = [
    None,
    PreconditionFailed,
    Conflict,
    NoSuchUpload,
    Unavailable,
    AccessDenied,
    BadRequest,
]


async def completed(store: Answering, *, unanswered: bool = False) -> Committed | NotCompleted:
    return await complete(session(store), BATCH, "u", (), expected(), unanswered)


@pytest.mark.parametrize("said", ANSWERS)
@pytest.mark.parametrize("unanswered", [False, True])
async def test_the_batch_under_its_own_name_is_committed_whatever_was_answered(
    said: type[StorageError] | None, unanswered: bool
) -> None:
    store = store_with(said and said("made up"), DATA)
    assert isinstance(await completed(store, unanswered=unanswered), Committed)


@pytest.mark.parametrize("said", ANSWERS)
@pytest.mark.parametrize("unanswered", [False, True])
async def test_another_plans_object_is_a_doubt_only_where_complete_may_have_succeeded(
    said: type[StorageError] | None, unanswered: bool
) -> None:
    store = store_with(said and said("made up"), DATA, digest="another")
    if said is None or unanswered:
        with pytest.raises(IntegrityError):
            await completed(store, unanswered=unanswered)
        return
    found = await completed(store)
    assert isinstance(found, NotCompleted)
    assert found.blocked is Blocked.TAKEN


async def test_success_and_no_object_is_a_doubt() -> None:
    with pytest.raises(IntegrityError, match="does not exist"):
        await completed(store_with(None, None))


@pytest.mark.parametrize("said", [answered for answered in ANSWERS if answered])
async def test_what_is_known_without_an_object_is_what_the_answer_says(
    said: type[StorageError],
) -> None:
    error = said("made up")
    try:
        meaning: Blocked | None = judge(error, unanswered=False)
    except StorageError:
        meaning = None
    if meaning is None:
        with pytest.raises(said):
            await completed(store_with(error, None))
        return
    found = await completed(store_with(error, None))
    assert isinstance(found, NotCompleted)
    assert (found.blocked, found.answer) == (meaning, error)
