"""How a command is made: groups of options become its signature, its help and its values.

A command is a function from values to an exit code. What it does is imported when it is asked for:
`--help` should be there at once.
"""

from __future__ import annotations

import errno
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from coalesce.cli.options import CONFIG_FILE, Group, Option, Values
from coalesce.errors import AccessDenied, CoalesceError, UsageError

if TYPE_CHECKING:
    from coalesce.cli.origins import Gathered

Work = Callable[["Gathered"], int]

WIDTH = 100
_HELP = ("-h, --help", "show this help")
_VERSION = ("-V, --version", "show the version")
_EPILOG = (
    "Each option can also be set by an environment variable, COALESCE_ and its long name as in "
    "COALESCE_ENDPOINT_URL, and by that name in the file of --config. The command line goes "
    "before the environment, the environment before the file."
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command's name, its help, and the groups of options that it takes."""

    name: str
    help: str
    groups: tuple[Group, ...]

    @property
    def options(self) -> Iterator[Option]:
        """All of them, the hidden ones too."""
        return (option for group in self.groups for option in group.options)

    @property
    def has_file(self) -> bool:
        """Whether a configuration file has a say in it."""
        return any(option.name == "config" for option in self.options)

    @property
    def sections(self) -> dict[str, list[Option]]:
        """What the help shows, by title; groups of one title make one section."""
        found: dict[str, list[Option]] = {}
        for group in self.groups:
            if shown := [option for option in group.options if not option.hidden]:
                found.setdefault(group.title, []).extend(shown)
        return found


COMMANDS: dict[str, Command] = {}
"""Every command, in the order of the help."""


def _full_name(ctx: Any) -> str:
    """A command's name as it is typed after `coalesce`, such as `layout show`; empty for none."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return " ".join(names)


@contextmanager
def _on_full_stdout() -> Iterator[None]:
    """Ends the process in one line, with 10, if a help or a version cannot be written.

    A pipe that nobody reads any more is no failure of a help: it ends quietly, with 1.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        from coalesce.exits import ExitCode

        typer.echo(f"error: cannot write to stdout: {error.strerror}", err=True)
        raise typer.Exit(ExitCode.CONFIGURATION) from error


class _Help(TyperCommand):
    """A command's help in sections of plain text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _on_full_stdout():
            return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from coalesce.cli.describe import help_of

        command = COMMANDS[_full_name(ctx)]
        for title, options in command.sections.items():
            with formatter.section(title):
                formatter.write_dl([(o.usage, help_of(command.name, o)) for o in options])
        with formatter.section("General"):
            formatter.write_dl([_VERSION, _HELP])


class Commands(TyperGroup):
    """A list of commands: all of them with what their exit codes mean, or those of one name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Shows a help and the version too, which are options."""
        with _on_full_stdout():
            return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the sections of a list's help."""
        from coalesce.exits import ExitCode

        name = _full_name(ctx)
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (command.name, command.help)
                    for command in COMMANDS.values()
                    if command.name.startswith(name)
                ]
            )
        if name:
            with formatter.section("Options"):
                formatter.write_dl([_VERSION, _HELP])
            return
        with formatter.section("Options"):
            completion = [
                (f"--{name}-completion", f"{name} completion for this shell")
                for name in ("install", "show")
            ]
            formatter.write_dl([_VERSION, _HELP, *completion])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), code.meaning) for code in ExitCode])


def add_command(app: typer.Typer, *groups: Group) -> Callable[[Work], Work]:
    """Makes a command of a function; its name and its docstring are the command's.

    A command `show` of the app `layout` is the function `layout_show`.
    """

    def register(work: Work) -> Work:
        summary = " ".join((inspect.getdoc(work) or "").split())
        command = Command(work.__name__.replace("_", " "), summary, groups)
        COMMANDS[command.name] = command

        def run(version: bool, **typed: object) -> None:
            raise typer.Exit(_exit_code(command, lambda: work(_values(command, typed))))

        run.__signature__ = inspect.Signature(list(_parameters(command)))  # type: ignore[attr-defined]
        app.command(
            command.name.rpartition(" ")[2],
            cls=_Help,
            help=command.help,
            epilog=_EPILOG if command.has_file else None,
            context_settings={"max_content_width": WIDTH},
        )(run)
        return work

    return register


def show_version(wanted: bool) -> bool:
    """Prints the version and ends the process, if that is wanted."""
    if not wanted:
        return False
    from coalesce import __version__

    typer.echo(f"coalesce {__version__}")
    raise typer.Exit


def version_option() -> Any:
    """`--version` and `-V`, on every level."""
    return typer.Option(
        False, "--version", "-V", callback=show_version, is_eager=True, help="show the version"
    )


def _exit_code(command: Command, work: Callable[[], int]) -> int:
    """What the work says, or one line on stderr for what stopped it before there was a report."""
    try:
        return work()
    except CoalesceError as error:
        from coalesce.exits import ExitCode, exit_code_of

        hint = error.hint
        if hint == UsageError.hint:
            hint = f"See `coalesce {command.name} --help`."
        typer.echo(f"error: {error.message.rstrip('.')}. {hint}".rstrip(), err=True)
        denied = isinstance(error, AccessDenied)  # no group's failure, but the whole command's
        return ExitCode.CONFIGURATION if denied else exit_code_of(error)


def _values(command: Command, typed: Values) -> Gathered:
    """What was said of the command's options, wherever it was said.

    Of a configuration file, which all commands may share, settings count for each of them, and
    other options for those that take them.
    """
    from coalesce.cli import origins
    from coalesce.cli.request import FILE_NAMES

    known = [option for each in COMMANDS.values() for option in each.options]
    own = {option.name: option for option in command.options}
    origins.check_variables(known, os.environ)
    given = {name: value for name, value in typed.items() if value is not None}
    environment = origins.read_environment(own.values(), os.environ)
    file: Values = {}
    path = given.pop("config", None) or environment.get("config")
    if command.has_file:
        spellings = origins.file_spellings([*known, *own.values()], FILE_NAMES)
        found = origins.read_file(None if path is None else str(path), spellings)
        file = {n: v for n, v in found.items() if n in own or origins.is_setting(n, FILE_NAMES)}
    scheduler = origins.read_scheduler(os.environ)
    sources = {
        origins.Origin("scheduler", origins.scheduler_of(os.environ)): scheduler,
        origins.Origin("file", str(path or CONFIG_FILE)): file,
        **{
            origins.Origin("variable", origins.variable_of(own[name], os.environ)): {name: value}
            for name, value in environment.items()
        },
        **{
            origins.Origin("option", own[name].long or own[name].value): {name: value}
            for name, value in given.items()
        },
    }
    return origins.Gathered(
        origins.gather(given, environment, file, scheduler), origins.trace(sources)
    )


def _parameters(command: Command) -> Iterator[inspect.Parameter]:
    """The options as typer wants them: what is not given is None, all else is text."""
    for option in command.options:
        default, kind = _parameter(command, option)
        yield inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
        )
    yield inspect.Parameter(
        "version", inspect.Parameter.KEYWORD_ONLY, default=version_option(), annotation=bool
    )


def _parameter(command: Command, option: Option) -> tuple[Any, Any]:
    def complete() -> list[str]:
        from coalesce.cli.describe import choices_of

        return list(choices_of(command.name, option))

    if not option.names:
        kind = list[str] | None if option.repeatable else str | None
        return typer.Argument(None, metavar=option.value), kind
    info = typer.Option(
        None,
        *option.names,
        metavar=option.value or None,
        hidden=option.hidden,
        autocompletion=complete if "{choices}" in option.help else None,
    )
    if not option.value:
        return info, bool | None
    return info, list[str] | None if option.repeatable else str | None
