"""A right that is missing under the state prefix."""

from __future__ import annotations

from coalesce.errors import AccessDenied, ConfigurationError
from coalesce.storage.rights import action_of


def missing_right(error: AccessDenied) -> ConfigurationError:
    """The failure that names the IAM action which is missing: once, in the hint if the store's
    refusal does not name it.
    """
    action = action_of(error.operation)
    right = "that right" if action in error.message else action
    return ConfigurationError(
        error.message,
        key=error.key,
        code=error.code,
        request_id=error.request_id,
        hint=f"Grant {right} under the state prefix; `coalesce policy` prints what a run needs.",
        operation=error.operation,
    )
