"""What the sources of a batch say of themselves, held against what its first one says."""

from __future__ import annotations

import json

from coalesce.content.attributes import (
    AttributeRules,
    Difference,
    difference,
    first_of,
    own_tags,
)
from coalesce.errors import AccessDenied, AttributesDiffer, SourceUnusable
from coalesce.model import Differences, Source, Why
from coalesce.storage.attributes import Attributes
from coalesce.storage.base import Body, ObjectStore

# What is kept of the differences within one batch, in bytes. A writer that notes a time in the
# metadata of every source makes 60 of it.
_NOTED_BYTES = 4 * 1024**2
_EACH_BYTES = 200  # besides key and text


class Comparison:
    """Compares the sources of one batch with `first`, which its first source says.

    `rules` are the user's.
    """

    def __init__(self, store: ObjectStore, rules: AttributeRules, first: Attributes) -> None:
        self._store = store
        self._rules = rules
        self._first = first
        self._plain = not (rules.asks_for_tags and first.tags)
        self._sources = self._unnoted = self._noted_bytes = 0
        self._example = ""
        self._noted: dict[str, str] = {}

    def fresh(self) -> Comparison:
        """Returns one that has found nothing yet: a batch may be read several times."""
        return Comparison(self._store, self._rules, self._first)

    @property
    def found(self) -> Differences:
        """What was found so far."""
        return Differences(self._sources, self._example, self._noted, self._unnoted)

    def is_same(self, source: Source, body: Body) -> bool:
        """Whether it is plain that a source says the same."""
        first = self._first
        return (
            self._plain
            and body.attributes == first.headers
            and source.storage_class == first.storage_class
            and not (body.tags and self._rules.asks_for_tags)
        )

    async def look(self, source: Source, body: Body) -> SourceUnusable | None:
        """Notes what a source says otherwise; why it is not to be joined, if it is not.

        Asks for its tags where it has some that matter. Raises StorageError.
        """
        tags: dict[str, str] = {}
        if body.tags and self._rules.asks_for_tags:
            tags = await read_tags(self._store, source)
        found = Attributes(body.attributes, tags, source.storage_class)
        differing = difference(found, self._first)
        if not differing:
            return None
        text = json.dumps(differing, separators=(",", ":"), sort_keys=True)
        example = first_of(differing, self._first, self._rules)
        if example and self._rules.strict:
            error = AttributesDiffer(f"{source.key}: {example}", key=source.key)
            return SourceUnusable(source, Why.ATTRIBUTES, error, kind=_kind(differing, self._rules))
        if example:
            self._sources += 1
            self._example = self._example or f"{source.key}: {example}"
        self._note(source.key, text)
        return None

    def _note(self, key: str, text: str) -> None:
        self._noted_bytes += len(key) + len(text) + _EACH_BYTES
        if self._noted_bytes > _NOTED_BYTES:
            self._unnoted += 1
        else:
            self._noted[key] = text


def _kind(differing: Difference, rules: AttributeRules) -> str:
    """The same for sources that may be joined with each other."""
    kept = {name: value for name, value in differing.items() if not rules.decides(name)}
    return json.dumps(kept, sort_keys=True)


async def read_tags(store: ObjectStore, source: Source) -> dict[str, str]:
    """The tags of a source that an object can be given.

    Raises NotFound if it vanished; StorageError.
    """
    try:
        return own_tags(await store.get_tags(source.key))
    except AccessDenied as error:
        raise AccessDenied(
            f"{error.message}: the tags of this source are for its output",
            key=source.key,
            code=error.code,
            request_id=error.request_id,
            operation=error.operation,
            hint="Grant s3:GetObjectTagging under the prefix, or leave them with --tags none.",
        ) from error
