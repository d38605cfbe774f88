"""The whole JUnit file of a session, kept in pieces so that one more verdict costs one more piece."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement, tostring

from trafficlight.results.case import CaseRecord
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.junit import (
    JunitStyle,
    case_element,
    nothing_ran,
    problem_element,
    suite_shell,
)

_VERDICTS = {"failure": "failures", "error": "errors", "skipped": "skipped"}
_BUDGET = 16 * 1024 * 1024  # bytes of output in one file: GitLab reads 30 MB at most, elements included
_LEAST = 1024  # bytes of output that each case keeps


@dataclass(slots=True)
class _Piece:
    content: bytes
    verdict: str  # the attribute of the totals that it counts in; empty for a success
    seconds: float


@dataclass(slots=True)
class _Suite:
    file: str
    pieces: dict[str, _Piece] = field(default_factory=dict)


class JunitDocument:
    """Serialises each case once for every change, and joins the pieces when the file is asked for.

    :param record: the session; read, never changed.
    :param style: where the file will be read.
    """

    def __init__(self, record: SessionRecord, style: JunitStyle) -> None:
        self._record = record
        self._style = style
        self._suites: dict[str, _Suite] = {}
        self._ran = False

    def update(self, case: CaseRecord) -> None:
        """Serialise a case anew."""
        share = max(_LEAST, _BUDGET // max(1, len(self._record.cases)))
        style = self._style
        if share < style.limit:
            style = JunitStyle(style.folder, style.project, share)
        suite = self._suites.setdefault(case.suite or case.file or "trafficlight", _Suite(case.file))
        suite.pieces[case.id] = _piece(case_element(case, style))
        self._ran = self._ran or (case.verdict is not None and case.state != "skipped")

    def to_bytes(self) -> bytes:
        """Return the file, valid at any time."""
        suites = [(name, suite.file, list(suite.pieces.values())) for name, suite in self._suites.items()]
        if problems := self._record.problems:
            suites.append(
                ("problems", "", _distinct(problem_element(problem, self._style) for problem in problems))
            )
        elif not self._ran:
            planned = len(self._record.cases)
            why = f"none of {planned} cases came to a verdict" if planned else "there was no case to run"
            suites.append(("session", "", [_piece(nothing_ran(why))]))
        root = Element("testsuites", {"name": "trafficlight"})
        every = [piece for _, _, pieces in suites for piece in pieces]
        _count(root, every, self._record.seconds)
        timestamp = suite_shell("", self._record).get("timestamp")
        if timestamp:
            root.set("timestamp", timestamp)
        SubElement(root, "here")  # gives the root a closing tag, in front of which the suites go
        opening, _, closing = tostring(root, encoding="utf-8").partition(b"<here />")
        content = [b"<?xml version='1.0' encoding='utf-8'?>\n", opening, b"\n"]
        for name, file, pieces in suites:
            shell = suite_shell(name, self._record, file)
            _count(shell, pieces, sum(piece.seconds for piece in pieces))
            SubElement(shell, "here")
            before, _, after = tostring(shell, encoding="utf-8").partition(b"<here />")
            before = before.removeprefix(b"<?xml version='1.0' encoding='utf-8'?>\n")
            content += [before, b"\n", *(piece.content for piece in pieces), after, b"\n"]
        content += [closing, b"\n"]
        return b"".join(content)


def junit_bytes(record: SessionRecord, style: JunitStyle) -> bytes:
    """Return the JUnit file of a whole record at once."""
    document = JunitDocument(record, style)
    for case in record.cases.values():
        document.update(case)
    return document.to_bytes()


def _piece(element: Element) -> _Piece:
    verdict = next((_VERDICTS[child.tag] for child in element if child.tag in _VERDICTS), "")
    content = tostring(element, encoding="utf-8").removeprefix(b"<?xml version='1.0' encoding='utf-8'?>\n")
    return _Piece(content + b"\n", verdict, float(element.get("time", "0")))


def _distinct(elements: Iterable[Element]) -> list[_Piece]:
    """Number what has the same name: readers keep the first of each."""
    seen: dict[str, int] = {}
    pieces: list[_Piece] = []
    for element in elements:
        name = element.get("name", "")
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            element.set("name", f"{name} ({seen[name]})")
        pieces.append(_piece(element))
    return pieces


def _count(element: Element, pieces: list[_Piece], seconds: float) -> None:
    element.set("tests", str(len(pieces)))
    for attribute in _VERDICTS.values():
        element.set(attribute, str(sum(piece.verdict == attribute for piece in pieces)))
    element.set("time", f"{seconds:.3f}")
