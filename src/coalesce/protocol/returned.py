"""The proof that an output was given back: without it no output is deleted."""

from __future__ import annotations

from collections.abc import Iterable

from coalesce.errors import Conflict, IntegrityError
from coalesce.model import Source
from coalesce.protocol.ledger import EntryHeader
from coalesce.protocol.names import SourcesThere
from coalesce.storage.base import Head

_WITNESS = object()
_AGAIN = "The output was kept. Run `coalesce undo` again: it gives back what is missing."


class Returned:
    """Proof that this process has itself proven every source of an output to be there, has just
    seen all of them in a listing, and then the output as it was before.

    Made by `prove_returned` alone. `size` is in bytes.
    """

    __slots__ = ("etag", "output", "size")

    def __init__(self, head: Head, witness: object) -> None:
        if witness is not _WITNESS:
            raise TypeError("only seeing all sources makes a Returned")
        self.output = head.key
        self.etag = head.etag
        self.size = head.size


def prove_returned(
    header: EntryHeader,
    proven: Iterable[Source],
    there: SourcesThere,
    before: Head,
    now: Head | None,
) -> Returned:
    """The proof that an output was given back.

    Args:
        header: What the ledger says of the output.
        proven: Its sources, each as the version whose content was proven.
        there: The sources that a listing shows after that.
        before: The output's HEAD, of the version that the sources were proven by.
        now: Its HEAD after the listing.

    Raises:
        Conflict: A source is not there any more as it was proven.
        IntegrityError: Others have changed the output, or not all sources were looked at.
    """
    count = 0
    for source in proven:
        found = there.find(source.key)
        if found is None or (found.etag, found.size) != (source.etag, source.size):
            message = f"{source.key}: was changed or deleted while its output was given back"
            raise Conflict(message, key=source.key, code="SourceChanged", hint=_AGAIN)
        count += 1
    if count != header.sources:
        message = f"{before.key}: {header.sources - count} of its sources were not looked at"
        raise IntegrityError(message, key=before.key)
    if now is None or (now.etag, now.size) != (before.etag, before.size):
        what = "is gone" if now is None else "was replaced"
        message = f"{before.key}: {what} while it was given back; its sources were kept"
        raise IntegrityError(message, key=before.key)
    return Returned(now, _WITNESS)
