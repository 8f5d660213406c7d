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

    Raises PreconditionFailed or NotFound where the condition does not hold, StorageError where
    nothing could be written or known.
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
            if etag := await _find(store, key, data):
                return etag
            final = isinstance(error, PreconditionFailed | NotFound) or error.repeated
            if final or tries == _TRIES:
                raise


async def _find(store: ObjectStore, key: str, data: bytes) -> str:
    """The ETag of the object at a key if it holds these bytes, else nothing."""
    try:
        body = await store.get(key)
    except StorageError:
        return ""
    return body.etag if body.data == data else ""
