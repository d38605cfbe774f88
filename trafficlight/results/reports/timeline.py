"""The timeline of an attempt: its actions with their durations, its adapters and homeservers, its log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from trafficlight.results.case import AttemptRecord
from trafficlight.results.events import (
    ActionAnswered,
    ActionDelivered,
    ActionFailed,
    ActionLate,
    ActionSent,
    AdapterLeased,
    AdapterLost,
    AdapterReleased,
    Event,
    Log,
    NetworkChanged,
    ServerExited,
    ServerFailed,
    ServerReady,
    ServiceChanged,
    StepBegan,
    StepEnded,
)
from trafficlight.text import brief, count

_BEGAN = {"started": "start", "waited": "wait", "stopped": "stop", "cleaned": "clean"}


@dataclass(slots=True)
class Step:
    """One entry of the timeline.

    :param offset: seconds from the start of the attempt.
    :param kind: ``action``, ``step``, ``server``, ``adapter``, ``network``, ``service`` or ``log``.
    :param who: the role; empty if it concerns the whole case.
    :param what: an action's name, a log's message, ...
    :param detail: parameters, a response, a reason.
    :param outcome: ``ok``, ``failed``, ``open`` (no response), ``late`` (a response that had no effect), or a
        log's level.
    :param seconds: duration; None for what has none.
    :param asked: the parameters of an action that failed, whose `detail` is the reason.
    :param answer: what the client answered; cut.
    :param where: file and line of the test.
    :param fetched: whether the adapter received the action.
    :param took: its parameters that are texts.
    :param gave: the texts in the answer.
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
    where: str = ""
    fetched: bool = False
    took: Mapping[str, str] = field(default_factory=dict)
    gave: Sequence[str] = ()


def steps(attempt: AttemptRecord) -> list[Step]:
    """Return the steps of an attempt. An action is one step with its response, as is what a service does."""
    found: list[Step] = []
    sent: dict[tuple[str | None, str], Step] = {}
    begin = _begin(attempt)
    for event in attempt.timeline:
        offset = max(0.0, (event.time - begin).total_seconds()) if begin is not None else 0.0
        match event:
            case ActionDelivered():
                if (step := sent.get((event.role, event.id))) is not None:
                    step.fetched = True
            case ActionAnswered() | ActionFailed():
                step = sent.pop((event.role, event.id), None)
                if step is None:
                    found.append(step := Step(offset, "action", event.role or "", event.action))
                _answer(step, event)
            case StepEnded():
                step = sent.pop((None, f"step {event.id}"), None)
                if step is None:
                    found.append(step := Step(offset, "step", event.role or "", event.name))
                step.seconds = event.seconds
                step.outcome, step.detail = ("failed", event.problem) if event.problem else ("ok", "")
            case ServiceChanged():
                _serve(event, offset, found, sent)
            case _:
                found.append(step := _step(event, offset))
                if isinstance(event, ActionSent):
                    sent[event.role, event.id] = step
                elif isinstance(event, StepBegan):
                    sent[None, f"step {event.id}"] = step
    return found


def _begin(attempt: AttemptRecord) -> datetime | None:
    return attempt.started or (attempt.timeline[0].time if attempt.timeline else None)


def render_timeline(attempt: AttemptRecord, *, debug: bool = False, times: bool = False) -> str:
    """Return the timeline as text, one line a step.

    :param debug: whether it includes DEBUG lines of the log.
    :param times: whether lines begin with the time (UTC), as those of a test's log, or with their offset.
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
            at = (begin + timedelta(seconds=step.offset)).astimezone(UTC)
            when = f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03}Z"
        lines.append(f"{when}  {who}{step.what}{outcome}{took}{detail}")
    if attempt.dropped:
        lines.append(f"{count(attempt.dropped, 'event')} left out in the middle; events.jsonl is complete")
    return "\n".join(lines)


def _step(event: Event, offset: float) -> Step:
    who = event.role or ""
    match event:
        case ActionSent():
            took = {name: value for name, value in event.data.items() if isinstance(value, str)}
            asked = brief(event.data)
            return Step(offset, "action", who, event.action, asked, "open", where=event.where, took=took)
        case ActionLate():
            answered = f"answered {event.seconds:.1f} s after it was asked, too late"
            return Step(offset, "action", who, event.action, answered, "late", answer=brief(event.response))
        case StepBegan():
            return Step(offset, "step", who, event.name, "", "open", where=event.where)
        case ServerExited():
            return Step(offset, "server", who, "server exited", event.how, "failed")
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
        step.gave = [value for value in event.response.values() if isinstance(value, str)]
