"""The end of a file that may be very large."""

from pathlib import Path


def tail(path: Path, most: int, *, since: int = 0) -> str:
    """Return the end of a file as text; empty where there is none to read.

    :param most: bytes at most.
    :param since: the byte that it begins with at the earliest.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(since, end - most))
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""
