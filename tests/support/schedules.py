"""How many schedules a test tries, and how it counts them."""

import os
from collections.abc import Callable

# Schedules per part of a test that tries them at random: more of them cost only time.
SEEDS = int(os.environ.get("COALESCE_TEST_SEEDS", "10"))


Tally = Callable[[str, int], None]
