"""Why sources were left, in words for a table: one reason for each name under `sources.left`."""

from __future__ import annotations

from coalesce.model import Why

_REASONS = {
    Why.YOUNG: "younger than --min-age",
    Why.SINGLE: "nothing to join it with",
    Why.TOO_LARGE: "larger than --max-size",
    Why.COVERED: "offsets already inside an existing output",
    Why.CORRUPT: "failed the content check",
    Why.EMPTY: "empty",
    Why.ARCHIVED: "in an archive tier",
    Why.UNPARSED: "name does not match the layout",
    Why.EXCLUDED: "left out by --include, --exclude or --files-from",
    Why.UNPLANNED: "outside what the saved plan still joins",
    Why.LEASED: "their group is worked on by another run",
    Why.UNFINISHED: "an earlier run left their group unfinished",
    Why.STOPPED: "the run ended before their turn",
    Why.FAILED: "their output failed",
    Why.ATTRIBUTES: "attributes unlike their neighbours'",
    Why.HEADER: "another header than their neighbours'",
    Why.CHANGED: "changed or deleted since the listing",
    Why.DELETE_REFUSED: "joined, but the store refused the delete",
}


def reason_of(why: str) -> str:
    """The reason why a source was left, in words; `why` is a name under `sources.left`.

    One that this version does not know, from a later version's report, is its own words.
    """
    return _REASONS[Why(why)] if why in list(Why) else why.replace("_", " ")
