"""What can go wrong, sorted by what the caller can do about it."""

from __future__ import annotations

from coalesce.model import Source, Why


class CoalesceError(Exception):
    """Base of every expected failure: what happened, where, and what to do next.

    `key` is the object concerned, `code` the store's own error code or a short name of ours, `hint`
    one sentence on how to go on.
    """

    code = "Error"
    hint = ""

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        code: str = "",
        request_id: str = "",
        hint: str = "",
        operation: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.key = key
        self.code = code or type(self).code
        self.request_id = request_id
        self.hint = hint or type(self).hint
        self.operation = operation

    def __reduce__(self) -> tuple[object, ...]:
        """From one process to another."""
        return _rebuilt, (
            type(self),
            self.message,
            {
                name: getattr(self, name)
                for name in ("key", "code", "request_id", "hint", "operation")
            },
        )


class UsageError(CoalesceError):
    """The command line, the environment or the configuration file says something that makes no
    sense.
    """

    code = "Usage"
    hint = "See `coalesce --help`."


class ConfigurationError(CoalesceError):
    """Nothing can be done before a person changes the set-up: credentials, bucket, endpoint."""

    code = "Configuration"


class StoreRefused(ConfigurationError):
    """The store keeps too few guarantees for deleting to be safe."""

    code = "StoreRefused"


class StorageError(CoalesceError):
    """A request failed. Unless a subclass says more, nothing is known about its effect."""

    code = "StorageError"


class Unavailable(StorageError):
    """Time-out, lost connection or 5xx after all attempts: the effect is unknown."""

    code = "Unavailable"
    hint = "The store or the network was in trouble; run again."


class Throttled(Unavailable):
    """503 SlowDown or 429 after all attempts."""

    code = "SlowDown"
    hint = "The store asks for fewer requests; run again with a lower --concurrency."


class NotFound(StorageError):
    """404 NoSuchKey: the object is absent."""

    code = "NoSuchKey"


class NoSuchUpload(StorageError):
    """404 NoSuchUpload: aborted, or completed already."""

    code = "NoSuchUpload"


class PreconditionFailed(StorageError):
    """412: the condition did not hold, and nothing was done."""

    code = "PreconditionFailed"


class ConditionIgnored(PreconditionFailed):
    """The store answered in spite of the condition, and the answer is of another version."""


class Conflict(StorageError):
    """409 ConditionalRequestConflict: a concurrent change; a multipart upload must be started
    anew.
    """

    code = "ConditionalRequestConflict"


class AccessDenied(StorageError):
    """403: says nothing about whether the object exists."""

    code = "AccessDenied"
    hint = "Check the role's permissions on this key and on its KMS key."


class Archived(StorageError):
    """403 InvalidObjectState: in an archive tier, not readable without a restore."""

    code = "InvalidObjectState"
    hint = "Restore the object from its archive tier first."


class BadRequest(StorageError):
    """400 (BadDigest, InvalidPart, EntityTooSmall, InvalidRequest ...): refused, nothing was
    done.
    """

    code = "BadRequest"


class NotImplementedByStore(StorageError):
    """501: the store does not know this feature."""

    code = "NotImplemented"


class ListingError(StorageError):
    """A listing failed or contradicted itself: what lies there is unknown, not absent."""

    code = "ListingUnknown"
    hint = "Nothing under this prefix was touched; run again."


class ContentError(CoalesceError):
    """A source's bytes are not what a whole source holds; joining it would hide records from
    readers.
    """

    code = "CorruptSource"
    hint = "The source was left in place; look at it, repair or move it, and run again."


class SourceChanged(CoalesceError):
    """A source is no longer the version that was listed."""

    code = "SourceChanged"
    hint = "The new version was left alone; the next run takes it up."


class SourceUnusable(CoalesceError):
    """One source cannot be joined; its batch is planned again without it.

    `why` is the reason under which the report counts it. Message, code and request id are those of
    the failure that showed it.
    """

    code = "SourceUnusable"

    def __init__(self, source: Source, why: Why, cause: CoalesceError) -> None:
        super().__init__(
            cause.message,
            key=source.key,
            code=cause.code,
            request_id=cause.request_id,
            hint=cause.hint,
            operation=cause.operation,
        )
        self.source = source
        self.why = why
        self.cause = cause


class IntegrityError(CoalesceError):
    """What the store holds, or says it holds, is not what was sent."""

    code = "IntegrityError"
    hint = "Sources were kept. Compare the output with its sources before running again."


class Fenced(CoalesceError):
    """Another run took this group over; nothing more may be done to it."""

    code = "Fenced"
    hint = "Another run finished or undid this group; see its report."


class GroupOwned(CoalesceError):
    """Another run's plan record stands on this group."""

    code = "GroupLeased"
    hint = "Another run works on this group; run again when it has ended."


class PlanStale(CoalesceError):
    """What a written plan says of a group is not so any more."""

    code = "PlanStale"
    hint = "Nothing of these outputs was begun; plan again."


class LeaseLost(CoalesceError):
    """This run's lease expired or was taken away, so it must not complete or delete anything
    more.
    """

    code = "LeaseLost"
    hint = "The run stopped before its next change; run again."


class RecordDamaged(CoalesceError):
    """A plan record cannot be read, or names keys outside the group it stands for."""

    code = "RecordDamaged"
    hint = "Nothing of this group was touched. Move the record away after checking that its outputs and sources are whole."


def _rebuilt(kind: type[CoalesceError], message: str, more: dict[str, str]) -> CoalesceError:
    return kind(message, **more)


def first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a task group: what it did to its siblings is not worth telling."""
    failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
