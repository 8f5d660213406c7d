"""What programs call: the jobs of the command line as functions. See `docs/library.md`.

Nothing here prints, and what is logged goes to nobody who did not ask for it.
"""

import logging

logging.getLogger("coalesce").addHandler(logging.NullHandler())
