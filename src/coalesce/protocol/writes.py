"""Writing under the state prefix: what stands there afterwards counts, not the answer."""

from __future__ import annotations

from coalesce.errors import NotFound, PreconditionFailed, StorageError
from coalesce.storage.base import ObjectStore

_TRIES = 3


async def write_state(
    store: ObjectStore,
    key: str,
    data: bytes,
    *,
    if_none_match: bool = False,
    if_match: str = "",
    content_type: str = "",
) -> str:
    """Writes an object whose bytes no other writer would write, and returns its ETag.

    A lost answer, a 409 or a 5xx ends nothing: what stands at the key is compared, and the request
    sent again, unless the client has done so itself. The refusal that a repeated request gets from
    its own first try is no refusal.

    Raises PreconditionFailed or NotFound where the condition does not hold and no earlier try of
    this write can be why, StorageError where nothing could be written or known.
    """
    tries = 0
    while True:
        tries += 1
        try:
            return await store.put(
                key,
                data,
                if_none_match=if_none_match,
                if_match=if_match,
                content_type=content_type,
            )
        except StorageError as error:
            refused = isinstance(error, PreconditionFailed | NotFound)
            try:
                if etag := await _find(store, key, data):
                    return etag
            except StorageError as unknown:
                if refused and (tries > 1 or error.repeated):
                    raise unknown from error
            if refused or error.repeated or tries == _TRIES:
                raise


async def _find(store: ObjectStore, key: str, data: bytes) -> str:
    """The ETag of the object at a key if it holds these bytes, else nothing.

    Raises StorageError where that cannot be known.
    """
    try:
        body = await store.get(key)
    except NotFound:
        return ""
    return body.etag if body.data == data else ""
