"""What the written pages have in common."""

from __future__ import annotations

from statistics import median

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def between(text: str, new: str) -> str:
    """A page with something new between its markers."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{new}\n\n{END}{tail}"


def spread(values: list[float], digits: int = 2) -> str:
    """The median; with several values the least and the greatest too."""
    middle = f"{median(values):.{digits}f}"
    return (
        middle
        if len(values) == 1
        else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"
    )


def duration(seconds: float) -> str:
    """In the unit that a person would say it in."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            count = seconds / length
            return f"{count:.1f} {unit}" if count < 20 else f"{count:,.0f} {unit}"
    return f"{seconds:.0f} s"


def dollars(usd: float) -> str:
    """With cents below a hundred."""
    return f"${usd:,.2f}" if usd < 100 else f"${usd:,.0f}"


def size(count: int) -> str:
    """Of an object, in KB or MB."""
    return f"{count // 10**6} MB" if count >= 10**6 else f"{count // 1000} KB"
