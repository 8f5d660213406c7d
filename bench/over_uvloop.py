"""`coalesce` on uvloop's event loop, for comparison."""

from __future__ import annotations

import sys

import uvloop

from coalesce.cli.app import main

if __name__ == "__main__":
    uvloop.install()
    sys.argv[0] = "coalesce"
    main()
