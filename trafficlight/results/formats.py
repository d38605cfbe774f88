"""How lengths of time, sizes and moments are written for people."""

from datetime import datetime


def duration(seconds: float | None) -> str:
    """Return a length of time in the unit that fits it; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(number: int) -> str:
    """Return a number of bytes in the unit that fits it."""
    for unit, factor in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"


def moment(when: datetime | None) -> str:
    """Return a moment to the second, in UTC; nothing for None."""
    return when.strftime("%Y-%m-%d %H:%M:%S UTC") if when else ""
