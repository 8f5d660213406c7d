"""`python -m coalesce` is `coalesce`."""

from coalesce.cli import main

main()
