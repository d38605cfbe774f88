"""The timeline of an attempt: its actions with their durations, its adapters and homeservers, its log."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from trafficlight.results.case import AttemptRecord
from trafficlight.results.events import (
    ActionAnswered,
    ActionDelivered,
    ActionFailed,
    ActionSent,
    AdapterLeased,
    AdapterLost,
    AdapterReleased,
    Event,
    Log,
    NetworkChanged,
    ServerFailed,
    ServerReady,
    ServiceChanged,
)
from trafficlight.text import brief, count

_BEGAN = {"started": "start", "waited": "wait", "stopped": "stop", "cleaned": "clean"}


@dataclass(slots=True)
class Step:
    """One entry of the timeline.

    :param offset: seconds from the start of the attempt.
    :param kind: ``action``, ``server``, ``adapter``, ``network``, ``service`` or ``log``.
    :param who: the role; empty if it concerns the whole case.
    :param what: an action's name, a log's message, ...
    :param detail: parameters, a response, a reason.
    :param outcome: ``ok``, ``failed``, ``open`` (no response), or a log's level.
    :param seconds: duration; None for what has none.
    :param asked: the parameters of an action that failed, whose `detail` is the reason.
    :param answer: what the client answered; cut.
    """

    offset: float
    kind: str
    who: str
    what: str
    detail: str = ""
    outcome: str = "ok"
    seconds: float | None = None
    asked: str = ""
    answer: str = ""


def steps(attempt: AttemptRecord) -> list[Step]:
    """Return the steps of an attempt. An action is one step with its response, as is what a service does."""
    found: list[Step] = []
    sent: dict[tuple[str | None, str], Step] = {}
    begin = _begin(attempt)
    for event in attempt.timeline:
        offset = max(0.0, (event.time - begin).total_seconds()) if begin is not None else 0.0
        match event:
            case ActionDelivered():
                pass
            case ActionAnswered() | ActionFailed():
                step = sent.pop((event.role, event.id), None)
                if step is None:
                    found.append(step := Step(offset, "action", event.role or "", event.action))
                _answer(step, event)
            case ServiceChanged():
                _serve(event, offset, found, sent)
            case _:
                found.append(step := _step(event, offset))
                if isinstance(event, ActionSent):
                    sent[event.role, event.id] = step
    return found


def _begin(attempt: AttemptRecord) -> datetime | None:
    return attempt.started or (attempt.timeline[0].time if attempt.timeline else None)


def render_timeline(attempt: AttemptRecord, *, debug: bool = False, times: bool = False) -> str:
    """Return the timeline as text, one line a step.

    :param debug: whether it includes DEBUG lines of the log.
    :param times: whether lines begin with the local time, as those of a test's log, or with their offset.
    """
    lines: list[str] = []
    begin = _begin(attempt)
    for step in steps(attempt):
        if step.kind == "log" and step.outcome == "debug" and not debug:
            continue
        took = f"  {step.seconds:.3f} s" if step.seconds is not None else ""
        outcome = "" if step.outcome in ("ok", "info") else f"  {step.outcome.upper()}"
        who = f"{step.who}: " if step.who else ""
        detail = f"  {step.detail}" if step.detail else ""
        when = f"{step.offset:9.3f}"
        if times and begin is not None:
            local = (begin + timedelta(seconds=step.offset)).astimezone()
            when = f"{local:%Y-%m-%d %H:%M:%S},{local.microsecond // 1000:03}"
        lines.append(f"{when}  {who}{step.what}{outcome}{took}{detail}")
    if attempt.dropped:
        lines.append(f"{count(attempt.dropped, 'event')} left out in the middle; events.jsonl is complete")
    return "\n".join(lines)


def _step(event: Event, offset: float) -> Step:
    who = event.role or ""
    match event:
        case ActionSent():
            return Step(offset, "action", who, event.action, brief(event.data), "open")
        case ServerReady():
            version = " ".join(part for part in (event.type, event.version) if part)
            shared = "shared" if event.shared else ""
            detail = " · ".join(part for part in (version, event.server_name, shared) if part)
            return Step(offset, "server", who, "server ready", detail, "ok", event.seconds)
        case ServerFailed():
            return Step(offset, "server", who, "server failed", event.reason, "failed")
        case AdapterLeased():
            kind = (event.registration.get(key) for key in ("type", "version"))
            return Step(
                offset, "adapter", who, "adapter leased", " ".join(str(part) for part in kind if part)
            )
        case AdapterReleased():
            return Step(offset, "adapter", who, "adapter released", event.reason)
        case AdapterLost():
            return Step(offset, "adapter", who, "adapter lost", event.reason, "failed")
        case NetworkChanged():
            return Step(offset, "network", who, event.rule, "begins" if event.active else "ends")
        case Log():
            return Step(offset, "log", who, event.message, "", event.level.lower())
        case _:
            return Step(offset, "log", who, event.kind)


def _serve(
    event: ServiceChanged, offset: float, found: list[Step], sent: dict[tuple[str | None, str], Step]
) -> None:
    """Add a step of a service, or complete the one that began."""
    # A log that is not collected ends no step.
    began = _BEGAN.get(event.what, event.what if event.problem and event.what != "collect" else "")
    if (step := sent.pop((event.service, began), None)) is not None:
        step.seconds = offset - step.offset
    else:
        outcome = "open" if event.what in _BEGAN.values() else "ok"
        nodes = ", ".join(event.nodes)
        found.append(step := Step(offset, "service", event.service, event.what, nodes, outcome))
        sent[event.service, event.what] = step
    if event.problem:
        step.outcome, step.detail = "failed", event.problem
    elif event.what in _BEGAN:
        step.outcome = "ok"


def _answer(step: Step, event: ActionAnswered | ActionFailed) -> None:
    step.seconds = event.seconds
    if isinstance(event, ActionFailed):
        step.outcome, step.asked = "failed", step.detail
        where = f" [{event.path}]" if event.path else ""
        step.detail = f"{event.details or event.type}{where}"
    else:
        step.outcome = "ok"
        step.answer = brief(event.response) if event.response else ""
