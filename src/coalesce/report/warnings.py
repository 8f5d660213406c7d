"""What a person should know although nothing has failed: events with a message and a hint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from shlex import quote

from coalesce.errors import GroupOwned
from coalesce.listing.found import Found
from coalesce.naming.foreign import foreign
from coalesce.naming.layouts import Layout
from coalesce.planning.work_lists import WorkList
from coalesce.protocol.lease import Rival
from coalesce.report.events import WarningEvent, WarningKind
from coalesce.settings import DEFAULT_STATE

_MEMORY = "Check whether the container ran out of memory."


def waiting(rival: Rival) -> WarningEvent:
    """The run waits for another one's lease to end or to be renewed."""
    lease = rival.record
    message = (
        f"waiting for run {lease.run_id} on {lease.owner or 'an unknown host'}, "
        f"which holds its lease for up to {rival.remaining:.0f} s"
    )
    hint = "Its unfinished groups are taken over once its lease has ended."
    return _warning("waiting", lease.run_id, message, hint)


def leased_group(error: GroupOwned) -> WarningEvent:
    """Another run owns a group."""
    return _warning("leased", error.key, error.message, error.hint)


def unfinished_run(rival: Rival, bucket: str) -> WarningEvent:
    """A run crashed that worked where this one, in the same bucket, may not clean up."""
    lease = rival.record
    if not rival.readable:
        message = f"the lease {rival.key!r} has expired and cannot be read"
        hint = "Delete it if no run with that id is alive."
        return _warning("unfinished", lease.run_id, message, hint)
    scope = [f"-b {bucket}"]
    scope += [f"-p {quote(p)}" if p else "--whole-bucket" for p in lease.prefixes]
    state = rival.key.removesuffix(f"runs/{lease.run_id}")
    scope += [] if state == DEFAULT_STATE else [f"--state {quote(state)}"]
    message = (
        f"run {lease.run_id} did not exit cleanly; "
        "it worked under prefixes that this run does not have"
    )
    hint = f"Its next run cleans up, or `coalesce recover {' '.join(scope)}`."
    return _warning("unfinished", lease.run_id, message, hint)


def worker_died() -> WarningEvent:
    """A worker process is gone; what it worked on is tried again, or fails."""
    return _warning("worker", "", "a worker process died", _MEMORY)


def no_keys(bucket: str, neighbours: Mapping[str, Sequence[str]]) -> Iterator[WarningEvent]:
    """There is no key under these prefixes; with each, some under which there are keys."""
    for prefix, nearby in neighbours.items():
        *others, last = nearby or [""]
        hint = f"There is {last}." if last else "Check bucket and prefix."
        if others:
            hint = f"There are {', '.join(others)} and {last}."
        yield _warning("empty", prefix, f"no keys under s3://{bucket}/{prefix}", hint)


def nothing_to_verify(left_out: str) -> WarningEvent:
    """There are groups in scope and no output of them; `left_out` is one that the user's patterns
    leave out, if there is any.
    """
    if left_out:
        message = "--include and --exclude leave out every output that is here"
        return _warning("unmatched", left_out, message, f"There is {left_out}, for instance.")
    message = "there is no output here, only sources"
    return _warning("unmatched", "", message, "`coalesce run` joins them.")


def nothing_found(
    bucket: str,
    layout: Layout,
    known: Mapping[str, Layout],
    found: Found,
    neighbours: Mapping[str, Sequence[str]],
) -> Iterator[WarningEvent]:
    """There is no key under a prefix, none that is named as the layout says, or none of a topic and
    partition that was asked for.

    `known` are all layouts; `neighbours` has each prefix without keys, and some under which there
    are keys.
    """
    yield from no_keys(bucket, neighbours)
    if found.in_scope:
        return
    if found.other_group:
        message = "no topic-partition here matches --topic and --partition"
        hint = f"There is {found.other_group}, for instance."
        yield _warning("unmatched", found.other_group, message, hint)
    elif found.other_keys:
        fitting = [name for name, other in known.items() if other.parse(found.other_key)]
        hint = f"A source is called {layout.data.example}."
        if fitting:
            hint = f"Its name fits --layout {fitting[0]}."
        elif other := foreign(found.other_key):
            hint = f"It looks like {other.what}: {other.why} {other.instead}"
        count = found.other_keys
        keys, fit = (f"{count:,} keys", "fit") if count > 1 else ("1 key", "fits")
        example = f"for instance {found.other_key!r}"
        message = f"{keys}, {example}, {fit} no name of the layout {layout.name}"
        yield _warning("unparsed", found.other_key, message, hint)


def left_of_list(
    wanted: WorkList, layout: Layout, unknown: tuple[str, ...], young: int
) -> Iterator[WarningEvent]:
    """Keys of a work list that are not there, that are no sources, or too `young`. What begins with
    what is `unknown` was not looked at.
    """
    listed = f"of the {len(wanted):,} keys of the work list"
    if missing := wanted.missing(unknown):
        message = f"{len(missing):,} {listed} are not there, for instance {missing[0]!r}"
        hint = "They were joined or deleted after the list was made, or by a run before."
        yield _warning("missing", missing[0], message, hint)
    if wanted.others:
        message = f"{wanted.others:,} {listed} are no sources, for instance {wanted.other!r}"
        hint = f"A source of the layout {layout.name} is called {layout.data.example}."
        yield _warning("unparsed", wanted.other, message, hint)
    if young:
        message = f"{young:,} {listed} are younger than --min-age"
        yield _warning("young", "", message, "A later run may join them.")


def _warning(kind: WarningKind, key: str, message: str, hint: str) -> WarningEvent:
    return {"type": kind, "key": key, "message": message, "hint": hint}
