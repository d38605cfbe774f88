"""Text for people and for XML: truncation, escaping, and how durations, sizes and times are written."""

import difflib
import errno
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

MESSAGE_LIMIT = 10_000
"""Characters kept of a case's message: every page and report contains it."""

TRACEBACK_LIMIT = 100_000
"""Characters kept of a traceback."""

EVENT_LIMIT = 100_000
"""Characters kept of a text in an event, and of all that an adapter or a test put into one of its objects."""

_LONGEST_FILE = 64 << 20  # characters of a file that a user names
# What XML 1.0 forbids, and the control characters that it discourages; tab and line feed are fine.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# Readers of JUnit open the file that such a marker names: only this package may write one.
_MARKER = re.compile(r"\[\[(?=\s*ATTACHMENT)", re.IGNORECASE)


_USER_PART = re.compile(r"(?<=://)[^/?#@\s]*@")
# How the validator begins: "Input should be ...", "String should have at least ...".
_SUBJECT = re.compile(r"^\w+( \w+)? should")
_PLAIN_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    **dict.fromkeys(
        ("model_type", "dict_type", "model_attributes_type", "dataclass_type"), "must be an object"
    ),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "must be a list"),
    **dict.fromkeys(("string_type", "string_unicode"), "must be text"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "path_type": "must be a path",
}


def escape_control(text: str) -> str:
    """Spell out the characters that XML cannot contain: BEL becomes ``#x07``."""
    unix = text.replace("\r\n", "\n")
    return _MARKER.sub("[ [", _CONTROL.sub(lambda match: f"#x{ord(match[0]):02x}", unix))


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return the place of the first invalid value, dotted and maybe empty, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    return ".".join(map(str, first["loc"])), in_plain_words(first)


def in_plain_words(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, as JSON calls it: pydantic speaks of Python's types and classes.

    :param problem: an entry of `ValidationError.errors()`.
    """
    kind, message = problem["type"], problem["msg"]
    if (plain := _PLAIN_WORDS.get(kind)) is not None:
        return plain
    message = message.removeprefix("Value error, ")
    message = _SUBJECT.sub("must", message)
    return message[:1].lower() + message[1:]


def without_credentials(text: str) -> str:
    """Return a text with the user parts of URLs masked: `https://user:password@host` becomes `https://***@host`."""
    return _USER_PART.sub("***@", text)


def single_line(text: str, limit: int = 300) -> str:
    """Return the first line that is not blank, truncated at its end.

    :param limit: characters.
    """
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def brief(data: Mapping[str, Any], limit: int = 300) -> str:
    """Return an object in one line: `room='!r', limit=5`, truncated at its end.

    :param limit: characters.
    """
    return single_line(", ".join(f"{key}={value!r}" for key, value in data.items()), limit)


def truncate(text: str, limit: int) -> str:
    """Return text that any encoding can write, with its middle left out if it is too long.

    :param limit: characters kept, three quarters of them from the beginning.
    """
    if len(text) > limit:
        first, last = limit * 3 // 4, limit // 4
        left_out = f"\n[... {len(text) - first - last:,} characters left out ...]\n"
        text = text[:first] + left_out + text[-last:]
    # No encoding can write a lone surrogate.
    return text.encode("utf-8", "replace").decode("utf-8")


def truncate_middle(text: str, limit: int, where: str = "") -> str:
    """Return text with its middle left out if it has too many bytes.

    :param text: without lone surrogates.
    :param limit: bytes of UTF-8 kept.
    :param where: where the complete text can be found.
    """
    if len(text) * 4 <= limit or len(encoded := text.encode()) <= limit:
        return text
    head = encoded[: limit // 2].decode(errors="ignore")
    tail = encoded[len(encoded) - (limit - limit // 2) :].decode(errors="ignore")
    pointer = f", complete in {where}" if where else ""
    return f"{head}\n[… {len(encoded) - limit:,} bytes left out{pointer} …]\n{tail}"


def read_tail(path: Path, limit: int, *, since: int = 0) -> str:
    """Return the end of a file; empty if it cannot be read.

    :param limit: bytes.
    :param since: the offset of the first byte that may be returned.
    """
    try:
        if not path.is_file():  # opening a named pipe would block
            return ""
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(since if since <= end else 0, end - limit))  # a log may have been shortened
            return file.read(limit).decode(errors="replace")
    except OSError:
        return ""


def read_user_file(path: Path) -> str:
    """Return the text of a file that a user names, without the byte order mark of some editors.

    :raises OSError: it cannot be read, is too long, or is a named pipe, on which this would wait for ever.
    :raises ValueError: it is not UTF-8.
    """
    if path.is_fifo() and not path.absolute().is_relative_to("/dev"):  # where the pipes of a shell are
        raise OSError(errno.ESPIPE, "it is a named pipe")
    with path.open(encoding="utf-8-sig") as file:
        text = file.read(_LONGEST_FILE + 1)
    if len(text) > _LONGEST_FILE:  # /dev/zero has no end
        raise OSError(errno.EFBIG, f"it has more than {_LONGEST_FILE >> 20} Mi characters")
    return text


def columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a line for each row, with its cells below those of the other rows."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 case``, ``2,000 cases``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that fits it; empty for None."""
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


def utc_time(when: datetime | None) -> str:
    """Return a time to the second, in UTC; empty for None."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if when else ""


def is_loopback(host: str) -> bool:
    """Return whether a host as it is written is this machine, and no other machine reaches it there."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name may mean any address; an empty host means all of them
        return False


def split_outside(text: str) -> Iterator[str]:
    """Split at commas outside of quotes and brackets."""
    depth = start = 0
    quoted = escaped = False
    for index, character in enumerate(text):
        if quoted:
            quoted = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            quoted = True
        elif character == "," and depth == 0:
            yield text[start:index]
            start = index + 1
        else:
            depth += (character in "([{") - (character in ")]}")
    if text:
        yield text[start:]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the most similar of some names; empty if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), "")
