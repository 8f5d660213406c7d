"""The `coalesce` command."""

import os
import sys

from coalesce.exits import ExitCode


def main() -> None:
    """Loads the command and runs it; Ctrl-C while it loads ends it without a traceback."""
    _open_standard_streams()
    try:
        from coalesce.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    run()


def _open_standard_streams() -> None:
    """Gives the null device to each standard stream that was closed before the start: otherwise a
    connection to the store would get its number.

    What a terminal or a pipe cannot show of stdout is replaced there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # it takes the lowest number that is free; worker processes inherit it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
