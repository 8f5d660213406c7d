"""How a command ends."""

from __future__ import annotations

from collections.abc import Callable

import typer

from coalesce.errors import CoalesceError


def exit_with(work: Callable[[], int]) -> None:
    """Ends the process with what the work says, or one line for what stopped it before there was a
    report.
    """
    try:
        code = work()
    except CoalesceError as error:
        from coalesce.exits import exit_code_of

        typer.echo(f"error: {error.message.rstrip('.')}. {error.hint}".rstrip(), err=True)
        code = exit_code_of(error)
    raise typer.Exit(code)
