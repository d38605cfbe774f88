"""The parts of a page, in which a reader who has an earlier version gets only what has changed. Pure text.

A part has a version, and may have pieces: rows and cells, which are compared one by one. The reader names the
versions it has, so that a part that it could not show yet is sent again.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock

from markupsafe import Markup, escape

_PIECES = 200_000  # of all versions that are kept, 100 bytes each
# What increases by itself in the browser is no change, as long as it began at the same time.
_MOVING = re.compile(r'data-seconds="([^"]*)">[^<]*')
_SAME = 2.0  # seconds
_PLACE = "\0"  # of a piece; no value has it, see `escape_control`


@dataclass(frozen=True, slots=True)
class _Version:
    frame: int
    pieces: frozenset[int]


class Versions:
    """The latest versions of parts that have pieces. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[str, _Version] = OrderedDict()
        self._pieces = 0

    def get(self, name: str) -> _Version | None:
        """Return a version; None if it is no longer known."""
        with self._lock:
            return self._kept.get(name)

    def keep(self, name: str, version: _Version) -> None:
        """Keep a version, and forget the oldest ones if there are too many."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return
            self._kept[name] = version
            self._pieces += len(version.pieces)
            while self._pieces > _PIECES and len(self._kept) > 1:
                self._pieces -= len(self._kept.popitem(last=False)[1].pieces)


@dataclass(frozen=True, slots=True)
class _Piece:
    tag: str
    id: str
    whole: str
    version: int

    @property
    def hollow(self) -> str:
        return f'<{self.tag} id="{self.id}" data-same></{self.tag}>'


class Parts:
    """The parts of one page for one reader, called by its template.

    :param versions: those that are known; None for a page that does not follow what happens.
    :param known: the versions that the reader has, by the ids of their parts.
    :param now: seconds, from which durations that increase are counted back.
    """

    def __init__(
        self, versions: Versions | None = None, known: Mapping[str, str] | None = None, now: float = 0.0
    ) -> None:
        self._versions = versions
        self._now = now
        self._known = known or {}
        self._pieces: list[_Piece] = []
        self._same: frozenset[int] = frozenset()

    def part(self, tag: str, id: object, classes: str = "", *, caller: Callable[[], str]) -> Markup:
        """Return a part: whole, or without what the reader has.

        If only pieces have changed, it holds a `template` with each of them.
        """
        name = escape(id)
        head = tag + (f' class="{classes}"' if classes else "") + f' id="{name}"'
        if self._versions is None:
            return _markup(f"<{head}>{caller()}</{tag}>")
        had = self._known.get(name)
        before = self._versions.get(had) if had else None
        pieces: list[_Piece] = []
        self._pieces = pieces
        self._same = same = before.pieces if before is not None else frozenset()
        frame = str(caller()).split(_PLACE)
        now = _Version(
            hash((*map(self._still, frame), *(piece.id for piece in pieces))),
            frozenset(piece.version for piece in pieces),
        )
        version = f"{hash((now.frame, *(piece.version for piece in pieces))) & (1 << 64) - 1:x}"
        head += f' data-live="{version}"'
        if pieces:
            self._versions.keep(version, now)
        if had == version:
            return _markup(f"<{head}></{tag}>")
        if before is not None and before.frame == now.frame:
            changed = [piece.whole for piece in pieces if piece.version not in same]
            content = "".join(f"<template>{one}</template>" for one in changed)
            return _markup(f"<{head} data-pieces>{content}</{tag}>")
        shown = [piece.hollow if piece.version in same else piece.whole for piece in pieces]
        content = "".join(text for pair in zip(frame, [*shown, ""], strict=True) for text in pair)
        return _markup(f"<{head}>{content}</{tag}>")

    def piece(
        self, tag: str, id: object, classes: str = "", of: object = None, *, caller: Callable[[], str]
    ) -> Markup:
        """Return the place of a piece of the part that is being rendered.

        :param of: what it shows, which tells whether it has changed without rendering it.
        """
        some = f' class="{classes}"' if classes else ""
        if self._versions is None:
            return _markup(f"<{tag}{some}>{caller()}</{tag}>")
        name = escape(id)
        version = hash((name, of))
        known = of is not None and version in self._same
        whole = f'<{tag} id="{name}"{some}>{caller()}</{tag}>' if not known else ""
        self._pieces.append(_Piece(tag, name, whole, version if of is not None else hash(self._still(whole))))
        return _markup(_PLACE)

    def pieces(
        self, tag: str, id: object, values: Iterable[object], *, caller: Callable[[object], str]
    ) -> Markup:
        """Return the places of pieces side by side, one for each value; of None, an empty element.

        :param caller: renders a value.
        """
        return _markup(
            "".join(
                f"<{tag}></{tag}>"
                if value is None
                else self.piece(tag, f"{id}-{number}", of=value, caller=partial(caller, value))
                for number, value in enumerate(values, 1)
            )
        )

    def _still(self, text: str) -> str:
        if "data-seconds" not in text:
            return text
        return _MOVING.sub(lambda found: str(round((self._now - float(found[1])) / _SAME)), text)


def _markup(text: str) -> Markup:
    return Markup(text)  # noqa: S704 - of what templates have rendered


def known_versions(header: str) -> dict[str, str]:
    """Return the versions that a reader names, by the ids of their parts: `head=4f2a list=1b`."""
    pairs = (one.rpartition("=") for one in header.split())
    return {id: version for id, _, version in pairs}
