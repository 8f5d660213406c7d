"""The `coalesce` command."""

import sys

from coalesce.exits import ExitCode


def main() -> None:
    """Loads the command and runs it; Ctrl-C while it loads ends it without a traceback."""
    try:
        from coalesce.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    run()
