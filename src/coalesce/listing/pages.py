"""The pages of a listing, as far as they do not contradict themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator

from coalesce.errors import ListingError
from coalesce.storage.base import ObjectStore, Page


class _Repeated(ListingError):
    """The store hands out a token again (MinIO does, with a delimiter): such a listing would never
    end.
    """


async def all_pages(
    store: ObjectStore, prefix: str, *, delimiter: str = "", token: str | None = None
) -> AsyncIterator[Page]:
    """The pages from a token on.

    Raises ListingError where they contradict themselves, StorageError.
    """
    seen = {token}
    while True:
        page = await _page(store, prefix, delimiter, token)
        yield page
        token = page.token
        if token is None:
            return
        if token in seen:
            raise _Repeated("it repeats itself", key=prefix)
        seen.add(token)


async def _page(store: ObjectStore, prefix: str, delimiter: str, token: str | None) -> Page:
    """One page, with nothing in it that is not under the prefix, or that would be listed again as
    its own piece.
    """
    page = await store.list_page(prefix, delimiter=delimiter, token=token)
    stray = [entry.key for entry in page.objects if not entry.key.startswith(prefix)]
    stray += [child for child in page.prefixes if child == prefix or not child.startswith(prefix)]
    if stray:
        raise ListingError(f"it holds {stray[0]!r}, which does not lie there", key=prefix)
    return page
