"""The command line in this process, over buckets in memory: what a user sees of one command."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from typer.testing import CliRunner

from coalesce import errors
from coalesce.cli.app import COMMANDS, app
from coalesce.cli.options import Option
from coalesce.cli.origins import file_spellings
from coalesce.cli.request import FILE_NAMES
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.storage.memory.store import Request
from coalesce.storage.s3 import S3Options
from coalesce.transfer.limits import Capacity

OPENING = (
    "cli.demo",
    "cli.extract",
    "cli.generate",
    "cli.history",
    "cli.layout",
    "cli.probe",
    "cli.undo",
    "library.files",
    "library.jobs",
)
OPTIONS = [option for command in COMMANDS.values() for option in command.options]

Said = Mapping[str, object]
"""Values of options by their names in the models: text, a number, a list, or a switch."""


@dataclass(frozen=True)
class Wording:
    """One way to say a value: as arguments, as variables, or as lines of a file."""

    name: str
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def wordings(command: str, name: str, value: object) -> Iterator[Wording]:
    """Every way in which an option of a command can be given a value."""
    option = next(o for o in COMMANDS[command].options if o.name == name)
    yield from _arguments(option, value)
    for variable, positive in option.variables.items():
        yield Wording(variable, variables={variable: _as_variable(value, positive)})
    if not COMMANDS[command].has_file:
        return
    spellings = file_spellings([*OPTIONS, *COMMANDS[command].options], FILE_NAMES)
    for spelling, (setting, positive) in spellings.items():
        if setting == name:
            written = json.dumps(value if positive else not value)
            yield Wording(
                f"{spelling} in a file", lines=(f"{spelling.replace('_', '-')} = {written}",)
            )


def _arguments(option: Option, value: object) -> Iterator[Wording]:
    if not option.names:
        assert isinstance(value, list)
        yield Wording("arguments", tuple(value))
    for names in option.names:
        for name, positive in zip(names.split("/"), (True, False), strict=False):
            if not option.value and positive is value:
                yield Wording(name, (name,))
            elif option.value:
                texts = value if isinstance(value, list) else [value]
                yield Wording(name, tuple(word for text in texts for word in (name, str(text))))


def _as_variable(value: object, positive: bool) -> str:
    if isinstance(value, bool):
        return str(value is positive).lower()
    return " ".join(value) if isinstance(value, list) else str(value)


def typed(command: str, said: Said) -> list[str]:
    """The same options on the command line, each by its first name."""
    words: list[str] = []
    for name, value in said.items():
        words += next(wordings(command, name, value)).arguments
    return words


class Watched(MemoryStore):
    """A store in memory as the commands open it; it notes what is asked of it."""

    def __init__(self, bucket: MemoryBucket, sight: "Sight") -> None:
        super().__init__(bucket)
        self.endpoint = "memory"
        self._sight = sight
        self.before, self.after = self._note, self._forget

    async def create_bucket(self) -> None: ...

    async def _note(self, request: Request) -> None:
        sight = self._sight
        sight.requests.append((request.operation, request.key))
        if request.operation == "GetObject" and request.key.startswith("data/"):
            sight.reading += 1
            sight.most_read = max(sight.most_read, sight.reading)
            for _ in range(20):
                await asyncio.sleep(0)  # so that others can be asked for meanwhile

    async def _forget(self, request: Request) -> None:
        sight = self._sight
        if request.operation == "GetObject" and request.key.startswith("data/"):
            sight.reading -= 1
        if request.operation == "PutObject" and "/runs/" in request.key:
            sight.leases.append(json.loads(self.bucket.objects[request.key].data))


@dataclass
class Sight:
    """What can be seen of a command once it is over.

    Attributes:
        most_read: The most sources that were read at the same time.
        leases: Every lease as it was written.
        processes: How many processes were started, for each job that started any.
        memory: The budgets for bodies.
        bars: How many progress bars were shown.
        pauses: The seconds between two lines of progress.
    """

    buckets: dict[str, MemoryBucket]
    folder: Path
    code: int = 0
    stdout: str = ""
    stderr: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    reading: int = 0
    most_read: int = 0
    leases: list[dict[str, Any]] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    bars: int = 0
    pauses: list[float] = field(default_factory=list)

    @property
    def bucket(self) -> MemoryBucket:
        return self.buckets["b"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]

    @property
    def last(self) -> dict[str, Any]:
        """The last of them: a summary, a status."""
        assert self.events, f"{self.code}: {self.stderr}"
        return self.events[-1]

    @property
    def outputs(self) -> list[str]:
        """The outputs in all buckets."""
        return sorted(
            key if name == "b" else f"{name}/{key}"
            for name, bucket in self.buckets.items()
            for key, stored in bucket.objects.items()
            if "coalesce-plan" in stored.metadata
        )


class _NoWorkers:
    """Stands for worker processes: none can share a bucket in memory."""

    def __init__(self, count: int, _: object, sight: Sight) -> None:
        sight.processes.append(count)

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...


@contextmanager
def watching(sight: Sight, *, terminal: bool) -> Iterator[None]:
    """Lets the commands meet the sight's buckets in the place of S3, for the length of a block."""

    @asynccontextmanager
    async def opened(options: S3Options) -> AsyncIterator[Watched]:
        if options.bucket not in sight.buckets:
            raise errors.NotFound(f"no bucket {options.bucket}", code="NoSuchBucket")
        yield Watched(sight.buckets[options.bucket], sight)

    real_sleep, real_capacity = asyncio.sleep, Capacity.of

    async def sleep(seconds: float, *result: Any) -> Any:
        if 5 <= seconds < 10:  # nothing but the lines of progress waits for so long here
            sight.pauses.append(seconds)
            seconds = 0
        return await real_sleep(seconds, *result)

    def capacity(concurrency: int, memory: int, throttled: Any) -> Capacity:
        sight.memory.append(memory)
        return real_capacity(concurrency, memory, throttled)

    async def bar(*_: object) -> None:
        sight.bars += 1
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patched:
        for module in OPENING:
            patched.setattr(f"coalesce.{module}.open_s3", opened)
        patched.setattr("coalesce.cli.demo.embedded_server", lambda: nullcontext("memory"))
        patched.setattr("coalesce.library.jobs.Workers", lambda n, o: _NoWorkers(n, o, sight))
        patched.setattr("coalesce.run.division.usable_cpus", lambda: 3)
        patched.setattr("coalesce.cli.output.Printer._bar", bar)
        patched.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda _: terminal)
        patched.setattr("asyncio.sleep", sleep)
        patched.setattr(Capacity, "of", capacity)
        yield


def invoke(
    words: Sequence[str],
    buckets: Mapping[str, MemoryBucket],
    *,
    variables: Mapping[str, str] | None = None,
    lines: Sequence[str] = (),
    folder: Path,
    terminal: bool = False,
    stdin: str | None = None,
) -> Sight:
    """Runs one command over copies of the buckets; the lines are those of its file."""
    (folder / "coalesce.toml").write_text("\n".join(lines))
    sight = Sight({name: copy.deepcopy(bucket) for name, bucket in buckets.items()}, folder)
    with watching(sight, terminal=terminal), pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        env = {"TERM": "xterm", **(variables or {})}
        done = CliRunner().invoke(app, [*words], input=stdin, env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    sight.code, sight.stdout, sight.stderr = done.exit_code, done.stdout, done.stderr
    return sight
