"""Reports for programs: ``report.json``, ``session.json``, ``rerun-failed.yml``, ``measurements.json``."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import yaml

from trafficlight.results.case import AttemptRecord, CaseRecord, Outcome
from trafficlight.results.catalog import SessionSummary
from trafficlight.results.events import Attachment, Upload, jsonable
from trafficlight.results.history.changes import Changes
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.causes import causes
from trafficlight.results.reports.timeline import Step, steps


def dump(content: Any) -> bytes:
    """Return indented JSON in ASCII."""
    text = json.dumps(jsonable(content), indent=2, default=str, allow_nan=False)
    return (text + "\n").encode("ascii")


def report_json(record: SessionRecord, changes: Changes | None = None) -> dict[str, Any]:
    """Return the complete session: `session.json`, the causes of failures, and every case.

    :param changes: since earlier sessions, if that is known.
    """
    since = changes.since if changes else {}
    return SessionSummary.of(record).as_json() | {
        "causes": [cause.model_dump() for cause in causes(record.cases.values(), since)],
        "cases": [case_json(case) for case in record.cases.values()],
    }


def case_json(case: CaseRecord) -> dict[str, Any]:
    """Return a case with its attempts."""
    return {
        "id": case.id,
        "suite": case.suite,
        "file": case.file,
        "line": case.line,
        "class": case.class_name,
        "method": case.method,
        "clients": case.clients,
        "servers": case.servers,
        "parameters": case.parameters,
        "state": case.state.value,
        "outcome": case.outcome.value,
        "reason": case.reason,
        "message": case.message,
        "flaky": case.flaky,
        "expected": asdict(case.expected) if case.expected else None,
        "skip_type": case.skip_type or None,
        "seconds": round(case.seconds, 3),
        "attempts": [_attempt_json(attempt) for attempt in case.attempts],
    }


def measurements_json(attempt: AttemptRecord) -> list[dict[str, Any]]:
    """Return the measurements of an attempt, in order, each with its time in seconds since 1970."""
    return [
        item.content() | {"at": item.at if item.at is not None else item.time.timestamp()}
        for item in attempt.measurements
    ]


def rerun_failed(record: SessionRecord) -> bytes:
    """Return a suite file: cases that failed, ended in error or have no verdict, and files with problems."""
    again = (Outcome.FAILURE, Outcome.ERROR, Outcome.NOT_RUN, Outcome.RUNNING)
    cases = [case.id for case in record.cases.values() if case.outcome in again]
    return yaml.safe_dump({"failed": cases + record.problem_files}, allow_unicode=True, width=10_000).encode(
        errors="backslashreplace"
    )


def _attempt_json(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "state": attempt.state.value,
        "folder": attempt.folder,
        "started": _time(attempt.started),
        "running_since": _time(attempt.running_since),
        "ended": _time(attempt.ended),
        "seconds": round(attempt.seconds, 3),
        "phase": attempt.phase,
        "message": attempt.message,
        "traceback": attempt.traceback,
        "adapters": {
            role: {"uuid": attempt.adapter_ids.get(role), "registration": registration}
            for role, registration in attempt.adapters.items()
        },
        "servers": {role: server.content() for role, server in attempt.servers.items()},
        "uploads": [_file_json(file) for file in attempt.uploads],
        "attachments": [_file_json(file) for file in attempt.attachments],
        "measurements": measurements_json(attempt),
        "returned": attempt.returned.content() if attempt.returned is not None else None,
        "timeline": [_step(step) for step in steps(attempt) if step.kind != "log"],
        "timeline_left_out": attempt.dropped,
    }


def _file_json(file: Upload | Attachment) -> dict[str, Any]:
    return {**file.content(), "role": file.role or ""}


def _time(when: datetime | None) -> str | None:
    return when.isoformat() if when else None


def _step(step: Step) -> dict[str, Any]:
    # What connects steps is in their parameters and answers already.
    return {name: value for name, value in asdict(step).items() if name not in ("took", "gave")}
