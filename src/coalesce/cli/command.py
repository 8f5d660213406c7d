"""How a command is made: groups of options become its signature, its help and its values.

A command is a function from values to an exit code. What it does is imported when it is asked for:
`--help` should be there at once.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from coalesce.cli.options import Group, Option, Values
from coalesce.errors import CoalesceError, UsageError

Work = Callable[[Values], int]

WIDTH = 100
_HELP = ("-h, --help", "show this help")
_VERSION = ("-V, --version", "show the version")
_EPILOG = (
    "Each option can also be set by an environment variable, COALESCE_ and its long name as in "
    "COALESCE_ENDPOINT_URL, and most of them in the file of --config. The command line goes "
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


class _Help(TyperCommand):
    """A command's help in sections of plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from coalesce.cli.describe import help_of

        command = COMMANDS[str(self.name)]
        for title, options in command.sections.items():
            with formatter.section(title):
                formatter.write_dl([(o.usage, help_of(command.name, o)) for o in options])
        with formatter.section("General"):
            formatter.write_dl([_VERSION, _HELP])


class Commands(TyperGroup):
    """The list of all commands, and what their exit codes mean."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the sections of `coalesce --help`."""
        from coalesce.exits import ExitCode

        with formatter.section("Commands"):
            formatter.write_dl([(command.name, command.help) for command in COMMANDS.values()])
        with formatter.section("Options"):
            completion = [
                (f"--{name}-completion", f"{name} completion for this shell")
                for name in ("install", "show")
            ]
            formatter.write_dl([_VERSION, _HELP, *completion])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), code.meaning) for code in ExitCode])


def add_command(app: typer.Typer, *groups: Group) -> Callable[[Work], Work]:
    """Makes a command of a function; its name and its docstring are the command's."""

    def register(work: Work) -> Work:
        summary = " ".join((inspect.getdoc(work) or "").split())
        command = Command(work.__name__, summary, groups)
        COMMANDS[command.name] = command

        def run(version: bool, **typed: object) -> None:
            raise typer.Exit(_exit_code(command, lambda: work(_values(command, typed))))

        run.__signature__ = inspect.Signature(list(_parameters(command)))  # type: ignore[attr-defined]
        app.command(
            command.name,
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
        from coalesce.exits import exit_code_of

        hint = error.hint
        if hint == UsageError.hint:
            hint = f"See `coalesce {command.name} --help`."
        typer.echo(f"error: {error.message.rstrip('.')}. {hint}".rstrip(), err=True)
        return exit_code_of(error)


def _values(command: Command, typed: Values) -> Values:
    from coalesce.cli.origins import (
        check_variables,
        file_spellings,
        gather,
        read_environment,
        read_file,
        read_scheduler,
    )
    from coalesce.cli.request import FILE_NAMES

    known = [option for each in COMMANDS.values() for option in each.options]
    check_variables(known, os.environ)
    given = {name: value for name, value in typed.items() if value is not None}
    environment = read_environment(command.options, os.environ)
    file: Values = {}
    if command.has_file:
        path = given.pop("config", None) or environment.get("config")
        file = read_file(None if path is None else str(path), file_spellings(known, FILE_NAMES))
    return gather(given, environment, file, read_scheduler(os.environ))


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
        return typer.Argument(None, metavar=option.value), list[str] | None
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
