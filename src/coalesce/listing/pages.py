"""The pages of a listing, checked for contradictions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from coalesce.errors import ListingError
from coalesce.storage.base import ObjectStore, Page
from coalesce.storage.limits import MAX_IDLE_PAGES


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
    begins: set[int] = set()
    idle = 0
    while True:
        page = await read_page(store, prefix, delimiter, token)
        yield page
        token = page.token
        if token is None:
            return
        if token in tokens:
            raise RepeatedToken("the store returned the same page token twice", key=prefix)
        tokens.add(token)
        idle = 0 if _is_new(page, begins) else idle + 1
        if idle == MAX_IDLE_PAGES:
            message = f"{idle:,} pages in a row brought nothing new: this listing has no end"
            raise ListingError(message, key=prefix)


def _is_new(page: Page, begins: set[int]) -> bool:
    """Whether a page begins with a name that no page before it began with; adds the name's hash.

    A listing that goes round in circles with new tokens has no such page after its first round.
    """
    names = (*(entry.key for entry in page.objects[:1]), *page.prefixes[:1])
    seen = len(begins)
    begins.update(map(hash, names))
    return len(begins) > seen


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
