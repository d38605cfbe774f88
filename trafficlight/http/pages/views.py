"""What the pages show, taken from the lab's own records while nothing moves."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from trafficlight.coordinator.adapter import Adapter, AdapterState
from trafficlight.coordinator.pool import Pool
from trafficlight.results.attempt import AttemptRecord
from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.catalog import SessionSummary
from trafficlight.results.events import FINAL
from trafficlight.results.journal import redacted

_ROWS = 200  # cases on one page
_ADAPTERS = 100  # live adapters told one by one
_GONE = 10  # adapters that have ended, the latest first
ORDER = (
    "running",
    "preparing",
    "failure",
    "error",
    "unexpected success",
    "flaky",
    "expected failure",
    "success",
    "waiting",
    "not run",
    "skipped",
)
"""How cases can stand, in the order in which people want to see them."""


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One case in the list.

    :ivar key: names it in a URL.
    :ivar standing: one of :data:`ORDER`.
    :ivar why: its message, or why it waits or does not run.
    :ivar seconds: how long it took, or has been running for; None before it starts.
    """

    id: str
    key: str
    suite: str
    cell: str
    standing: str
    why: str
    seconds: float | None
    attempts: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session in a list.

    :ivar stands: ``running``, ``ended``, ``interrupted`` or ``abandoned``.
    :ivar counts: how many cases there are of each standing.
    :ivar seconds: how long it took; None before its end.
    """

    id: str
    stands: str
    counts: dict[str, int]
    total: int
    started: datetime | None
    seconds: float | None
    command: str

    @classmethod
    def of(cls, summary: SessionSummary) -> "SessionRow":
        """Return the row of a session."""
        counts = Counter({str(outcome): number for outcome, number in summary.outcomes.items()})
        if summary.status == "running":
            counts["waiting"] = counts.pop(Outcome.NOT_RUN, 0)
        else:
            counts[Outcome.NOT_RUN] += counts.pop(Outcome.RUNNING, 0)
        return cls(
            id=summary.id,
            stands="interrupted" if summary.interrupted else summary.status,
            counts=ordered(counts),
            total=summary.cases,
            started=summary.started,
            seconds=summary.seconds if summary.ended is not None else None,
            command=summary.command,
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """The cases that were asked for, a page of them.

    :ivar counts: how many cases there are of each standing, whatever was asked for.
    :ivar found: how many fit what was asked for.
    """

    rows: list[CaseRow]
    counts: dict[str, int]
    total: int
    found: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """One adapter.

    :ivar link: the page of the case that it is in; empty where it is in none.
    :ivar doing: what it is at, in one line.
    :ivar more: what else it said of itself.
    :ivar paused: whether it gets no new case.
    :ivar silent: seconds since its last request.
    """

    uuid: str
    type: str
    version: str
    state: str
    role: str
    case: str
    link: str
    doing: str
    more: dict[str, Any]
    paused: bool
    silent: float


def case_key(case_id: str) -> str:
    """Return what names a case in a URL: ids hold slashes and brackets, digests do not."""
    return hashlib.sha256(case_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def case_path(session: str, case_id: str) -> str:
    """Return the path of a case's page."""
    return f"/status/{quote(session)}/case/{case_key(case_id)}"


def case_of(cases: Iterable[CaseRecord], key: str) -> CaseRecord | None:
    """Return the case of a key."""
    return next((case for case in cases if case_key(case.id) == key), None)


def standing(case: CaseRecord, *, ended: bool) -> str:
    """Return where a case stands, in a word or two.

    :param ended: whether its session is over.
    """
    if case.state not in FINAL and not ended:
        return case.state.value
    outcome = case.outcome
    return str(Outcome.NOT_RUN if outcome is Outcome.RUNNING else outcome)


def listing(
    cases: Sequence[CaseRecord],
    now: datetime,
    *,
    over: bool,
    states: Iterable[str] = (),
    text: str = "",
    page: int = 1,
) -> Listing:
    """Return the cases of a session that fit.

    :param over: whether nothing of the session moves any more.
    :param states: the standings that are wanted; all of them where there are none.
    :param text: words that must all be in the id, the message or the reason.
    :param page: from 1; one that is too high is the last.
    """
    wanted, words = frozenset(states), text.casefold().split()
    counts: Counter[str] = Counter()
    found: list[tuple[CaseRecord, str, str]] = []
    for case in cases:
        name, why = standing(case, ended=over), _why(case)
        counts[name] += 1
        if (not wanted or name in wanted) and _has(words, case, why):
            found.append((case, name, why))
    pages = max(1, -(-len(found) // _ROWS))
    page = min(max(1, page), pages)
    found.sort(key=lambda one: ORDER.index(one[1]))
    shown = found[(page - 1) * _ROWS : page * _ROWS]
    rows = [case_row(case, now, over=over) for case, _, _ in shown]
    return Listing(rows, ordered(counts), len(cases), len(found), page, pages)


def case_row(case: CaseRecord, now: datetime, *, over: bool) -> CaseRow:
    """Return what the list says of a case.

    :param over: whether nothing of its session moves any more.
    """
    return CaseRow(
        id=case.id,
        key=case_key(case.id),
        suite=case.suite,
        cell=case.cell,
        standing=standing(case, ended=over),
        why=_why(case),
        seconds=_seconds(case, now),
        attempts=len(case.attempts),
    )


def frozen(case: CaseRecord) -> CaseRecord:
    """Return a copy that stays as it is while a page is made of it."""
    return replace(case, attempts=[_frozen(attempt) for attempt in case.attempts])


def adapter_rows(
    pool: Pool, now: float
) -> tuple[dict[str, Counter[str]], list[AdapterRow], list[AdapterRow]]:
    """Return the adapters: how many of each type and state, those that are there, those that went last.

    :param now: on the pool's clock.
    """
    types: dict[str, Counter[str]] = {}
    live: list[Adapter] = []
    gone: list[Adapter] = []
    for adapter in pool:
        if adapter.state is AdapterState.ENDED:
            gone.append(adapter)
        else:
            types.setdefault(adapter.type, Counter())[adapter.state.value] += 1
            live.append(adapter)
    live.sort(key=lambda adapter: adapter.state is not AdapterState.LEASED)
    latest = gone[: -_GONE - 1 : -1]
    return (
        types,
        [_row(adapter, now) for adapter in live[:_ADAPTERS]],
        [_row(adapter, now) for adapter in latest],
    )


def _row(adapter: Adapter, now: float) -> AdapterRow:
    match adapter.state:
        case AdapterState.ENDED:
            doing = adapter.reason
        case AdapterState.LEASED:
            doing = adapter.channel.describe()
        case AdapterState.RESETTING:
            doing = "forgets its last case"
        case AdapterState.FREE if adapter.paused:
            doing = adapter.paused if adapter.quarantined else f"paused: {adapter.paused}"
        case AdapterState.FREE:
            doing = "waits in a poll" if adapter.channel.polling else "is not polling right now"
    lease = adapter.held_by
    return AdapterRow(
        uuid=adapter.uuid,
        type=adapter.type,
        version=adapter.registration.version or "",
        state=adapter.state.value,
        role=(adapter.role or "") if lease is not None else "",
        case=lease.case if lease is not None else "",
        link=case_path(lease.session, lease.case) if lease is not None else "",
        doing=doing,
        more={
            key: value
            for key, value in redacted(adapter.fields).items()
            if key not in ("type", "version") and value not in (None, [], "")
        },
        paused=bool(adapter.paused),
        silent=max(0.0, now - adapter.seen),
    )


def _why(case: CaseRecord) -> str:
    return case.message or case.reason if case.verdict is not None else case.reason or case.message


def _has(words: list[str], case: CaseRecord, why: str) -> bool:
    if not words:
        return True
    text = f"{case.id} {why}".casefold()
    return all(word in text for word in words)


def _seconds(case: CaseRecord, now: datetime) -> float | None:
    attempt = case.attempt
    if attempt is None:
        return None
    if attempt.ended is None and attempt.started is not None:
        return max(0.0, (now - attempt.started).total_seconds())
    return case.seconds


def ordered(counts: Counter[str]) -> dict[str, int]:
    """Return how many cases there are of each standing, in the order of :data:`ORDER`, without zeros."""
    return {name: counts[name] for name in ORDER if counts[name]}


def _frozen(attempt: AttemptRecord) -> AttemptRecord:
    return replace(
        attempt,
        timeline=list(attempt.timeline),
        uploads=list(attempt.uploads),
        attachments=list(attempt.attachments),
        measurements=list(attempt.measurements),
        adapters=dict(attempt.adapters),
        adapter_ids=dict(attempt.adapter_ids),
        servers=dict(attempt.servers),
    )
