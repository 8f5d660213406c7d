"""A right that is missing under the state prefix."""

from __future__ import annotations

from coalesce.errors import AccessDenied, ConfigurationError
from coalesce.storage.rights import action_of


def missing_right(error: AccessDenied, prefix: str) -> ConfigurationError:
    """The failure that names the IAM action which is missing under a state prefix."""
    action = action_of(error.operation)
    message = f"{action} is missing on {prefix!r}: {error.message}"
    hint = f"Grant {action} under the state prefix; `coalesce policy` prints what a run needs."
    return ConfigurationError(
        message, key=error.key, code=error.code, request_id=error.request_id, hint=hint
    )
