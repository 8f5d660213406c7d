"""What an option of a command does, however it is said."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalesce.storage.memory import MemoryBucket
from support.invoke import Sight, Wording, invoke, typed, wordings
from support.lakes import lake, other

Look = Callable[[Sight], object]

# What commands write into the folder where they are started.
WRITTEN = ("r.json", "saved.jsonl", "r.html", "m.json", "m.prom", "taken.gz")


@dataclass(frozen=True)
class Case:
    """A value of an option, and what is `seen` with it and not without it.

    Attributes:
        fill: Makes the bucket `b`.
        others: Makes the bucket `other`.
        instead: The usual options of the command that this one stands for.
        never: The usual options of the command that are left out with it and without it.
        more: Options that are given with it and without it.
        same: Whether nothing is different with it: it is taken for the sake of job definitions.
        terminal: Whether stderr is one.
    """

    value: object
    look: Look
    seen: object = None
    fill: Callable[[], MemoryBucket] = lake
    others: Callable[[], MemoryBucket] = other
    instead: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    more: Mapping[str, object] = field(default_factory=dict)
    same: bool = False
    terminal: bool = False


def check_effect(
    command: str, name: str, case: Case, usual: Mapping[str, object], folder: Path
) -> None:
    """Says the option in every way, and looks; `usual` are the command's other options."""
    given = {n: v for n, v in (usual | case.more).items() if n not in case.never}

    def look(words: list[str], said: Wording) -> object:
        sight = invoke(
            [command, *words, *said.arguments],
            {"b": case.fill(), "other": case.others(), "demo": MemoryBucket()},
            variables=said.variables,
            lines=said.lines,
            folder=folder,
            terminal=case.terminal,
        )
        try:
            return case.look(sight)
        finally:
            for written in WRITTEN:
                (folder / written).unlink(missing_ok=True)

    without = look(typed(command, given), Wording("without"))
    rest = {n: v for n, v in given.items() if n not in (*case.instead, name)}
    for said in wordings(command, name, case.value):
        seen = look(typed(command, rest), said)
        assert seen == (without if case.same else case.seen), said.name
        assert case.same or seen != without, said.name


# What can be looked at


def short(key: str) -> str:
    return key.removeprefix("other/").removeprefix("data/").removesuffix(".jsonl.gz")


def outputs(sight: Sight) -> list[str]:
    """The outputs in the buckets, in short."""
    return sorted(short(key) for key in sight.outputs)


def named_in(kind: str) -> Look:
    """The outputs that events of this kind name, in short."""
    return lambda sight: sorted(short(e["key"]) for e in sight.events if e["type"] == kind)


def count(look: Look) -> Look:
    return lambda sight: len(look(sight))  # type: ignore[arg-type]


def code(sight: Sight) -> int:
    return sight.code


def in_summary(*path: str) -> Look:
    """A value in the last JSON line on stdout."""

    def look(sight: Sight) -> object:
        value: Any = sight.last
        for name in path:
            value = value[name]
        return value

    return look


def everything(sight: Sight) -> object:
    """All that an option without effect could have an effect on."""
    keys = [sorted(bucket.objects) for bucket in sight.buckets.values()]
    return sight.code, keys, sight.processes, [event["type"] for event in sight.events]


def state(sight: Sight) -> bool:
    """Whether the program writes and looks under `elsewhere/`, and nowhere else of its own."""
    keys = [key for _, key in sight.requests]
    return any(key.startswith("elsewhere/") for key in keys) and not any(
        key.startswith("_coalesce/") for key in keys
    )


def stdout_has(words: str) -> Look:
    return lambda sight: words in sight.stdout


def stderr_has(words: str) -> Look:
    return lambda sight: words in sight.stderr


def stdout_is_json(sight: Sight) -> bool:
    return sight.stdout.startswith("{")


def writes(name: str) -> Look:
    """Whether a file with something in it has been written."""

    def look(sight: Sight) -> bool:
        file = sight.folder / name
        return file.is_file() and bool(file.read_text())

    return look
