"""The lines of text files, some at a time: numbered, coloured, searched, of several files by time.

What is in a file, its sender decides: every text is escaped, and every line and page is bounded.
"""

import os
import re
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, TypeAlias

from markupsafe import Markup, escape

from trafficlight.results.reports.evidence import time_of
from trafficlight.text import escape_control

LINES = 1_000
"""Lines of a page."""
FILES = 8
"""Files that are shown together."""

_BLOCK = 256 << 10  # bytes
_SHOWN = 4_000  # bytes of a line
_READ = 16 << 20  # bytes read for a page, after which it has fewer lines
_MERGED = 16  # blocks at the end of each file that are shown in the order of time
_LEVEL = re.compile(
    r"\b(DEBUG|TRACE|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL|PANIC)\b"
    r"|(?:level\"?[=:] ?\"?|\bconsole\.)([a-z]+)"
)
_LEVELS = {"d": "debug", "t": "debug", "i": "info", "w": "warning"}
_CONTINUED = (" ", "\t", "Traceback")
# Colours and the like; all other sequences for terminals are left out.
_ANSI = re.compile("\x1b\\[([0-9;]*)m|\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)")
_STYLES = {1: "bold", 2: "faint", 3: "italic", 4: "underline"}
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")

_Line: TypeAlias = tuple[
    int, int, bytes, int
]  # position of the file, number, what is shown, bytes that are not

_Dated: TypeAlias = tuple[datetime, tuple[int, bytes, int]]


@dataclass(frozen=True, slots=True)
class Row:
    """A line as it is shown.

    :ivar number: from 1, among all that are shown together.
    :ivar file: the position of its file.
    :ivar line: its number in its file.
    :ivar level: ``debug``, ``info``, ``warning`` or ``error``; empty if it names none.
    :ivar cut: bytes of it that are not shown.
    """

    number: int
    file: int
    line: int
    level: str
    text: Markup
    cut: int


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of one file, or of several in the order of time.

    :ivar first: the number of its first line.
    :ivar total: the number of lines.
    :ivar size: bytes of the files.
    :ivar cut: whether only the ends of the files are in it.
    """

    rows: list[Row]
    first: int
    total: int
    size: int
    cut: bool


class _Index:
    """Where the lines of a growing file begin: how many line feeds there are before each block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = (0, 0)
        self.before = [0]
        self.size = self.lines = 0
        self._resets = 0

    @property
    def version(self) -> tuple[int, ...]:
        """Another one once another file is in its place, or it was cut."""
        return self._resets, *self._file

    def update(self, file: BinaryIO) -> None:
        """Read what was appended."""
        with self._lock:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) != self._file or status.st_size < self.size:
                self._file, self.before = (status.st_dev, status.st_ino), [0]
                self.size = self.lines = 0
                self._resets += 1
            if status.st_size == self.size:
                return
            file.seek((len(self.before) - 1) * _BLOCK)
            # Not what is appended meanwhile: lines and size belong together.
            while (left := status.st_size - file.tell()) > 0 and (block := file.read(min(left, _BLOCK))):
                feeds = self.before[-1] + block.count(b"\n")
                if len(block) == _BLOCK:
                    self.before.append(feeds)
                self.lines = feeds + (not block.endswith(b"\n"))
            self.size = status.st_size

    def seek(self, file: BinaryIO, line: int) -> None:
        """Go to the beginning of a line, which is counted from 0."""
        block = max(0, bisect_left(self.before, line) - 1)
        file.seek(block * _BLOCK)
        for _ in range(line - self.before[block]):
            _whole_line(file)


@lru_cache(64)
def _index_of(path: Path) -> _Index:
    return _Index()


def page_of(paths: Sequence[Path], first: int | None, text: str = "") -> LogPage:
    """Return some lines. Reads the disk.

    :param first: the number of the first one; None for the end.
    :param text: what is marked in them.
    :raises OSError: a file cannot be read.
    """
    if len(paths) == 1:
        with paths[0].open("rb") as file:
            index = _index_of(paths[0])
            index.update(file)
            total, size, cut = index.lines, index.size, False
            begin = _begin(first, total)
            index.seek(file, begin - 1)
            lines = list(_bounded((0, begin + n, *line) for n, line in enumerate(_lines(file, LINES))))
    else:
        merged, cut = _merged(tuple(paths), tuple(map(_stamp, paths)))
        total, size = len(merged), sum(path.stat().st_size for path in paths)
        begin = _begin(first, total)
        lines = merged[begin - 1 : begin - 1 + LINES]
    return LogPage(list(_rows(lines, begin, text)), begin, total, size, cut)


def find(paths: Sequence[Path], text: str, line: int, *, backwards: bool = False) -> int | None:
    """Return the number of the next line that contains a text; after the last one, the first one follows.

    Letters of ASCII are compared without case. Reads the disk.

    :param line: where the search starts; it is the last that is looked at.
    :raises OSError: a file cannot be read.
    """
    wanted = text.encode("utf-8", "replace").lower()
    first = last = before = after = None
    for number, content in _searched(paths):
        if wanted not in content.lower():
            continue
        first, last = first or number, number
        if number < line:
            before = number
        elif number > line and after is None:
            after = number
            if not backwards:
                break
    return (before or last) if backwards else (after or first)


def _searched(paths: Sequence[Path]) -> Iterator[tuple[int, bytes]]:
    if len(paths) > 1:
        merged, _ = _merged(tuple(paths), tuple(map(_stamp, paths)))
        for number, one in enumerate(merged, 1):
            yield number, one[2]
        return
    with paths[0].open("rb") as file:
        number = 1
        while content := file.readline(_BLOCK):
            yield number, content
            number += content.endswith(b"\n")


def _begin(first: int | None, total: int) -> int:
    return max(1, total - LINES + 1 if first is None else min(first, total))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(2)
def _merged(paths: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> tuple[list[_Line], bool]:
    """Return the lines of several files in the order of time, and whether something is missing.

    A line without a time stays behind the one before it.
    """
    each = [_end_of(path).update() for path in paths]
    # Each is in order, of which this makes use.
    merged = sorted(
        ((when, position, line) for position, (dated, _) in enumerate(each) for when, line in dated),
        key=itemgetter(0),
    )
    return [(position, *line) for _, position, line in merged], any(cut for _, cut in each)


class _End:
    """The end of a growing file, each line with its time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._first = 0
        self._version: tuple[int, ...] = ()
        self._dated: list[_Dated] = []

    def update(self) -> tuple[list[_Dated], bool]:
        """Read what was appended; return the lines, and whether the file has more in front of them."""
        with self._lock, self._path.open("rb") as file:
            index = _index_of(self._path)
            index.update(file)
            block = max(0, len(index.before) - 1 - _MERGED)
            first = index.before[block] + bool(block)  # the first that begins there
            if index.version != self._version or not self._first <= first <= self._first + len(self._dated):
                self._dated, self._first = [], first
            # The last line may have grown.
            self._dated = self._dated[first - self._first : -1]
            self._first, self._version = first, index.version
            last = self._dated[-1][0] if self._dated else datetime.min.replace(tzinfo=UTC)
            line = first + len(self._dated)
            index.seek(file, line)
            added = _lines(file, index.lines - line)
            self._dated += _dated(last, line + 1, added)
            return self._dated, block > 0


@lru_cache(FILES)
def _end_of(path: Path) -> _End:
    return _End(path)


def _dated(last: datetime, number: int, lines: Iterable[tuple[bytes, int]]) -> Iterator[_Dated]:
    for line, (content, cut) in enumerate(lines, number):
        if (when := time_of(content[:400].decode(errors="replace"))) is not None:
            last = max(last, when)
        yield last, (line, content, cut)


def _whole_line(file: BinaryIO) -> tuple[bytes, int]:
    """Read a line; return its beginning, and how many bytes more it has."""
    line = piece = file.readline(_SHOWN)
    cut = 0
    while piece and not piece.endswith(b"\n"):
        piece = file.readline(_BLOCK)
        cut += len(piece.rstrip(b"\r\n"))
    return line, cut


def _lines(file: BinaryIO, number: int) -> Iterator[tuple[bytes, int]]:
    for _ in range(number):
        line, cut = _whole_line(file)
        if not line:
            return
        yield line, cut


def _bounded(lines: Iterable[_Line]) -> Iterator[_Line]:
    left = _READ
    for line in lines:
        yield line
        left -= len(line[2]) + line[3]
        if left < 0:
            return


def _rows(lines: Iterable[_Line], first: int, text: str) -> Iterator[Row]:
    level = ""
    for number, (file, line, content, cut) in enumerate(lines, first):
        plain = content.decode(errors="replace").rstrip("\r\n")
        own = _level_of(plain)
        level = own or (level if plain.startswith(_CONTINUED) else "")
        yield Row(number, file, line, level, styled(plain, text), cut)


def _level_of(line: str) -> str:
    found = _LEVEL.search(line, 0, 300)
    if found is None:
        return ""
    name = (found[1] or found[2]).lower()
    return _LEVELS.get(name[0], "error" if name[0] in "ecfp" else "")


def styled(line: str, text: str = "") -> Markup:
    """Return a line as HTML: escaped, with the colours that its escape sequences ask for.

    :param text: what is marked in it.
    """
    pieces, classes, at = [], [""], 0
    for sequence in _ANSI.finditer(line):
        pieces.append(_piece(line[at : sequence.start()], classes, text))
        if sequence[1] is not None:
            classes = _classes_after(classes, sequence[1])
        at = sequence.end()
    pieces.append(_piece(line[at:], classes, text))
    return Markup("").join(pieces)


def _piece(text: str, classes: Sequence[str], wanted: str) -> Markup:
    shown = escape(escape_control(text))
    if wanted:
        parts = re.split(f"({re.escape(wanted)})", text, flags=re.IGNORECASE)
        shown = Markup("").join(
            Markup("<mark>{}</mark>").format(escape_control(part)) if n % 2 else escape(escape_control(part))
            for n, part in enumerate(parts)
        )
    names = " ".join(f"a-{name}" for name in classes if name)
    return Markup('<span class="{}">{}</span>').format(names, shown) if names and text else shown


def _classes_after(classes: Sequence[str], codes: str) -> list[str]:
    """Return the classes after a sequence such as ``1;31``; the first one is the colour's."""
    found = list(classes)
    numbers = iter([int(code) if code else 0 for code in codes[:40].split(";")])
    for code in numbers:
        if code == 0:
            found = [""]
        elif code in _STYLES:
            if _STYLES[code] not in found:
                found.append(_STYLES[code])
        elif 30 <= code <= 37 or 90 <= code <= 97:
            found[0] = _COLOURS[code % 10]
        elif code == 39:
            found[0] = ""
        elif code == 22:
            found = [name for name in found if name not in ("bold", "faint")]
        elif code in (38, 48):  # a colour of many, which is not among those of the pages
            for _ in range({5: 1, 2: 3}.get(next(numbers, 0), 0)):
                next(numbers, 0)
    return found
