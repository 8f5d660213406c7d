"""Every failure that the program expects, classed by what the caller can do about it."""

from __future__ import annotations

from typing_extensions import override

from coalesce.model import Source, Why


class CoalesceError(Exception):
    """Base of every expected failure: what happened, where, and what to do next.

    Args:
        message: What happened, as a phrase without a full stop.
        key: The object, prefix or state key concerned; for display only.
        code: The store's error code, or a short name of ours (default: the class's).
        request_id: The store's id of the failed request.
        hint: One or two sentences that say what to do next (default: the class's).
        operation: The S3 operation that failed.
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
        # Whether the request was sent more than once: an earlier try may have had effect.
        self.repeated = False

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles the failure: workers send theirs to the main process."""
        return _rebuild, (
            type(self),
            self.message,
            {
                name: getattr(self, name)
                for name in ("key", "code", "request_id", "hint", "operation")
            },
            self.repeated,
        )


class ConfigurationError(CoalesceError):
    """Nothing works until someone changes the set-up: credentials, bucket or endpoint."""

    code = "Configuration"


class UsageError(ConfigurationError):
    """The command line, the environment or the configuration file holds an invalid value."""

    code = "Usage"
    hint = "Run `coalesce --help` for the options."


class StoreRefused(ConfigurationError):
    """The store lacks guarantees without which deleting would not be safe."""

    code = "StoreRefused"


class StorageError(CoalesceError):
    """A request failed. Unless a subclass says otherwise, its effect is unknown."""

    code = "StorageError"


class Unavailable(StorageError):
    """Time-out, lost connection or 5xx after all retries: the effect is unknown."""

    code = "Unavailable"
    hint = "The store or the network failed; run again."


class Unanswered(Unavailable):
    """No answer came, or none that can be read: the request may still have effect later."""


class Throttled(Unavailable):
    """503 SlowDown or 429 after all retries."""

    code = "SlowDown"
    hint = "The store is limiting requests; run again with a lower --concurrency."


class NotFound(StorageError):
    """404 NoSuchKey: the object is absent. A 404 without S3's code does not say so."""

    code = "NoSuchKey"
    hint = "Check the key, and whether something else deletes objects there."


class NoSuchUpload(StorageError):
    """404 NoSuchUpload: the upload was aborted or is already completed."""

    code = "NoSuchUpload"
    hint = "Another run aborted or completed this upload; run again."


class TooLong(StorageError):
    """The object has more bytes than it was listed with; they were not read."""

    code = "TooLong"
    hint = "Look at the object; the listing and its body do not agree."


class PreconditionFailed(StorageError):
    """412: the condition did not hold, and nothing was done."""

    code = "PreconditionFailed"
    hint = "Something else wrote to this key at the same time; run again."


class ConditionIgnored(PreconditionFailed):
    """The store ignored the condition and answered with another version of the object."""


class Conflict(StorageError):
    """409 ConditionalRequestConflict: the key changed at the same time.

    A multipart upload must be started again.
    """

    code = "ConditionalRequestConflict"
    hint = "Something else changed this key at the same time; run again."


class AccessDenied(StorageError):
    """403 AccessDenied: whether the object exists is unknown."""

    code = "AccessDenied"
    hint = (
        "Check the role's permissions on this key and on its KMS key; "
        "`coalesce policy` prints the ones it needs."
    )


class Archived(StorageError):
    """403 InvalidObjectState: the object is archived and must be restored before it is read."""

    code = "InvalidObjectState"
    hint = "Restore the object from its archive tier, then run again."


class BadRequest(StorageError):
    """400 (BadDigest, InvalidPart, EntityTooSmall, InvalidRequest ...): refused without effect."""

    code = "BadRequest"
    hint = "The store rejected the request; `coalesce probe` shows what it supports."


class NotImplementedByStore(StorageError):
    """501 or 405: the store does not have this feature."""

    code = "NotImplemented"
    hint = "The store lacks this feature; `coalesce probe` shows what it supports."


class ListingError(StorageError):
    """A listing failed or contradicted itself: what is there is unknown, not absent."""

    code = "ListingUnknown"
    hint = "Nothing under this prefix was touched; run again."


class ContentError(CoalesceError):
    """A source is truncated or corrupt: joined, it would hide records from readers."""

    code = "CorruptSource"
    hint = "The source was kept. Repair it or move it away, then run again."


class HeadersDiffer(ContentError):
    """A source has another first line than its neighbours, and is not joined with them.

    Attributes:
        kind: What it has in common with sources that it may be joined with.
    """

    code = "HeadersDiffer"
    hint = "Sources with the same header are joined with each other."
    kind: str = ""


class AttributesDiffer(CoalesceError):
    """A source says something else of itself than its neighbours, and is not joined with them."""

    code = "AttributesDiffer"
    hint = "Leave --strict-attributes out to join it all the same."


class AttributesTooLarge(CoalesceError):
    """An output was to say more of itself than S3 allows."""

    code = "AttributesTooLarge"
    hint = "The sources were kept."


class SourceChanged(CoalesceError):
    """A source is no longer the version that was listed."""

    code = "SourceChanged"
    hint = "The new version was kept; the next run considers it."


class SourceUnusable(CoalesceError):
    """One source cannot be joined; its batch is planned again without it.

    Message, key, code, request id and hint are those of `cause`.

    Args:
        source: The source.
        why: The reason under which the report counts it.
        cause: The failure that showed it.
        kind: What it has in common with others that it may be joined with, if it is not spoilt.
    """

    code = "SourceUnusable"

    def __init__(self, source: Source, why: Why, cause: CoalesceError, kind: str = "") -> None:
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
        self.kind = kind

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.source, self.why, self.cause, self.kind)


class IntegrityError(CoalesceError):
    """What the store holds, or claims to hold, differs from what was sent."""

    code = "IntegrityError"
    hint = "The sources were kept. Compare the output with them before running again."


class Fenced(CoalesceError):
    """Another run took over this group; this run must not touch it any more."""

    code = "Fenced"
    hint = "See the report of the run that took over this group."


class GroupOwned(CoalesceError):
    """This group has a plan record of another run."""

    code = "GroupLeased"
    hint = "Another run is working on this group; run again when it has ended."


class UndoUnfinished(CoalesceError):
    """An undo of an output in this group was begun, and its run is dead."""

    code = "UndoUnfinished"
    hint = (
        "Nothing in this group was touched. `coalesce undo` of that output finishes it, and so "
        "does `coalesce recover`."
    )


class KeyTaken(CoalesceError):
    """Another object has the name of a source that is to be given back."""

    code = "KeyTaken"
    hint = (
        "That object was left as it is, and so was the output. Move the object away, or leave the "
        "output joined; then run `coalesce undo` again."
    )


class CannotGiveBack(CoalesceError):
    """An output was made of what `undo` does not write."""

    code = "CannotGiveBack"
    hint = "Nothing was touched. `coalesce extract` takes its sources out, one by one."


class PlanStale(CoalesceError):
    """A group in the bucket no longer matches the saved plan."""

    code = "PlanStale"
    hint = "These outputs were not started; make a new plan."


class LeaseLost(CoalesceError):
    """This run's lease expired or was taken over: it must not complete or delete anything more."""

    code = "LeaseLost"
    hint = "The run stopped before it changed anything else; run again."


class WorkerDied(CoalesceError):
    """A worker process is gone, and what it was working on with it."""

    code = "WorkerDied"
    hint = (
        "Check whether the container ran out of memory. "
        "No record is lost: the next run finishes what was started."
    )


class RecordDamaged(CoalesceError):
    """A plan record cannot be read, or names keys outside its group."""

    code = "RecordDamaged"
    hint = (
        "Nothing in this group was touched. "
        "Check that its outputs and sources are intact, then move the record away."
    )


def _rebuild(
    kind: type[CoalesceError], message: str, more: dict[str, str], repeated: bool
) -> CoalesceError:
    error = kind(message, **more)
    error.repeated = repeated
    return error


def defect(error: Exception) -> CoalesceError:
    """The failure of a part of the work that met an error which nobody expects."""
    hint = "Please report it with the log."
    return CoalesceError(f"{type(error).__name__}: {error}", code="Defect", hint=hint)


def first_failure(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that came first in a task group; the others are its consequences."""
    failure: BaseException = errors
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
