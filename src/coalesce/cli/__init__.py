"""The `coalesce` command."""

from coalesce.cli.app import main

__all__ = ["main"]
