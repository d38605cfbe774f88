"""JUnit XML: from the record of a session to elements that the programs of the CI world agree about.

Elements come from ``junit-xml``; what it has no words for is added to its tree: properties of a test case,
flaky elements, the types of skipped, milliseconds, names and totals of the root. ``docs/reference/junit.md``
tells what is written and why.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import junit_xml

from trafficlight.results.attempt import AttemptRecord, FileRecord
from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.events import State
from trafficlight.results.record import Problem, SessionRecord
from trafficlight.results.reports.timeline import render_timeline
from trafficlight.text import single_line, truncate_middle, visible

_MOST_ATTACHMENTS = 100  # of one case
_LONGEST_MESSAGE = 4 * 1024  # bytes of a message attribute
_LONGEST_PASSING = 4 * 1024  # bytes of output of a case that nobody will ask about


@dataclass(frozen=True, slots=True)
class JunitStyle:
    """What depends on where the file will be read.

    :param folder: the session's folder.
    :param project: what attachment paths are relative to (GitLab); None makes them absolute (Jenkins).
    :param limit: bytes of output that a case may carry.
    """

    folder: Path
    project: Path | None = None
    limit: int = 64 * 1024

    @classmethod
    def detect(cls, folder: Path, environment: Mapping[str, str], project: Path) -> "JunitStyle":
        """Return the style for the CI system that an environment speaks of."""
        return cls(folder, None if "JENKINS_URL" in environment else project)

    def path(self, relative: str) -> str:
        """Return what names a file of the session's folder to the reader."""
        path = self.folder.absolute() / relative
        return path.as_posix() if self.project is None else _below(path, self.project)

    def source(self, file: str) -> str:
        """Return what names a test file to the reader: relative to the project, where it lies below."""
        return file if self.project is None or not file.startswith("/") else _below(Path(file), self.project)


def case_element(case: CaseRecord, style: JunitStyle) -> Element:
    """Return the element of one case, as it stands."""
    over = case.ended
    last = over[-1] if over else None
    entry = junit_xml.TestCase(
        visible(case.id.rpartition("::")[2] or "case"),
        classname=visible(_class_name(case)),
        file=visible(case.file) or None,
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
            entry.add_skipped_info(_message(case.reason, "nobody said why it did not run"))
        case Outcome.RUNNING:
            skip_type = "trafficlight.not-run"
            entry.add_skipped_info(_message(f"no verdict: it was {case.state} when this was written"))
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
    """Return the element of a test file that cannot run: an error, or nobody would notice."""
    source = style.source(problem.file)
    where = f"{source}:{problem.line}" if problem.line is not None else source
    entry = junit_xml.TestCase(
        visible(f"{source}: {single_line(problem.problem, 200)}"),
        classname=visible(_dotted(source) or "trafficlight.session"),
        file=visible(source) or None,
        line=problem.line,
    )
    text = f"{where}: {problem.problem}" + (f"\n{problem.hint}" if problem.hint else "")
    entry.add_error_info(_message(problem.problem), visible(text), "trafficlight.problem")
    return _element(entry, 0.0)


def nothing_ran(why: str) -> Element:
    """Return the element that keeps a session without any verdict from looking like a success."""
    entry = junit_xml.TestCase("a session runs at least one case", classname="trafficlight.session")
    entry.add_error_info(f"nothing ran: {_message(why)}", error_type="trafficlight.nothing-ran")
    return _element(entry, 0.0)


def suite_shell(name: str, record: SessionRecord, file: str = "") -> Element:
    """Return the element of a suite without its cases and their numbers."""
    properties = {"session": record.id}
    properties.update((f"version.{key}", str(value)) for key, value in record.versions.items())
    if record.seed is not None:
        properties["seed"] = str(record.seed)
    if record.command:
        properties["command"] = record.command
    suite = junit_xml.TestSuite(
        visible(name),
        hostname=visible(record.host) or None,
        timestamp=_timestamp(record.started),
        file=visible(file) or None,
        properties={visible(key): visible(value) for key, value in properties.items() if value},
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
        SubElement(again, "system-out").text = _story(attempt, _LONGEST_PASSING, folder)
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
        server = last.servers.get(role, {}) if last else {}
        pairs.extend((f"server.{role}.{key}", str(server.get(key) or "")) for key in ("version", "image"))
    pairs.extend((f"parameter.{name}", str(value)) for name, value in case.parameters.items())
    if last is not None:
        pairs.append(("attempt", str(last.number)))
        pairs.append(("folder", style.path(last.folder)))
        pairs.extend(
            (f"measurement.{item.name}", f"{item.value} {item.unit}".strip()) for item in last.measurements
        )
    if case.outcome is Outcome.UNEXPECTED_SUCCESS:
        pairs.append(("unexpected-success", _expected(case)))
    if last is not None:
        pairs.extend(("attachment", _attached(last, file, style)) for file in last.files[:_MOST_ATTACHMENTS])
    properties = Element("properties")
    for name, value in pairs:
        if value:
            SubElement(properties, "property", name=visible(name), value=visible(value))
    return properties


def _output(case: CaseRecord, last: AttemptRecord, style: JunitStyle) -> str | None:
    limit = style.limit
    if case.outcome not in (Outcome.FAILURE, Outcome.ERROR, Outcome.EXPECTED_FAILURE):
        limit = min(limit, _LONGEST_PASSING)
    parts = [_story(last, limit, style.path(last.folder))]
    for file in last.files[:_MOST_ATTACHMENTS]:
        path = _attached(last, file, style)
        # A name that would end the marker early is named in the properties only.
        if path == visible(path) and "]]" not in path and "\n" not in path:
            parts.append(f"[[ATTACHMENT|{path}]]")
    return "\n".join(part for part in parts if part) or None


def _story(attempt: AttemptRecord, limit: int, folder: str) -> str:
    return truncate_middle(visible(render_timeline(attempt)), limit, folder)


def _attached(attempt: AttemptRecord, file: FileRecord, style: JunitStyle) -> str:
    return style.path(f"{attempt.folder}/{file.path}")


def _body(attempt: AttemptRecord | None, style: JunitStyle, folder: str) -> str:
    if attempt is None:
        return folder  # it never came to an attempt; the message says why
    parts = [attempt.message, "" if attempt.traceback == attempt.message else attempt.traceback]
    text = "\n\n".join(part.strip("\n") for part in parts if part)
    phase = f"in phase: {attempt.phase}\n" if attempt.phase else ""
    return truncate_middle(visible(f"{text}\n\n{phase}{folder}"), style.limit, folder)


def _message(text: str, otherwise: str = "no message") -> str:
    return truncate_middle(visible(text.strip() or otherwise), _LONGEST_MESSAGE)


def _expected(case: CaseRecord) -> str:
    if case.expected is None:
        return ""
    return (
        visible(" ".join(part for part in (case.expected.reason, case.expected.link) if part)) or "expected"
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
