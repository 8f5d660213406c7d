"""Numbers for a person. JSON has the exact ones."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_SMALLEST_SHARE = 1e-6


def human_bytes(size: float) -> str:
    """A size to three digits: `999 B`, `1.23 GB`, `123 TB`."""
    if round(size) < 1000:
        return f"{size:.0f} B"
    unit = 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{_three_digits(size)} {_UNITS[unit]}"


def human_rate(count: float, seconds: float) -> str:
    """So many in so many seconds, as a number a second without its unit."""
    rate = count / seconds if seconds > 0 else 0.0
    return f"{rate:,.0f}" if rate >= 9.95 or not rate else f"{rate:.1f}"


def human_seconds(seconds: float) -> str:
    """A span of time in its two largest units: `12.3 s`, `5 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small_unit in ((60, "min", 1, "s"), (3600, "h", 60, "min")):
        if whole < size * (60 if unit == "min" else 24):
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    rest = whole % 86400 // 3600
    return f"{whole // 86400} d" + (f" {rest} h" if rest else "")


def clock(seconds: float) -> str:
    """A span of time as a clock shows it: `0:07`, `1:02:03`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def human_share(part: float, whole: float) -> str:
    """How much of the whole this is, in percent to two digits; what is not zero never shows as
    zero.
    """
    share = part / whole if whole else 0.0
    if 0 < share < _SMALLEST_SHARE:
        return f"less than {_SMALLEST_SHARE:.4%}"
    if share >= 0.0995 or not share:
        return f"{share:.0%}"
    magnitude = int(f"{share * 100:.1e}".partition("e")[2])
    return f"{share:.{1 - magnitude}%}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
