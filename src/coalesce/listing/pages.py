"""The pages of a listing, checked for contradictions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from coalesce.errors import ListingError
from coalesce.storage.base import ObjectStore, Page


class RepeatedToken(ListingError):
    """The store returned a page token twice: such a listing would never end.

    MinIO does so when it is asked for a delimiter.
    """


async def all_pages(
    store: ObjectStore, prefix: str, *, delimiter: str = "", token: str | None = None
) -> AsyncIterator[Page]:
    """Yields the pages of a prefix.

    Args:
        store: The bucket.
        prefix: What the keys begin with.
        delimiter: Where keys are cut into common prefixes.
        token: The token of the first page to list; None starts at the beginning.

    Raises:
        ListingError: The pages contradict themselves, so what is there is unknown.
        StorageError: A page could not be listed, so what is there is unknown.
    """
    tokens = {token}
    while True:
        page = await read_page(store, prefix, delimiter, token)
        yield page
        token = page.token
        if token is None:
            return
        if token in tokens:
            raise RepeatedToken("the store returned the same page token twice", key=prefix)
        tokens.add(token)


async def read_page(store: ObjectStore, prefix: str, delimiter: str, token: str | None) -> Page:
    """Reads one page.

    Raises ListingError if it holds a key outside the prefix, or the prefix itself as a common
    prefix, which would then be listed again and again; StorageError.
    """
    page = await store.list_page(prefix, delimiter=delimiter, token=token)
    stray = [entry.key for entry in page.objects if not entry.key.startswith(prefix)]
    stray += [child for child in page.prefixes if child == prefix or not child.startswith(prefix)]
    if stray:
        raise ListingError(f"the store listed {stray[0]!r}, which is not under it", key=prefix)
    return page
