"""A failure for use elsewhere: the command that repeats it, and the text of an issue."""

import shlex

from trafficlight.results.case import AttemptRecord, CaseRecord
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.timeline import steps
from trafficlight.results.reports.tracebacks import compared, trimmed_traceback
from trafficlight.text import escape_control, single_line, utc_time

_STEPS = 10  # the last ones
_KEPT = ("--clients", "--servers", "--config")  # options without which the case may not exist


def command_of(record: SessionRecord, case: CaseRecord) -> str:
    """Return the command line that runs a case alone."""
    try:
        words = shlex.split(record.command)
    except ValueError:
        words = []
    options = [
        option
        for position, word in enumerate(words)
        for option in (words[position : position + 2] if word in _KEPT else [word])
        if word.partition("=")[0] in _KEPT
    ]
    return shlex.join(["trafficlight", "run", *options, case.id])


def issue_of(record: SessionRecord, case: CaseRecord, attempt: AttemptRecord) -> str:
    """Return what an issue about an attempt says, as Markdown."""
    first = single_line(attempt.message, 1000) or attempt.state.value
    lines = [
        f"**{case.id}** ended in `{attempt.state}`: {first}",
        "",
        f"- session {record.id}, attempt {attempt.number}, started {utc_time(attempt.started)}",
        *([f"- tests at {record.revision}"] if record.revision else []),
        *([f"- {record.job}"] if record.job else []),
    ]
    for role, name in case.clients.items():
        fields = attempt.adapters.get(role, {})
        about = " ".join(str(fields[key]) for key in ("type", "version") if fields.get(key))
        lines.append(f"- {role}: {name} {about}".rstrip())
    for role, name in case.servers.items():
        server = attempt.servers.get(role)
        lines.append(f"- {role}: {name} {server.version if server else ''}".rstrip())
    if (sides := compared(attempt.message)) is not None:
        lines += ["", f"Expected: `{single_line(sides[0])}`", f"Received: `{single_line(sides[1])}`"]
    lines += ["", "````", f"$ {command_of(record, case)}"]
    for step in [one for one in steps(attempt) if one.kind != "log"][-_STEPS:]:
        said = " ".join(part for part in (step.asked, step.detail) if part)
        answer = f" → {step.answer}" if step.answer else ""
        outcome = "" if step.outcome == "ok" else f" {step.outcome.upper()}"
        lines.append(f"{step.offset:8.2f} s  {step.who}: {step.what}{outcome} {single_line(said + answer)}")
    lines += [*trimmed_traceback(attempt.traceback)[-30:], "````"]
    return escape_control("\n".join(lines))
