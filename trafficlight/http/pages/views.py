"""What the pages show, taken from records on the event loop or read from session folders in threads."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

from trafficlight.coordinator.adapter import Adapter, AdapterState
from trafficlight.coordinator.pool import Pool
from trafficlight.http.api.adapters import adapter_body
from trafficlight.http.api.bodies import AdapterBody
from trafficlight.results.case import AttemptRecord, CaseRecord
from trafficlight.results.catalog import SessionSummary
from trafficlight.results.history.statistics import Past
from trafficlight.results.journal import redacted
from trafficlight.results.record import ExitCode
from trafficlight.results.reports.causes import Cause, causes
from trafficlight.results.reports.evidence import evidence, warnings
from trafficlight.results.reports.filter import matching
from trafficlight.results.reports.presentation import (
    MARKS,
    POSITION,
    AttemptView,
    CaseRow,
    FileView,
    Verdict,
    attempt_view,
    case_row,
    display_status,
    file_kind,
    in_display_order,
    outcome_counts,
    verdict,
)
from trafficlight.results.reports.timeline import Step
from trafficlight.results.traffic import exchanges
from trafficlight.suites.query import QueryError
from trafficlight.text import duration, read_tail

AdapterRow: TypeAlias = tuple[AdapterBody, dict[str, Any]]
"""An adapter, and the fields of its registration that are not shown otherwise."""

_ROWS = 200  # cases per page
_FEW = 5  # ended cases that say how fast a session is
_ADAPTERS = 100  # live adapters listed
_GONE = 10  # ended adapters listed, the latest first
_FILES = 500  # files listed per attempt
_LOG_TAIL = 64 << 10  # bytes shown of a log


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session in a list.

    :ivar state: ``running``, ``ended``, ``interrupted`` or ``abandoned``.
    :ivar seconds: its duration; None until it has ended.
    """

    id: str
    state: str
    verdict: Verdict
    counts: dict[str, int]
    started: datetime | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class CasePage:
    """One page of the cases that match a filter.

    :ivar counts: the number of cases per status, regardless of the filter.
    :ivar matching: the cases that match, on all pages, in the order of the plan.
    :ivar problem: what is wrong with the filter; empty if nothing is.
    """

    rows: list[CaseRow]
    counts: dict[str, int]
    total: int
    matching: list[CaseRecord]
    page: int
    pages: int
    problem: str


def case_key(case_id: str) -> str:
    """Return the name of a case in URLs: a digest, because ids contain slashes and brackets."""
    return hashlib.sha256(case_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def case_path(session: str, case_id: str) -> str:
    """Return the path of a case's page."""
    return f"/status/{quote(session)}/case/{case_key(case_id)}"


def files_path(session: str, name: str) -> str:
    """Return the path of a file of a session's folder."""
    return f"/status/{quote(session)}/files/{quote(name, errors='replace')}"


def log_path(session: str, names: Iterable[str]) -> str:
    """Return the path of the page that shows the lines of files."""
    query = urlencode([("file", name) for name in names], errors="replace")
    return f"/status/{quote(session)}/log?{query}"


def case_of(cases: Iterable[CaseRecord], key: str) -> CaseRecord | None:
    """Return the case with a key."""
    return next((case for case in cases if case_key(case.id) == key), None)


def case_page(
    cases: Sequence[CaseRecord],
    now: datetime,
    *,
    over: bool,
    since: Mapping[str, str],
    states: Iterable[str] = (),
    text: str = "",
    page: int = 1,
) -> CasePage:
    """Return a page of the cases that match.

    :param over: whether their session no longer runs.
    :param since: by case, the session since which it fails, or ``new``.
    :param states: the statuses to show; empty for all.
    :param text: a query.
    :param page: from 1; the last page if it is too high.
    """
    problem, wanted = "", frozenset(states)
    if unknown := sorted(wanted.difference(MARKS)):
        problem = f"there is no state {unknown[0]!r}; there are {', '.join(MARKS)}"
    try:
        meant = matching(cases, text, since, over=over)
    except QueryError as error:
        problem, meant = str(error), []
    # Of one instant, while cases go on: a second look could find another status.
    statuses = {case.id: display_status(case, over=over) for case in cases}
    matches = [case for case in meant if not wanted or statuses[case.id] in wanted]
    pages = max(1, -(-len(matches) // _ROWS))
    page = min(max(1, page), pages)
    found = sorted(matches, key=lambda case: POSITION[statuses[case.id]])
    shown = found[(page - 1) * _ROWS : page * _ROWS]
    rows = [replace(case_row(case, now, over=over), status=statuses[case.id]) for case in shown]
    counts = in_display_order(Counter(statuses.values()))
    return CasePage(rows, counts, len(cases), matches, page, pages, problem)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a session's page: the filter of all its parts, and how its heat map is arranged.

    :ivar path: with the path that the lab is below.
    :ivar states: the statuses that are shown; empty for all.
    :ivar text: a query.
    :ivar view: of the heat map, as words.
    """

    path: str
    states: Sequence[str] = ()
    text: str = ""
    view: Sequence[str] = ()

    def page(self, number: int = 1) -> str:
        """Return the URL of a page of the list."""
        pairs = [("state", state) for state in self.states] + [("q", self.text)] * bool(self.text)
        pairs += [("map", word) for word in self.view]
        pairs += [("page", str(number))] if number > 1 else []
        query = urlencode(pairs, safe=":*", errors="replace")
        return f"{self.path}?{query}#cases" if query else f"{self.path}#cases"

    def of_state(self, *states: str) -> str:
        """Return the URL for other statuses."""
        return replace(self, states=states).page()

    def narrowed(self, query: str) -> str:
        """Return the URL for those of the cases that a query means as well."""
        alone = not re.search(r"\bor\b", self.text)
        if not query or (alone and f" {query} " in f" {self.text} "):
            return self.page()
        before = self.text if alone else f"({self.text})"
        return replace(self, text=f"{before} {query}".strip()).page()

    def arranged(self, view: Sequence[str]) -> str:
        """Return the URL for another arrangement of the heat map."""
        return replace(self, view=view).page().removesuffix("cases") + "map"

    @property
    def query(self) -> str:
        """The whole filter as one query, for the command line."""
        states = " or ".join(f"state:{state.replace(' ', '-')}" for state in self.states)
        both = bool(states and self.text)
        states = f"({states})" if both and len(self.states) > 1 else states
        text = f"({self.text})" if both and re.search(r"\bor\b", self.text) else self.text
        return f"{states} {text}".strip()


def progress_of(page: CasePage, seconds: float) -> str:
    """Return how many cases of a running session have ended, how fast, and how long the others take then.

    :param seconds: since its start.
    """
    left = sum(page.counts.get(status, 0) for status in ("running", "preparing", "waiting"))
    ended = page.total - left
    text = f"{ended:,} of {page.total:,} ended"
    if ended < _FEW or not left or seconds <= 0:
        return text
    return f"{text} · {60 * ended / seconds:.0f} a minute · about {duration(left * seconds / ended)} left"


def causes_of(folder: Path, cases: Sequence[CaseRecord], since: Mapping[str, str]) -> list[Cause]:
    """Return the causes of a session's failures, which are found again only when a case has ended or begun.

    :param folder: of the session.
    :param since: by case, the session since which it fails, or ``new``.
    """
    version = hash((len(since), *((case.outcome, len(case.attempts)) for case in cases)))
    known = _known_causes(folder)
    if (found := known.get(version)) is None:
        found = causes(cases, since)
        known.clear()
        known[version] = found
    return found


@lru_cache(maxsize=8)
def _known_causes(folder: Path) -> dict[int, list[Cause]]:
    return {}


def session_row(summary: SessionSummary) -> SessionRow:
    """Return a session's row."""
    counts = outcome_counts(summary.outcomes, over=summary.status != "running")
    state = "interrupted" if summary.interrupted else summary.status
    return SessionRow(
        id=summary.id,
        state=state,
        verdict=verdict(
            counts,
            state,
            len(summary.problems),
            reduced=summary.strict and summary.exit_code == ExitCode.LAB_ERROR,
        ),
        counts=counts,
        started=summary.started,
        seconds=summary.seconds if summary.ended is not None else None,
    )


def snapshot(case: CaseRecord) -> CaseRecord:
    """Return a copy of a case for another thread."""
    return replace(case, attempts=[_copied(attempt) for attempt in case.attempts])


def _copied(attempt: AttemptRecord) -> AttemptRecord:
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


def attempt_views(
    folder: Path,
    case: CaseRecord,
    role: str = "",
    period: tuple[float, float] | None = None,
    cursor: tuple[int, float] | None = None,
    past: Sequence[Past] = (),
) -> list[AttemptView]:
    """Return the attempts of a case, the latest first. Reads the disk.

    :param role: the client whose requests are shown; empty for all.
    :param period: when they were sent, in seconds; None shows none.
    :param cursor: the number of an attempt, and a moment of it in seconds; by default when each failed.
    :param past: the verdicts of the case in earlier sessions, newest first.
    """
    views = []
    for attempt in reversed(case.attempts):
        place = folder / attempt.folder
        files, more = _files(folder, attempt)
        log, warned = _log(place / "log.info"), warnings(folder, attempt)
        view = attempt_view(attempt, files, log, past, case=case, warned=warned)
        view = replace(view, more_files=more)
        if view.lanes is not None and attempt.ended is not None:
            shown = [one.step for one in view.steps]
            asked = cursor is not None and cursor[0] == attempt.number
            at = cursor[1] if cursor is not None and asked else _decisive_moment(attempt, shown)
            at = min(max(0.0, at), view.lanes.whole)
            view = replace(
                view, at=round(at, 2), evidence=evidence(folder, attempt, shown, at, requests=asked)
            )
        if period is not None:
            view = replace(view, traffic=exchanges(place, attempt.started, role=role, period=period))
        views.append(view)
    return views


def _decisive_moment(attempt: AttemptRecord, shown: Iterable[Step]) -> float:
    """Return when the last step failed; if none did, when the attempt ended."""
    failed = (one for one in shown if one.outcome == "failed" and one.offset <= attempt.seconds)
    return max((one.offset + (one.seconds or 0.0) for one in failed), default=attempt.seconds)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Where a failed case is among the failures of its session.

    :ivar position: from 1.
    :ivar before: the id of the one before; empty if it is the first.
    :ivar after: likewise.
    """

    position: int
    total: int
    before: str
    after: str


def neighbours(cases: Iterable[CaseRecord], case: str, *, over: bool) -> Neighbours | None:
    """Return the failures around one, in the order of the list; None if it is none.

    :param over: whether their session no longer runs.
    """
    statuses = [(display_status(one, over=over), one.id) for one in cases]
    bad = [id for wanted in ("failure", "error") for status, id in statuses if status == wanted]
    if case not in bad:
        return None
    at = bad.index(case)
    return Neighbours(at + 1, len(bad), bad[at - 1] if at else "", bad[at + 1] if bad[at + 1 :] else "")


def _log(path: Path) -> str:
    text = read_tail(path, _LOG_TAIL + 1)
    return text if len(text.encode()) <= _LOG_TAIL else "[…]\n" + text.partition("\n")[2]


def _files(folder: Path, attempt: AttemptRecord) -> tuple[list[FileView], int]:
    """List the attempt's folder, which may contain more files than the record.

    :return: the files, logs of the lab and of homeservers first, and how many more there are.
    """
    recorded = {file.path: file for file in attempt.files}
    base = folder / attempt.folder
    found: list[FileView] = []
    more = 0
    for where, folders, names in os.walk(base):
        folders.sort(key=lambda name: (name == "clients", name))  # a client may upload thousands
        for name in sorted(names):
            path = Path(where, name)
            below = path.relative_to(base).as_posix()
            if name.startswith("."):
                continue
            if len(found) >= _FILES:
                more += 1
                continue
            known = recorded.get(below)
            parts = below.split("/")
            size = path.lstat().st_size
            owner = parts[1] if len(parts) > 2 and parts[0] in ("clients", "servers") else ""
            found.append(
                FileView(
                    f"{attempt.folder}/{below}",
                    known.name if known is not None else parts[-1] if owner else below,
                    size,
                    known.role if known is not None and known.role else owner,
                    file_kind(name, size),
                )
            )
    return found, more


def adapter_rows(
    pool: Pool, now: float
) -> tuple[dict[str, Counter[str]], list[AdapterRow], list[AdapterRow]]:
    """Return the number of adapters per type and state, the live adapters, and those that ended last.

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
    live.sort(key=lambda adapter: (adapter.state is not AdapterState.LEASED, adapter.type))
    latest = gone[: -_GONE - 1 : -1]
    return (
        types,
        [_row(adapter, now) for adapter in live[:_ADAPTERS]],
        [_row(adapter, now) for adapter in latest],
    )


def _row(adapter: Adapter, now: float) -> AdapterRow:
    body = adapter_body(adapter, now)
    shown = {"instance": body.instance, "endpoint": body.endpoint}
    shown |= {
        key: value
        for key, value in redacted(adapter.fields).items()
        if key not in ("type", "version", "labels")
    }
    return body, {key: value for key, value in shown.items() if value not in (None, [], "")}
