"""What every store must do alike: in memory, on embedded servers, and on the one that
COALESCE_TEST_ENDPOINT names.
"""

from support.store_contract import *  # noqa: F403
