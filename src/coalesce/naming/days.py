"""The days that a user names, which the prefixes of keys may end in."""

from __future__ import annotations

import datetime as dt
import re

_DAY = re.compile(r"(\d{4})[-/](\d{2})[-/](\d{2})")


def parse_days(text: str, today: dt.date) -> tuple[dt.date, ...]:
    """The days that `--date` names, in order; none for NOT_SET. `today` is UTC's.

    Raises ValueError.
    """
    word = text.strip()
    if word.upper() == "NOT_SET" or not word:
        return ()
    begin, dots, end = word.partition("..")
    first = _day(begin, today)
    last = _day(end, today) if dots else first
    if last < first:
        raise ValueError("ends before it begins")
    return tuple(first + dt.timedelta(days=n) for n in range((last - first).days + 1))


def _day(text: str, today: dt.date) -> dt.date:
    word = text.strip().lower()
    if word in ("today", "yesterday"):
        return today - dt.timedelta(days=word == "yesterday")
    match = _DAY.fullmatch(word)
    if match is None:
        raise ValueError(
            "not a day; write today, yesterday, 2026-11-22, 2026/11/22, FIRST..LAST or NOT_SET"
        )
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    if not 1 <= month <= 12:
        raise ValueError("no such month")
    try:
        return dt.date(year, month, day)
    except ValueError as error:
        raise ValueError("no such day") from error
