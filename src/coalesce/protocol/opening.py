"""How an output begins: what its first source says of itself, and an upload that says the same."""

from __future__ import annotations

from coalesce.content.attributes import problem_of
from coalesce.errors import (
    AccessDenied,
    Archived,
    AttributesTooLarge,
    BadRequest,
    NotFound,
    NotImplementedByStore,
    SourceUnusable,
    StorageError,
)
from coalesce.model import Batch, Source, Why
from coalesce.protocol.commit import metadata_of
from coalesce.protocol.session import Session
from coalesce.stop import Stop
from coalesce.storage.attributes import SSE, Attributes
from coalesce.transfer.comparison import read_tags
from coalesce.transfer.reads import not_as_listed


async def look_at_first(session: Session, source: Source) -> Attributes:
    """What the first source of a batch says of itself.

    Raises SourceUnusable if it changed or vanished since it was listed, or cannot be read;
    StorageError.
    """
    store, rules = session.store, session.rules.attributes
    async with session.capacity.reads.slot():
        try:
            head = await store.head(source.key)
        except (AccessDenied, BadRequest) as error:  # a 400 is S3's answer for a customer's own key
            raise SourceUnusable(source, Why.FAILED, error) from error
        except Archived as error:
            raise not_as_listed(source, error) from error
        if head is None or head.etag != source.etag:
            raise not_as_listed(source, NotFound(source.key))
        if head.archived:
            raise not_as_listed(source, Archived("in an archive tier"))
        try:
            tagged = head.tags and rules.asks_for_tags
            tags = await read_tags(store, source) if tagged else {}
        except NotFound as error:
            raise not_as_listed(source, error) from error
    return Attributes(head.attributes, tags, source.storage_class)


async def look_at_begin(
    session: Session, batch: Batch, stop: Stop
) -> Attributes | list[SourceUnusable]:
    """What the first source of a batch says of itself; or, if it cannot be read, why, and the same
    of all that follow it up to one that can: there may be many, as the oldest are archived first.

    Looks no further than one that changed, or than `stop` allows. Raises StorageError.
    """
    found: list[SourceUnusable] = []
    for source in batch.sources:
        try:
            first = await look_at_first(session, source)
        except SourceUnusable as error:
            found.append(error)
            if error.why is Why.CHANGED or stop.stopping:
                break
        else:
            return found or first
    return found


async def begin_upload(session: Session, batch: Batch, first: Attributes) -> str:
    """Creates the upload of a batch, which says of itself what `first` does and the user chose; its
    id.

    Raises AttributesTooLarge before anything is sent, StorageError.
    """
    rules = session.rules
    checksum = rules.capabilities.checksum
    metadata = metadata_of(batch, checksum, rules.version)
    attributes = rules.attributes.of_output(first)
    problem, option = problem_of(attributes, metadata)
    if problem:
        hint = f"The sources were kept; {option} leaves it out."
        raise AttributesTooLarge(f"{batch.output}: {problem}", key=batch.output, hint=hint)
    async with session.capacity.writes.slot():
        try:
            created = await session.store.create_upload(
                batch.output, checksum=checksum, metadata=metadata, attributes=attributes
            )
        except StorageError as error:
            refused = isinstance(error, AccessDenied | BadRequest | NotImplementedByStore)
            if error.repeated or not isinstance(error, AccessDenied | BadRequest):
                session.lease.mark_untidy()  # it may be open, and nobody knows its id
            if refused:
                error.hint = _hint(attributes) or error.hint
            raise
    if created.repeated:
        session.lease.mark_untidy()
    return created.upload_id


def _hint(attributes: Attributes) -> str:
    """What may be wrong with an upload that was refused; empty if it says nothing special."""
    said = {
        "the storage class (--storage-class none)": attributes.storage_class,
        "the encryption (--sse none, or rights on the key)": attributes.headers.get(SSE),
        "the tags (--tags none, or s3:PutObjectTagging)": attributes.tags,
    }
    named = " or ".join(name for name, value in said.items() if value)
    return named and f"The store may not accept {named} that the output is to have."
