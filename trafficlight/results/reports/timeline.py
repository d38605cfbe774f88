"""The story of an attempt: which action took how long, who came and went, what was logged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trafficlight.results.attempt import AttemptRecord
from trafficlight.results.events import Event, EventKind


@dataclass(slots=True)
class Step:
    """One entry of the story.

    :param offset: seconds from the start of the attempt.
    :param kind: ``action``, ``server``, ``adapter`` or ``log``.
    :param who: the role; empty if it concerns the whole case.
    :param what: an action's name, a log's message, ...
    :param detail: parameters, an answer, a reason.
    :param outcome: ``ok``, ``failed``, ``open`` (never answered), or a log's level.
    :param seconds: how long it took; None where that means nothing.
    """

    offset: float
    kind: str
    who: str
    what: str
    detail: str = ""
    outcome: str = "ok"
    seconds: float | None = None


def steps(attempt: AttemptRecord) -> list[Step]:
    """Return the story of an attempt: an action and its answer are one step."""
    told: list[Step] = []
    sent: dict[tuple[str | None, Any], Step] = {}
    begin = attempt.started or (attempt.timeline[0].time if attempt.timeline else None)
    for event in attempt.timeline:
        offset = max(0.0, (event.time - begin).total_seconds()) if begin is not None else 0.0
        match event.kind:
            case EventKind.ACTION_SENT:
                step = _step(event, offset)
                sent[event.role, event.data.get("id")] = step
                told.append(step)
            case EventKind.ACTION_DELIVERED:
                pass
            case EventKind.ACTION_ANSWERED | EventKind.ACTION_FAILED:
                asked = sent.pop((event.role, event.data.get("id")), None)
                if asked is None:
                    told.append(_step(event, offset))
                else:
                    _answer(asked, event, offset)
            case _:
                told.append(_step(event, offset))
    return told


def render_timeline(attempt: AttemptRecord, *, debug: bool = False) -> str:
    """Return the story as text, one line a step.

    :param debug: whether the log's DEBUG records are part of it.
    """
    lines: list[str] = []
    for step in steps(attempt):
        if step.kind == "log" and step.outcome == "debug" and not debug:
            continue
        took = f"  {step.seconds:.3f} s" if step.seconds is not None else ""
        outcome = "" if step.outcome in ("ok", "info") else f"  {step.outcome.upper()}"
        who = f"{step.who}: " if step.who else ""
        detail = f"  {step.detail}" if step.detail else ""
        lines.append(f"{step.offset:9.3f}  {who}{step.what}{outcome}{took}{detail}")
    if attempt.dropped:
        lines.append(f"{attempt.dropped:,} more events in the middle are in events.jsonl only")
    return "\n".join(lines)


def _step(event: Event, offset: float) -> Step:
    data, who = event.data, event.role or ""
    match event.kind:
        case EventKind.ACTION_SENT:
            return Step(offset, "action", who, str(data.get("action", "")), _brief(data.get("data")), "open")
        case EventKind.ACTION_ANSWERED | EventKind.ACTION_FAILED:
            step = Step(offset, "action", who, str(data.get("action", "")))
            _answer(step, event, offset)
            return step
        case EventKind.SERVER_READY:
            version = " ".join(str(data[key]) for key in ("type", "version") if data.get(key))
            detail = " · ".join(part for part in (version, str(data.get("server_name") or "")) if part)
            return Step(offset, "server", who, "server ready", detail, "ok", _seconds(data))
        case EventKind.SERVER_FAILED:
            return Step(offset, "server", who, "server failed", str(data.get("reason") or ""), "failed")
        case EventKind.ADAPTER_LEASED:
            registration = data.get("registration") or {}
            detail = " ".join(str(registration[key]) for key in ("type", "version") if registration.get(key))
            return Step(offset, "adapter", who, "adapter leased", detail)
        case EventKind.ADAPTER_RELEASED:
            return Step(offset, "adapter", who, "adapter released", str(data.get("reason") or ""))
        case EventKind.ADAPTER_LOST:
            return Step(offset, "adapter", who, "adapter lost", str(data.get("reason") or ""), "failed")
        case _:
            return Step(
                offset,
                "log",
                who,
                str(data.get("message") or ""),
                "",
                str(data.get("level") or "info").lower(),
            )


def _answer(step: Step, event: Event, offset: float) -> None:
    data = event.data
    step.seconds = _seconds(data)
    if step.seconds is None:
        step.seconds = max(0.0, offset - step.offset)
    if event.kind is EventKind.ACTION_FAILED:
        step.outcome = "failed"
        where = f" [{data['path']}]" if data.get("path") else ""
        step.detail = f"{data.get('details') or data.get('type') or 'failed'}{where}"
    else:
        step.outcome = "ok"


def _seconds(data: Mapping[str, Any]) -> float | None:
    value = data.get("seconds")
    return float(value) if isinstance(value, int | float) else None


def _brief(data: Any) -> str:
    if not isinstance(data, Mapping):
        return ""
    text = ", ".join(f"{key}={value!r}" for key, value in data.items())
    return text if len(text) <= 300 else text[:299] + "…"
