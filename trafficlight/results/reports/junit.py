"""``junit.xml``, in the dialect that CI systems agree on.

``junit-xml`` makes the elements. What it does not support is added to its tree: properties of a test case,
flaky elements, types of skipped, milliseconds, names and totals of the root. ``docs/reference/junit.md``
describes and justifies the format.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

import junit_xml

from trafficlight.results.case import AttemptRecord, CaseRecord, Outcome
from trafficlight.results.events import Attachment, Problem, State, Upload
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.measurements import summarized
from trafficlight.results.reports.timeline import render_timeline
from trafficlight.text import count, escape_control, single_line, truncate_middle

_MOST_WARNINGS = 20  # of one suite
_MOST_ATTACHMENTS = 100  # of one case
_LONGEST_MESSAGE = 4 * 1024  # bytes of a message attribute
_LONGEST_PROPERTY = 1024  # bytes of a property's name or value
_MOST_MEASUREMENTS = 100  # of one case, after summing up those of one name
_LONGEST_PASSING = 4 * 1024  # bytes of output of a case that succeeded
_VERDICTS = {"failure": "failures", "error": "errors", "skipped": "skipped"}
_BUDGET = 16 * 1024 * 1024  # bytes of output in one file: GitLab reads 30 MB at most, elements included
_LEAST = 1024  # bytes of output that each case keeps


@dataclass(frozen=True, slots=True)
class JunitStyle:
    """What depends on the CI system that reads the file.

    :param project: the directory that paths are relative to (GitLab); None makes them absolute (Jenkins).
    :param limit: bytes of output per case.
    """

    folder: Path
    project: Path | None = None
    limit: int = 64 * 1024

    @classmethod
    def detect(cls, folder: Path) -> "JunitStyle":
        """Return the style for the CI system that the environment variables indicate."""
        return cls(folder, None if "JENKINS_URL" in os.environ else Path.cwd())

    def path(self, relative: str) -> str:
        """Return the path of a file of the session's folder."""
        path = self.folder.absolute() / relative
        return path.as_posix() if self.project is None else _below(path, self.project)

    def source(self, file: str, path: str = "") -> str:
        """Return the path of a test file: that in its repository, or relative to the project if it is inside.

        :param file: its name in case ids.
        :param path: as in ``case_planned``.
        """
        if path or self.project is None or not file.startswith("/"):
            return path or file
        return _below(Path(file), self.project)


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
    """The file of a session in pieces, so that one more verdict costs one more piece.

    :param record: the session; never modified.
    """

    def __init__(self, record: SessionRecord, style: JunitStyle) -> None:
        self._record = record
        self._style = style
        self._suites: dict[str, _Suite] = {}
        #: Whether a case has a verdict.
        self.ran = False

    def update(self, case: CaseRecord) -> None:
        """Replace the piece of a case."""
        share = max(_LEAST, _BUDGET // max(1, len(self._record.cases)))
        style = self._style
        if share < style.limit:
            style = replace(style, limit=share)
        suite = self._suites.setdefault(
            case.suite or case.file or "trafficlight", _Suite(self._style.source(case.file, case.path))
        )
        suite.pieces[case.id] = _piece(case_element(case, style))
        self.ran = self.ran or (case.verdict is not None and case.state != "skipped")

    def to_bytes(self, *, running: bool = False) -> bytes:
        """Return the complete file; it is valid at any time.

        :param running: whether cases may still get verdicts: it is no error that none has one.
        """
        suites = [(name, suite.file, list(suite.pieces.values())) for name, suite in self._suites.items()]
        if problems := self._record.problems:
            suites.append(
                ("problems", "", _distinct(problem_element(problem, self._style) for problem in problems))
            )
        elif (error := _problem_of(self._record, ran=self.ran, running=running)) is not None:
            suites.append(("session", "", [_piece(error)]))
        root = Element("testsuites", {"name": "trafficlight"})
        every = [piece for _, _, pieces in suites for piece in pieces]
        _count(root, every, self._record.seconds)
        timestamp = suite_shell("", self._record).get("timestamp")
        if timestamp:
            root.set("timestamp", timestamp)
        SubElement(root, "here")  # splits the opening tag from the closing tag
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
    """Return the JUnit file of a session."""
    document = JunitDocument(record, style)
    for case in record.cases.values():
        document.update(case)
    return document.to_bytes()


def case_element(case: CaseRecord, style: JunitStyle) -> Element:
    """Return the element of a case in its current state."""
    over = case.ended
    last = over[-1] if over else None
    entry = junit_xml.TestCase(
        escape_control(case.id.rpartition("::")[2] or "case"),
        classname=escape_control(_class_name(case)),
        file=escape_control(style.source(case.file, case.path)) or None,
        line=case.line,
        timestamp=_timestamp(last.started) if last else None,
        stdout=_output(case, last, style) if last else None,
    )
    outcome = case.outcome
    folder = style.path(last.folder) if last else style.path("")
    skip_type = ""
    match outcome:
        case Outcome.FAILURE:
            entry.add_failure_info(_message(case.message), _body(last, style, folder), "trafficlight.failure")
        case Outcome.ERROR:
            entry.add_error_info(_message(case.message), _body(last, style, folder), "trafficlight.error")
        case Outcome.EXPECTED_FAILURE:
            skip_type = "trafficlight.expected-failure"
            entry.add_skipped_info(_expected(case), _body(last, style, folder))
        case Outcome.SKIPPED | Outcome.NOT_RUN:
            skip_type = f"trafficlight.{case.skip_type or 'not-run'}"
            entry.add_skipped_info(_message(case.reason, "no reason recorded"))
        case Outcome.RUNNING:
            skip_type = "trafficlight.not-run"
            entry.add_skipped_info(_message(f"no verdict: still {case.state} when this file was written"))
        case Outcome.SUCCESS | Outcome.FLAKY | Outcome.UNEXPECTED_SUCCESS:
            pass
    element = _element(entry, case.seconds)
    if (skipped := element.find("skipped")) is not None:
        skipped.set("type", skip_type)
    if outcome in (Outcome.FLAKY, Outcome.FAILURE, Outcome.ERROR):
        _add_earlier(element, over[:-1], outcome, style)
    properties = _properties(case, last, style)
    if len(properties):
        element.insert(0, properties)
    return element


def problem_element(problem: Problem, style: JunitStyle) -> Element:
    """Return the element of a test file that cannot run, as an error so that CI fails."""
    source = style.source(problem.file, problem.path)
    where = f"{source}:{problem.line}" if problem.line is not None else source
    entry = junit_xml.TestCase(
        escape_control(f"{source}: {single_line(problem.problem, 200)}"),
        classname=escape_control(_dotted(style.source(problem.file)) or "trafficlight.session"),
        file=escape_control(source) or None,
        line=problem.line,
    )
    text = f"{where}: {problem.problem}" + (f"\n{problem.hint}" if problem.hint else "")
    entry.add_error_info(_message(problem.problem), escape_control(text), "trafficlight.problem")
    return _element(entry, 0.0)


def _session_error(what: str, message: str, kind: str, details: str | None = None) -> Element:
    """Return the error element of a session that would otherwise look successful.

    :param what: what a session should do.
    :param kind: the end of the error's type.
    """
    entry = junit_xml.TestCase(what, classname="trafficlight.session")
    entry.add_error_info(_message(message), details, f"trafficlight.{kind}")
    return _element(entry, 0.0)


def _problem_of(record: SessionRecord, *, ran: bool, running: bool) -> Element | None:
    """Return what is wrong with a session besides its cases; None if nothing is.

    :param ran: whether a case has a verdict.
    :param running: whether cases may still get verdicts.
    """
    if not (ran or running):
        planned = len(record.cases)
        why = f"none of {count(planned, 'case')} has a verdict" if planned else "there were no cases"
        return _session_error("a session runs at least one case", f"nothing ran: {why}", "nothing-ran")
    number = record.undecided
    if not running and record.exit_code not in (0, 1) and number:
        what = f"{count(number, 'case')} {'has' if number == 1 else 'have'} no verdict"
        reasons = (case.reason for case in record.cases.values() if case.outcome is Outcome.NOT_RUN)
        # Until the end, a reason is what a case waits for.
        ended = record.stopped or (record.ended and next(filter(None, reasons), ""))
        message = f"{what}: {ended or 'the session did not end'}"
        return _session_error("a session runs all of its cases", message, "interrupted")
    if record.strict and record.reductions and not running:
        message = f"{' and '.join(record.reductions)} in a strict session"
        details = escape_control("\n".join(record.warnings))
        return _session_error("a strict session runs everything", message, "strict", details)
    if record.incomplete:
        return _session_error("a session keeps its results", record.incomplete, "incomplete")
    return None


def suite_shell(name: str, record: SessionRecord, file: str = "") -> Element:
    """Return the element of a suite without its cases and totals."""
    properties = {"session": record.id}
    properties.update((f"version.{key}", str(value)) for key, value in record.versions.items())
    if record.seed is not None:
        properties["seed"] = str(record.seed)
    # Each is left out if it is not known.
    properties |= {"command": record.command, "commit": record.commit, "job": record.job}
    properties["dirty"] = "true" if record.dirty else ""
    for number, warning in enumerate(record.warnings[:_MOST_WARNINGS], 1):
        properties[f"warning.{number}"] = warning
    suite = junit_xml.TestSuite(
        escape_control(name),
        hostname=escape_control(record.host) or None,
        timestamp=_timestamp(record.started),
        file=escape_control(file) or None,
        properties={_property(key): _property(value) for key, value in properties.items() if value},
    )
    element: Element = suite.build_xml_doc()
    element.attrib.pop("disabled", None)
    return element


def _element(entry: junit_xml.TestCase, seconds: float) -> Element:
    suite: Element = junit_xml.TestSuite("", [entry]).build_xml_doc()
    element = suite.find("testcase")
    assert element is not None
    element.set("time", f"{seconds:.3f}")
    return element


def _add_earlier(
    element: Element, earlier: Sequence[AttemptRecord], outcome: Outcome, style: JunitStyle
) -> None:
    position = next((index for index, child in enumerate(element) if child.tag == "system-out"), len(element))
    for attempt in earlier:
        if attempt.state not in (State.FAILURE, State.ERROR):
            continue
        again = Element("flakyFailure" if outcome is Outcome.FLAKY else "rerunFailure")
        again.set("message", _message(attempt.message))
        again.set("type", f"trafficlight.{attempt.state}")
        folder = style.path(attempt.folder)
        SubElement(again, "stackTrace").text = _body(attempt, style, folder)
        SubElement(again, "system-out").text = _timeline(attempt, _LONGEST_PASSING, folder)
        element.insert(position, again)
        position += 1


def _properties(case: CaseRecord, last: AttemptRecord | None, style: JunitStyle) -> Element:
    pairs: list[tuple[str, str]] = [("id", case.id)]
    for role, name in case.clients.items():
        pairs.append((f"client.{role}", name))
        registration = last.adapters.get(role, {}) if last else {}
        pairs.extend(
            (f"client.{role}.{key}", str(registration.get(key) or "")) for key in ("type", "version")
        )
        pairs.append((f"adapter.{role}", last.adapter_ids.get(role, "") if last else ""))
    for role, name in case.servers.items():
        pairs.append((f"server.{role}", name))
        if last is not None and (server := last.servers.get(role)) is not None:
            pairs += [(f"server.{role}.version", server.version), (f"server.{role}.image", server.image)]
    pairs.extend((f"parameter.{name}", str(value)) for name, value in case.parameters.items())
    if last is not None:
        pairs.append(("attempt", str(last.number)))
        pairs.append(("folder", style.path(last.folder)))
        measurements = summarized(last.measurements)[:_MOST_MEASUREMENTS]
        pairs.extend((f"measurement.{name}", value) for name, value in measurements)
    if case.outcome is Outcome.UNEXPECTED_SUCCESS:
        pairs.append(("unexpected-success", _expected(case)))
    if last is not None:
        pairs.extend(("attachment", _attached(last, file, style)) for file in last.files[:_MOST_ATTACHMENTS])
    properties = Element("properties")
    for name, value in pairs:
        if value:
            SubElement(properties, "property", name=_property(name), value=_property(value))
    return properties


def _output(case: CaseRecord, last: AttemptRecord, style: JunitStyle) -> str | None:
    limit = style.limit
    if case.outcome not in (Outcome.FAILURE, Outcome.ERROR, Outcome.EXPECTED_FAILURE):
        limit = min(limit, _LONGEST_PASSING)
    parts = [_timeline(last, limit, style.path(last.folder))]
    for file in last.files[:_MOST_ATTACHMENTS]:
        path = _attached(last, file, style)
        # A name that would end the marker early is in the properties only.
        if path == escape_control(path) and "]]" not in path and "\n" not in path:
            parts.append(f"[[ATTACHMENT|{path}]]")
    return "\n".join(part for part in parts if part) or None


def _timeline(attempt: AttemptRecord, limit: int, folder: str) -> str:
    return truncate_middle(escape_control(render_timeline(attempt)), limit, folder)


def _attached(attempt: AttemptRecord, file: Upload | Attachment, style: JunitStyle) -> str:
    return style.path(f"{attempt.folder}/{file.path}")


def _body(attempt: AttemptRecord | None, style: JunitStyle, folder: str) -> str:
    if attempt is None:
        return folder  # no attempt started; the message says why
    parts = [attempt.message, "" if attempt.traceback == attempt.message else attempt.traceback]
    text = "\n\n".join(part.strip("\n") for part in parts if part)
    phase = f"in phase: {attempt.phase}\n" if attempt.phase else ""
    return truncate_middle(escape_control(f"{text}\n\n{phase}{folder}"), style.limit, folder)


def _message(text: str, otherwise: str = "no message") -> str:
    return truncate_middle(escape_control(text.strip() or otherwise), _LONGEST_MESSAGE)


def _property(text: str) -> str:
    return truncate_middle(escape_control(text), _LONGEST_PROPERTY)


def _expected(case: CaseRecord) -> str:
    if case.expected is None:
        return ""
    return (
        escape_control(" ".join(part for part in (case.expected.reason, case.expected.link) if part))
        or "expected"
    )


def _below(path: Path, project: Path) -> str:
    base = project.absolute()
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def _class_name(case: CaseRecord) -> str:
    module = _dotted(case.file or case.id.partition("::")[0])
    return ".".join(part for part in (module, case.class_name) if part) or "trafficlight"


def _dotted(file: str) -> str:
    return re.sub(r"[./\\]*[/\\]+", ".", file.removesuffix(".py")).strip("./\\")


def _timestamp(when: datetime | None) -> str | None:
    return when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z" if when else None


def _piece(element: Element) -> _Piece:
    verdict = next((_VERDICTS[child.tag] for child in element if child.tag in _VERDICTS), "")
    content = tostring(element, encoding="utf-8").removeprefix(b"<?xml version='1.0' encoding='utf-8'?>\n")
    return _Piece(content + b"\n", verdict, float(element.get("time", "0")))


def _distinct(elements: Iterable[Element]) -> list[_Piece]:
    """Number elements of the same name: readers keep only the first of each."""
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
