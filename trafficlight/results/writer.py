"""Writes the folder of a session: its log as events happen, and everything that is derived from it."""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from trafficlight.results.case import INTERRUPTED, AttemptRecord, CaseRecord
from trafficlight.results.catalog import SessionSummary
from trafficlight.results.events import (
    FINAL,
    Attachment,
    CaseEnded,
    CasePlanned,
    CaseRerun,
    CaseState,
    CaseWaits,
    Event,
    Log,
    Problem,
    SessionEnded,
    SessionStarted,
    State,
    Upload,
)
from trafficlight.results.folder import AttemptFolder, ResultsFolder, remove_partial_uploads, write_atomically
from trafficlight.results.history.changes import changes_in, read_changes, write_changes
from trafficlight.results.history.database import HistoryError
from trafficlight.results.history.index import History
from trafficlight.results.history.statistics import CaseHistory
from trafficlight.results.journal import EventLog, is_written, last_sequence, read_events
from trafficlight.results.record import ExitCode, SessionRecord
from trafficlight.results.reporters.host import Reporter, ReporterHost
from trafficlight.results.reports.html import report_html
from trafficlight.results.reports.json_files import (
    dump,
    measurements_json,
    report_json,
    rerun_failed,
)
from trafficlight.results.reports.junit import JunitDocument, JunitStyle, junit_bytes
from trafficlight.results.reports.presentation import render
from trafficlight.results.reports.timeline import render_timeline
from trafficlight.results.reports.tracebacks import trimmed_traceback
from trafficlight.text import count, escape_control

logger = logging.getLogger(__name__)

# How many times as long as writing took the thread pauses after it: writing takes 5 % of the time at most.
_THROTTLE = 20
_LONGEST_PAUSE = 5.0  # seconds
# Seconds that reading earlier sessions into the history may take at the end of one.
_CATCHING_UP = 2.0
# Seconds in which late events of a session share a rebuild of its reports.
_GATHER = 0.2
# Seconds before the last event of a killed coordinator in which an attempt may have ended without its logs.
_RECENT = 60.0

_CHANGES_JUNIT = CasePlanned | CaseWaits | CaseState | CaseEnded | CaseRerun | Upload | Attachment
LATE = (Upload, Log)
"""What can arrive for a session that has ended."""


class ResultsWriter:
    """Writes the folder of a session while it runs, as a reader of the journal.

    An event costs the event loop its line in ``events.jsonl`` and its place in the record. A thread writes
    everything else: the logs of an attempt as soon as it has ended; then ``junit.xml`` and ``session.json``,
    each replaced atomically, so they are valid at any moment. Only the cases that changed are serialised, and
    the thread pauses for a multiple of the time that this took, so that thousands of quick cases share it.

    :param folder: where to; its log is opened, so that other processes see that the session runs.
    :param record: the session's record; events are applied to it here, and once only.
    :param deadline: seconds that reporters may take after the end.
    :param history: of the results folder; None keeps none.
    """

    def __init__(
        self,
        folder: ResultsFolder,
        record: SessionRecord,
        reporters: Sequence[Reporter] = (),
        *,
        deadline: float = 30.0,
        history: History | None = None,
    ) -> None:
        self._folder = folder
        self._record = record
        record.id = record.id or folder.id
        self._log = EventLog(folder.events)
        #: Why the last event could not be written; empty if it was.
        self.trouble = ""
        #: What is missing in the folder, and why; empty if nothing is.
        self.incomplete = ""
        self._document = JunitDocument(record, JunitStyle.detect(folder.path))
        self._written = b""
        self._deadline = deadline
        self._history = history
        self._hosts = [ReporterHost(reporter, deadline=deadline) for reporter in reporters]
        self._changed: dict[str, None] = {}  # the ids of cases to serialise again, in order
        self._record_lock = threading.Lock()  # held for microseconds
        self._file_lock = threading.Lock()  # held while the file is written
        self._attempts: deque[AttemptRecord] = deque()  # ended, without their logs
        self._seen: set[Path] = set()  # folders of the session, and logs of adapter programs
        self._dirty = False  # whether junit.xml and session.json are behind
        self._wake = threading.Event()
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"results {folder.id}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take in an event of the session, or of none."""
        if self._closing:
            return
        sequence = self._record.last_sequence + 1
        with self._record_lock:
            self._record.apply(event, sequence)
            if isinstance(event, _CHANGES_JUNIT):
                self._changed.update(dict.fromkeys(event.case_ids))
        try:
            # In the event loop, not in the thread: the cause of the event is answered after this returns,
            # and the event must be on the disk then, even if the process is killed.
            self._log.append(event, sequence)
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self._folder.events} cannot be written: {error.strerror or error}"
            self.incomplete = self.incomplete or self.trouble
            raise
        finally:  # a full disk must not keep the verdict from the reporters
            self._follow(event)

    def resume(self) -> None:
        """Take over a record that an earlier coordinator began: every case is serialised again."""
        with self._record_lock:
            self._changed.update(dict.fromkeys(self._record.cases))
        for host in self._hosts:
            host.session_started(self._record)
        if (last := self._record.last_time) is not None:
            # Its thread may have been killed before it wrote the logs of the last attempts.
            self._attempts += (
                attempt
                for case in self._record.cases.values()
                for attempt in case.ended
                if attempt.ended is not None and (last - attempt.ended).total_seconds() < _RECENT
            )
        self._mark_dirty()

    def junit(self, *, running: bool = False) -> bytes:
        """Return the content of ``junit.xml``, after bringing the file up to date. Blocks.

        :param running: leave out the error for cases without a verdict. The file always has it, for the case
            that the coordinator is killed.
        """
        self._write_junit()
        if running:
            with self._file_lock:
                return self._document.to_bytes(running=True)
        return self._written

    def close(self) -> None:
        """Write everything that is left and wait for the reporters until their deadline.

        Blocks; may be called again.
        """
        if self._closed:
            return
        self._closed = self._closing = True
        self._wake.set()
        try:
            self._thread.join()
            removed = _removed(self._folder.path, self._record) or self._vanished()
            self._note(self._log.misplaced() or removed)
            self._record_incomplete()
            self._note(_attempted(self._write_junit, "junit.xml"))
            before: Mapping[str, CaseHistory] = {}
            if self._history is not None and self._record.ended is not None:
                before = keep_history(self._history, self._folder.path, self._record)
            self._note(write_reports(self._folder, self._record, before))
            if self._record_incomplete():
                # A full disk has no place for two of them, and this one is green.
                self._folder.junit.unlink(missing_ok=True)
                _attempted(self._write_junit, "junit.xml")
                _attempted(self._write_session, "session.json")
            for host in self._hosts:
                host.stop()
            until = time.monotonic() + self._deadline
            for host in self._hosts:
                host.join(until)
        finally:
            self._log.close()  # last: other processes take the session for complete then

    def _record_incomplete(self) -> bool:
        """Record that the results of an ended session are incomplete; return whether that is news."""
        record = self._record
        if not self.incomplete or record.incomplete or record.ended is None:
            return False
        end = SessionEnded(
            sequence=record.last_sequence + 1,
            time=record.ended,
            session=record.id,
            counts=record.counts,
            exit_code=record.exit_code or ExitCode.LAB_ERROR,
            interrupted=record.interrupted,
            incomplete=self.incomplete,
        )
        record.apply(end)
        _attempted(partial(self._log.append, end), "events.jsonl")
        return True

    def _follow(self, event: Event) -> None:
        match event:
            case SessionStarted():
                for host in self._hosts:
                    host.session_started(self._record)
                self._mark_dirty()
            case CaseEnded():
                case = self._record.cases.get(event.case)
                if case is not None:
                    self._case_ended(case, event)
                self._mark_dirty()
            case Upload() | Attachment():
                case = self._record.cases.get(event.case or "")
                if case is not None and case.state in FINAL:  # late: the case is in the file already
                    self._mark_dirty()
            case Problem() | CasePlanned():
                self._mark_dirty()
            case SessionEnded():
                for host in self._hosts:
                    host.session_ended(self._record)
            case _:
                pass

    def _case_ended(self, case: CaseRecord, event: CaseEnded) -> None:
        attempt = next((one for one in case.attempts if one.number == event.attempt), None)
        if attempt is not None and (attempt.timeline or attempt.measurements):
            self._attempts.append(attempt)
            self._wake.set()
        if not event.will_retry:
            for host in self._hosts:
                host.case_ended(case)

    def _mark_dirty(self) -> None:
        if not self._dirty:  # otherwise the thread is awake, or its pause has an end
            self._dirty = True
            self._wake.set()

    def _work(self) -> None:
        """Write what has changed, again and again: the thread."""
        due = 0.0
        while True:
            self._wake.wait(max(0.0, due - time.monotonic()) if self._dirty else None)
            self._wake.clear()
            closing = self._closing
            while self._attempts:
                attempt = self._attempts.popleft()
                path = self._folder.path / attempt.folder
                self._note(_attempted(partial(_write_attempt, path, attempt), attempt.folder))
            if closing:
                return
            if self._dirty and time.monotonic() >= due:
                self._dirty = False
                began = time.monotonic()
                _attempted(self._write_junit, "junit.xml")
                _attempted(self._write_session, "session.json")
                self._seen |= _kept(self._folder.path)
                due = time.monotonic() + min(_LONGEST_PAUSE, _THROTTLE * (time.monotonic() - began))

    def _write_session(self) -> None:
        content = dump(SessionSummary.of(self._record).as_json())
        write_atomically(self._folder.path / "session.json", content)

    def _write_junit(self) -> None:
        with self._file_lock:
            with self._record_lock:
                changed = list(self._changed)
                self._changed.clear()
            for case_id in changed:
                # One case at a time, so that an event never waits for more than that.
                with self._record_lock:
                    if (case := self._record.cases.get(case_id)) is not None:
                        self._document.update(case)
            content = self._document.to_bytes()
            if content != self._written:
                write_atomically(self._folder.junit, content)
                self._written = content

    def _vanished(self) -> str:
        """Return which folder, or log of an adapter program, is no longer there; empty if all are."""
        gone = sorted(self._seen - _kept(self._folder.path))
        return f"{gone[0]} was removed while the session ran" if gone else ""

    def _note(self, missing: str) -> None:
        self.incomplete = self.incomplete or missing


class LateEventRecorder:
    """Records what arrives for a session that has ended, such as the log that an exiting adapter uploads.

    A reader of the journal. A thread appends the event to the session's log at once, and rebuilds the
    reports, once for all events that arrive together.

    :param root: the folder of all sessions' results.
    :param recorded: whether a session, by its id, still records its events itself.
    :param history: of that folder.
    """

    def __init__(self, root: Path, recorded: Callable[[str], bool], history: History | None = None) -> None:
        self._root = root
        self._history = history
        self._recorded = recorded
        self._lock = threading.Lock()  # held for microseconds
        self._events: list[Upload | Log] = []
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = False
        self._outdated: dict[str, ResultsFolder] = {}  # of the thread

    def __call__(self, event: Upload | Log) -> None:
        """Take in an event; those of sessions that have not ended are ignored."""
        if not event.session or self._recorded(event.session):
            return
        with self._lock:
            self._events.append(event)
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="late events", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Wait until the reports have everything. Blocks."""
        self._closing = True
        self._wake.set()
        with self._lock:
            working = self._thread
        if working is not None:
            working.join()

    def _work(self) -> None:
        due = 0.0
        while True:
            self._wake.clear()
            with self._lock:
                events, self._events = self._events, []
                if not events and not self._outdated:
                    self._thread = None
                    return
            for event in events:
                _attempted(partial(self._append, event), f"a late event of session {event.session}")
            if events:
                due = max(due, time.monotonic() + _GATHER)
            if not self._closing and (left := due - time.monotonic()) > 0:
                self._wake.wait(left)
            elif self._outdated:
                began = time.monotonic()
                _, folder = self._outdated.popitem()
                _attempted(partial(self._rebuild, folder), f"the late reports of session {folder.id}")
                due = time.monotonic() + min(_LONGEST_PAUSE, _THROTTLE * (time.monotonic() - began))

    def _append(self, event: Upload | Log) -> None:
        folder = ResultsFolder(self._root / event.session)
        if folder.events.is_file():
            with contextlib.closing(EventLog(folder.events)) as log:
                log.append(event, last_sequence(folder.events) + 1)
            self._outdated[folder.id] = folder

    def _rebuild(self, folder: ResultsFolder) -> None:
        while is_written(folder.events):  # the session writes its own reports first
            time.sleep(_GATHER)
        rebuild(folder, SessionRecord.replay(read_events(folder.events)), self._history)


def keep_history(history: History, folder: Path, record: SessionRecord) -> Mapping[str, CaseHistory]:
    """Add a session that has ended to the history and write what changed; a problem costs nothing else.

    :return: the verdicts of its cases before it.
    """
    before: Mapping[str, CaseHistory] = {}
    try:
        history.update(_CATCHING_UP)
        before = history.take_in(record)
        if (changes := changes_in(record, before)) is not None:
            write_changes(folder, changes)
    except (HistoryError, OSError) as error:
        logger.warning("the session is not compared with earlier ones: %s", error)
    except Exception:
        logger.exception("the session is not compared with earlier ones")
    return before


def verdicts_before(history: History, record: SessionRecord) -> Mapping[str, CaseHistory]:
    """Return the verdicts of a session's cases before it; a problem is logged, and there are none."""
    try:
        return history.before(record)
    except HistoryError as error:
        logger.warning("the report shows no earlier sessions: %s", error)
        return {}


def rebuild(folder: ResultsFolder, record: SessionRecord, history: History | None = None) -> None:
    """Rebuild ``junit.xml`` and all reports of a session.

    :param record: the session's record, replayed from its events.
    :param history: of its results folder; None for that in the folder.
    :raises OSError: ``junit.xml`` cannot be written.
    """
    if record.ended is None and not is_written(folder.events):  # its coordinator was killed
        remove_partial_uploads(folder.path)
    write_atomically(folder.junit, junit_bytes(record, JunitStyle.detect(folder.place)))
    write_reports(folder, record, verdicts_before(history or History(folder.place.parent), record))


def write_reports(folder: ResultsFolder, record: SessionRecord, before: Mapping[str, CaseHistory]) -> str:
    """Write the files for the end of a session: the report for people, and those for programs.

    One that cannot be written is logged and costs none of the others.

    :param before: the verdicts of its cases before it.
    :return: why one could not be written; empty if all were.
    """
    files: dict[str, Callable[[], bytes]] = {
        "session.json": lambda: dump(SessionSummary.of(record).as_json()),
        "report.json": lambda: dump(report_json(record, read_changes(folder.path))),
        "rerun-failed.yml": lambda: rerun_failed(record),
        # The same style sheet as inside of the report, for sites that allow none there, such as Jenkins.
        "report.css": lambda: render("report.css"),
        "report.html": lambda: report_html(record, read_changes(folder.path), folder.path, before),
    }

    def write(name: str) -> None:
        write_atomically(folder.path / name, files[name]())

    failures = [_attempted(partial(write, name), name) for name in files]
    return next(filter(None, failures), "")


def _attempted(write: Callable[[], None], what: str) -> str:
    """Write something; return why that failed, or nothing."""
    try:
        write()
    except OSError as error:
        logger.error("cannot write %s: %s", what, error)  # a full disk has no place for tracebacks
        return f"{what} cannot be written: {error.strerror or error}"
    except Exception as error:
        logger.exception("cannot write %s", what)
        return f"{what} cannot be written: {error}"
    return ""


def _kept(root: Path) -> set[Path]:
    """Return the folders of a session, and the logs of adapter programs: no writing brings them back."""
    with contextlib.suppress(OSError):
        return {*root.glob("*/"), *root.glob("adapters/*.log")}
    return set()


def _removed(root: Path, record: SessionRecord) -> str:
    """Return which files of a session's cases are no longer there; empty if all are."""
    # The files of an attempt may have been lost with its machine.
    ended = [one for case in record.cases.values() for one in case.ended if one.phase != INTERRUPTED]
    files = [
        root / attempt.folder / name
        for attempt in ended
        for name in (
            *(("log.info",) if attempt.timeline else ()),
            *(file.path for file in (*attempt.uploads, *attempt.attachments)),
        )
    ]
    missing = [file for file in files if not os.path.lexists(file)]
    if not missing:
        return ""
    return f"{count(len(missing), 'file')} of cases removed while the session ran, such as {missing[0]}"


def _write_attempt(path: Path, attempt: AttemptRecord) -> None:
    folder = AttemptFolder(path)
    if attempt.measurements:
        folder.create()
        write_atomically(folder.measurements, dump(measurements_json(attempt)))
    if not attempt.timeline:
        return
    folder.create()
    for target, debug in ((folder.log_info, False), (folder.log_debug, True)):
        parts = [render_timeline(attempt, debug=debug, times=True)]
        if attempt.state in (State.FAILURE, State.ERROR):
            trace = trimmed_traceback(attempt.traceback)
            parts += [escape_control(attempt.message), *(["\n".join(trace)] if trace else [])]
        text = ("\n\n".join(parts) + "\n").encode(errors="replace")
        # Behind what the test itself logged while it ran.
        with target.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(text)))
            if file.read() != text:  # it is there already if an earlier coordinator wrote it
                file.write(b"\n" + text if size else text)
