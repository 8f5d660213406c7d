"""What a caller says: the settings of a run, and how the store is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from coalesce import settings
from coalesce.errors import UsageError
from coalesce.library.refusal import refusals_of
from coalesce.storage.s3 import S3Options as S3  # noqa: N814 - the name that callers use

__all__ = ["S3", "Settings", "reach"]

_HINT = "Settings are named as the options are: --max-size is max_size."


class Settings(settings.Settings):
    """Everything that a run can be told: see `docs/options.md`, where the options have these names.

    Neither variables nor a configuration file have a say in it. Raises ConfigurationError for what
    cannot be.
    """

    if not TYPE_CHECKING:  # type checkers make the parameters of the fields

        def __init__(self, /, **values: object) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise UsageError(refusals_of(Settings, error.errors()), hint=_HINT) from error

    def but(self, **changes: object) -> Settings:
        """The same settings with these changes, checked again."""
        return type(self).model_validate({**given(self), **changes})


def given(chosen: settings.Settings) -> dict[str, object]:
    """What was said of the settings; all else has its default."""
    return {name: getattr(chosen, name) for name in chosen.model_fields_set}


def reach(store: S3 | None, bucket: str) -> S3:
    """The way to a bucket. Raises ConfigurationError if `store` is the way to another one."""
    if store is None:
        return S3(bucket)
    if store.bucket not in ("", bucket):
        raise UsageError(
            f"the store's bucket {store.bucket!r} is not {bucket!r}, that of the settings",
            hint="Leave the bucket out of S3(...).",
        )
    return store.for_bucket(bucket)
