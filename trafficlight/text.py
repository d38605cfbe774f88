"""Text that any program may have written, made fit for XML and for the programs that read JUnit."""

import re

# What XML 1.0 forbids, and the control characters that it merely advises against; tab and line feed are fine.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# Readers of JUnit take the file that such a marker names: only this package may write one.
_MARKER = re.compile(r"\[\[(?=\s*ATTACHMENT)", re.IGNORECASE)


def visible(text: str) -> str:
    """Return text with the characters that XML cannot carry spelled out: BEL becomes ``#x07``."""
    unix = text.replace("\r\n", "\n")
    return _MARKER.sub("[ [", _INVISIBLE.sub(lambda match: f"#x{ord(match[0]):02x}", unix))


def single_line(text: str, longest: int = 300) -> str:
    """Return the first line that says something, cut at the end where it is long.

    :param longest: characters.
    """
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= longest else line[: longest - 1] + "…"


def truncate_middle(text: str, limit: int, where: str = "") -> str:
    """Return the beginning and the end of a long text, with a line in between on what is missing.

    :param text: without lone surrogates.
    :param limit: bytes in UTF-8 that are kept.
    :param where: where all of it is to be found.
    """
    if len(text) * 4 <= limit or len(encoded := text.encode()) <= limit:
        return text
    head = encoded[: limit // 2].decode(errors="ignore")
    tail = encoded[len(encoded) - (limit - limit // 2) :].decode(errors="ignore")
    pointer = f", all of it in {where}" if where else ""
    return f"{head}\n[… {len(encoded) - limit:,} bytes left out{pointer} …]\n{tail}"
