"""Keeps a session's folder up to date while the session goes on, as a reader of the journal."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trafficlight.results.case import AttemptRecord, CaseRecord
from trafficlight.results.event_log import EventLog
from trafficlight.results.events import (
    FINAL,
    Attachment,
    CaseEnded,
    CasePlanned,
    CaseState,
    CaseWaits,
    Event,
    Problem,
    SessionEnded,
    SessionStarted,
    Upload,
)
from trafficlight.results.folder import AttemptFolder, ResultsFolder, write_atomically
from trafficlight.results.record import SessionRecord
from trafficlight.results.reporters.host import Reporter, ReporterHost
from trafficlight.results.reports.html import report_html
from trafficlight.results.reports.json_files import (
    dump,
    measurements_json,
    report_json,
    rerun_failed,
    session_json,
)
from trafficlight.results.reports.junit import JunitDocument, JunitStyle, junit_bytes
from trafficlight.results.reports.timeline import render_timeline

logger = logging.getLogger(__name__)

_REST = 20
"""How many times as long as a writing took the file is then left alone: it takes 5 % of the time at most."""

_LONGEST_REST = 5.0  # seconds

_CHANGES_JUNIT = CasePlanned | CaseWaits | CaseState | CaseEnded | Upload | Attachment


class ResultsWriter:
    """Writes what a session leaves behind.

    An event costs its line in ``events.jsonl`` and its place in the record. ``junit.xml`` is written by a
    thread of its own as soon as a case has ended, and replaced atomically, so it is valid at any moment. Only
    the cases that changed are serialised, and after each writing the thread rests for a multiple of the time
    that it took, so that thousands of quick cases share a writing. It writes ``session.json`` with it: so
    lists can tell how a session stood that was cut off.

    :param folder: where to.
    :param record: the session's record; events are applied to it here, and once only.
    :param reporters: plug-ins to tell.
    :param style: where ``junit.xml`` will be read; None finds out from the environment.
    :param deadline: seconds that reporters may take after the end.
    """

    def __init__(
        self,
        folder: ResultsFolder,
        record: SessionRecord,
        reporters: Sequence[Reporter] = (),
        *,
        style: JunitStyle | None = None,
        deadline: float = 30.0,
    ) -> None:
        self._folder = folder
        self._record = record
        if not record.id:
            record.id = folder.id
        self._log = EventLog(folder.events)
        #: Why the last event could not be written; empty if it was.
        self.trouble = ""
        self._style = style or JunitStyle.detect(folder.path, os.environ, Path.cwd())
        self._document = JunitDocument(record, self._style)
        self._written = b""
        self._deadline = deadline
        self._hosts = [ReporterHost(reporter, deadline=deadline) for reporter in reporters]
        self._changed: dict[str, None] = {}  # the ids of cases to serialise anew, in order
        self._record_lock = threading.Lock()  # held for microseconds
        self._file_lock = threading.Lock()  # held while the file is written
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._closed = False
        self._over = False
        self._finish_lock = threading.Lock()  # held while the reports are written
        self._reported = -1  # the last event that is in the reports
        self._late_lock = threading.Lock()  # held for microseconds
        self._late = False  # whether something came after the end that is not in the reports yet
        self._catching_up: threading.Thread | None = None
        self._leaving = threading.Event()  # set when nobody waits for others that may come late, too
        self._thread = threading.Thread(target=self._keep_written, name=f"junit {folder.id}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take in an event of the session, or of none."""
        if self._closed:
            return
        event = replace(event, sequence=self._record.last_sequence + 1)
        with self._record_lock:
            self._record.apply(event)
            if isinstance(event, _CHANGES_JUNIT):
                self._changed.update(dict.fromkeys(event.case_ids))
        try:
            self._log.append(event)
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self._folder.events} cannot be written: {error.strerror or error}"
            raise
        finally:  # a full disk must not keep the verdict from the reporters
            self._follow(event)

    def resume(self) -> None:
        """Take over a record that holds events already: every case is serialised anew."""
        with self._record_lock:
            self._changed.update(dict.fromkeys(self._record.cases))
        for host in self._hosts:
            host.session_started(self._record)
        self._dirty.set()

    def late(self, event: Event) -> None:
        """Take in what came after the end: the log or the video of a client, usually.

        The reports are written anew, a little later; so many files that come at once share a writing.
        """
        event = replace(event, sequence=self._record.last_sequence + 1)
        with self._record_lock:
            self._record.apply(event)
            if event.case is not None:
                self._changed[event.case] = None
        append_late(self._folder.events, event)
        with self._late_lock:
            self._late = True
            if self._catching_up is None:
                name = f"late {self._folder.id}"
                self._catching_up = threading.Thread(target=self._catch_up, name=name, daemon=True)
                self._catching_up.start()

    def settle(self) -> None:
        """Wait until what came after the end is in the reports; what comes yet is written at once. Blocks."""
        self._leaving.set()
        with self._late_lock:
            working = self._catching_up
        if working is not None:
            working.join()

    def junit(self) -> bytes:
        """Return the content of ``junit.xml``, after bringing the file up to date."""
        self._write_junit()
        return self._written

    def close(self) -> None:
        """Write everything that is still to be written and wait for the reporters, until their deadline.

        Blocks; may be called again.
        """
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        self._dirty.set()
        self._thread.join()
        self._finish()
        for host in self._hosts:
            host.stop()
        until = time.monotonic() + self._deadline
        for host in self._hosts:
            host.join(until)
        self._log.close()  # last: other processes take the session for complete then

    def _follow(self, event: Event) -> None:
        match event:
            case SessionStarted():
                self._write_session()
                for host in self._hosts:
                    host.session_started(self._record)
                self._dirty.set()
            case CaseEnded():
                case = self._record.cases.get(event.case)
                if case is not None:
                    self._case_ended(case, event)
                self._dirty.set()
            case Upload() | Attachment():
                case = self._record.cases.get(event.case or "")
                if case is not None and case.state in FINAL:  # late: the case is in the file already
                    self._dirty.set()
            case Problem() | CasePlanned():
                self._dirty.set()
            case SessionEnded():
                self._over = True
                self._dirty.set()
                for host in self._hosts:
                    host.session_ended(self._record)
            case _:
                pass

    def _case_ended(self, case: CaseRecord, event: CaseEnded) -> None:
        attempt = next((one for one in case.attempts if one.number == event.attempt), None)
        if attempt is not None:
            path = self._folder.path / attempt.folder
            self._attempt(lambda: _write_attempt(path, attempt), attempt.folder)
        if not event.will_retry:
            for host in self._hosts:
                host.case_ended(case)

    def _finish(self) -> None:
        with self._finish_lock:
            self._attempt(self._write_junit, "junit.xml")
            if self._reported != self._record.last_sequence:
                self._reported = self._record.last_sequence
                write_reports(self._folder, self._record)

    def _catch_up(self) -> None:
        """Write the reports anew until nothing is late any more: a thread of its own."""
        while True:
            with self._late_lock:
                if not self._late:
                    self._catching_up = None
                    return
                self._late = False
            began = time.monotonic()
            self._finish()
            self._leaving.wait(min(_LONGEST_REST, _REST * (time.monotonic() - began)))

    def _write_session(self) -> None:
        write_atomically(self._folder.path / "session.json", dump(session_json(self._record)))

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

    def _keep_written(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            if self._closing.is_set():
                return
            began = time.monotonic()
            if self._over:
                self._finish()
            else:
                self._attempt(self._write_junit, "junit.xml")
                self._attempt(self._write_session, "session.json")
            self._closing.wait(min(_LONGEST_REST, _REST * (time.monotonic() - began)))

    @staticmethod
    def _attempt(write: Callable[[], None], what: str) -> None:
        try:
            write()
        except OSError as error:
            logger.error("cannot write %s: %s", what, error)  # a full disk has no place for tracebacks
        except Exception:
            logger.exception("cannot write %s", what)


def rebuild(folder: ResultsFolder, record: SessionRecord) -> None:
    """Write everything that a session leaves at its end anew.

    :param record: the session's record, replayed from its events.
    :raises OSError: ``junit.xml`` cannot be written.
    """
    style = JunitStyle.detect(folder.path, os.environ, Path.cwd())
    write_atomically(folder.junit, junit_bytes(record, style))
    write_reports(folder, record)


def append_late(log: Path, event: Event) -> None:
    """Add an event to the log of a session that has ended; nothing where its folder is gone.

    :raises OSError: if the disk refuses.
    """
    if log.is_file():
        with contextlib.closing(EventLog(log)) as opened:
            opened.append(event)


def write_reports(folder: ResultsFolder, record: SessionRecord) -> None:
    """Write the files for the end of a session: the report for people, and those for programs.

    One that cannot be written is logged and costs none of the others.
    """
    files: dict[str, Callable[[], bytes]] = {
        "session.json": lambda: dump(session_json(record)),
        "report.json": lambda: dump(report_json(record)),
        "rerun-failed.yml": lambda: rerun_failed(record),
        "report.html": lambda: report_html(record),
    }
    for name, content in files.items():
        try:
            write_atomically(folder.path / name, content())
        except Exception:
            logger.exception("cannot write %s", name)


def _write_attempt(path: Path, attempt: AttemptRecord) -> None:
    folder = AttemptFolder(path)
    if attempt.measurements:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.measurements, dump(measurements_json(attempt)))
    if not attempt.timeline:
        return
    path.mkdir(parents=True, exist_ok=True)
    for target, debug in ((folder.log_info, False), (folder.log_debug, True)):
        # Behind what the test itself said while it ran.
        with target.open("a", encoding="utf-8", errors="replace") as file:
            if file.tell():
                file.write("\n")
            file.write(render_timeline(attempt, debug=debug) + "\n")
