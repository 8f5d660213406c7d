"""What an output says of itself: what its first source says, unless the user chose otherwise.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coalesce.settings import LEAVE_OUT, TAKE_SOURCES, Settings
from coalesce.storage.attributes import (
    MAX_METADATA_BYTES,
    METADATA,
    RESERVED_TAG,
    SSE,
    SSE_BUCKET_KEY,
    SSE_KEY,
    Attributes,
    check_tags,
    metadata_bytes,
    parse_metadata,
    parse_tags,
)

TAGS = "tags"
STORAGE_CLASS = "x-amz-storage-class"

Difference = dict[str, str | dict[str, str] | None]
"""What a source says otherwise than another, by name: its values, None for what it does not say."""


@dataclass(frozen=True, slots=True)
class AttributeRules:
    """What the user chose for all outputs.

    Attributes:
        chosen: Headers that are the same for all outputs; empty for one that is left out.
        metadata: The user metadata of all outputs, None for that of the sources.
        tags: The same of tags.
        storage_class: Empty for the bucket's default, None for that of the sources.
        strict: Sources that say something else than their neighbours are not joined with them.
    """

    chosen: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] | None = None
    tags: Mapping[str, str] | None = None
    storage_class: str | None = None
    strict: bool = False

    @classmethod
    def of(cls, settings: Settings) -> AttributeRules:
        """Returns the rules in a run's settings."""
        named = {
            "content-type": settings.content_type,
            "content-encoding": settings.content_encoding,
            SSE: settings.sse,
            SSE_KEY: settings.sse_kms_key_id,
        }
        chosen = {
            name: "" if value == LEAVE_OUT else value
            for name, value in named.items()
            if value != TAKE_SOURCES
        }
        if SSE in chosen:
            chosen[SSE_BUCKET_KEY] = ""
        if SSE in chosen and not chosen[SSE].startswith("aws:kms"):
            chosen[SSE_KEY] = ""
        storage_class = "" if settings.storage_class == LEAVE_OUT else settings.storage_class
        return cls(
            chosen=chosen,
            metadata=_pairs(settings.metadata, parse_metadata),
            tags=_pairs(settings.tags, parse_tags),
            storage_class=None if storage_class == TAKE_SOURCES else storage_class,
            strict=settings.strict_attributes,
        )

    @property
    def asks_for_tags(self) -> bool:
        """Whether the tags of sources matter."""
        return self.tags is None

    def decides(self, name: str) -> bool:
        """Whether the user chose what all outputs say under a name, so that sources may differ."""
        if name == TAGS:
            return self.tags is not None
        if name == STORAGE_CLASS:
            return self.storage_class is not None
        if name.startswith(METADATA):
            return self.metadata is not None
        return name in self.chosen

    def of_output(self, first: Attributes) -> Attributes:
        """What the output of a source like this says."""
        headers = {name: value for name, value in first.headers.items() if not self.decides(name)}
        headers |= {name: value for name, value in self.chosen.items() if value}
        for name, value in (self.metadata or {}).items():
            headers[f"{METADATA}{name}"] = value
        if SSE_KEY in headers and not headers.get(SSE, "").startswith("aws:kms"):
            del headers[SSE_KEY]
        tags = first.tags if self.tags is None else self.tags
        storage_class = self.storage_class
        if storage_class is None:
            # A listing that names no class is taken to mean this one.
            storage_class = "" if first.storage_class == "STANDARD" else first.storage_class
        return Attributes(headers, tags, storage_class)


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that an object can be given: not Amazon's own."""
    return {key: value for key, value in tags.items() if not key.startswith(RESERVED_TAG)}


def difference(found: Attributes, first: Attributes) -> Difference:
    """What a source says otherwise than the first one of its output."""
    differing: Difference = {}
    for name in {**first.headers, **found.headers}:
        if (value := found.headers.get(name)) != first.headers.get(name):
            differing[name] = value
    if found.storage_class != first.storage_class:
        differing[STORAGE_CLASS] = found.storage_class
    if found.tags != first.tags:
        differing[TAGS] = dict(found.tags)
    return differing


def everything(said: Attributes) -> Difference:
    """All that a source says, as `difference` puts it."""
    return difference(said, Attributes())


def restored(first: Difference, differing: Difference) -> Attributes:
    """What a source says: what the `first` of its output says, as `everything` puts it, but for
    what the source says otherwise, as `difference` puts it.
    """
    headers: dict[str, str] = {}
    tags: dict[str, str] = {}
    storage_class = ""
    for name, value in {**first, **differing}.items():
        if isinstance(value, dict):
            tags = value
        elif value is not None and name == STORAGE_CLASS:
            storage_class = "" if value == "STANDARD" else value
        elif value is not None:
            headers[name] = value
    return Attributes(headers, tags, storage_class)


def first_of(differing: Difference, first: Attributes, rules: AttributeRules) -> str:
    """The first difference that the user did not ask for, in words; empty if there is none."""
    wanted = everything(first)
    for name, value in differing.items():
        if not rules.decides(name):
            return f"{name} is {_text(value)}, of the output {_text(wanted.get(name))}"
    return ""


def not_kept(output: str, wanted: Attributes, found: Mapping[str, str]) -> str:
    """The first header of an output that its store did not keep, in words; empty if there is none.

    A KMS key may be asked for by an alias, and is answered by its ARN.
    """
    for name, value in wanted.headers.items():
        there = found.get(name)
        if there is None or (there != value and name != SSE_KEY):
            return f"{output}: {name} is {_text(there)}, asked for was {value}"
    return ""


def problem_of(wanted: Attributes, own: Mapping[str, str]) -> tuple[str, str]:
    """What S3 would refuse, and the option that helps; empty if there is nothing.

    `own` is the metadata that this program adds.
    """
    size = metadata_bytes(wanted.headers) + sum(len(name) + len(own[name]) for name in own)
    if size > MAX_METADATA_BYTES:
        has = f"has {size:,} bytes of user metadata with this program's own"
        return f"{has}, and S3 allows {MAX_METADATA_BYTES:,}", "--metadata none"
    try:
        check_tags(wanted.tags)
    except ValueError as error:
        return str(error), "--tags none"
    return "", ""


def _text(value: str | Mapping[str, str] | None) -> str:
    if value is None or value == {}:
        return "not there"
    if isinstance(value, str):
        return value
    return ",".join(f"{key}={text}" for key, text in value.items())


def _pairs(text: str, parse: Callable[[str], dict[str, str]]) -> dict[str, str] | None:
    if text == TAKE_SOURCES:
        return None
    return {} if text == LEAVE_OUT else parse(text)
