"""What earlier sessions say about a session and its cases, for the pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from trafficlight.results.case import CaseRecord
from trafficlight.results.history.changes import Changes, changes_in, compare
from trafficlight.results.history.database import HistoryError
from trafficlight.results.history.index import History
from trafficlight.results.history.statistics import CaseHistory, Past
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.heatmap import OF_HISTORY, HeatMap, Layout, View, heat_map
from trafficlight.results.reports.sparkline import Verdicts, verdicts_of

CATCHING_UP = 1.0
"""Seconds that a request may spend on sessions that are not in the history yet."""

_VERDICTS = 20  # of a case's history


@dataclass(frozen=True, slots=True)
class HistoryView:
    """How a case ended in its session and before.

    :ivar before: the verdicts before its session, newest first.
    :ivar verdicts: all of them, drawn; None if there are fewer than two.
    :ivar linked: the sessions that have pages here.
    :ivar shifts: which of its measurements moved, in words.
    :ivar versions: what was in a role when it succeeded last, and what is now, where they differ.
    :ivar problem: why there is no history.
    """

    case: CaseHistory = field(default_factory=lambda: CaseHistory(()))
    before: Sequence[Past] = ()
    verdicts: Verdicts | None = None
    linked: frozenset[str] = frozenset()
    shifts: list[str] = field(default_factory=list)
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)
    problem: str = ""


def history_view(history: History, folder: Path, case: str, until: datetime | None) -> HistoryView:
    """Return the history of a case. Reads the disk.

    :param folder: of the session whose page shows it.
    :param until: when that session started.
    """
    try:
        history.update(CATCHING_UP)
        found = history.of_case(case, _VERDICTS, until=until)
    except HistoryError as error:
        return HistoryView(problem=str(error))
    past = found.past
    linked = frozenset(
        one.session
        for one in past
        if one.lab == history.lab and (folder.parent / one.session / "events.jsonl").exists()
    )
    here = bool(past) and past[0].lab == history.lab and past[0].session == folder.name
    view = HistoryView(found, past[1:] if here else past, verdicts_of(past), linked)
    if here:
        now = past[0].verdict
        view.shifts.extend(
            shift.text for shift in compare({case: CaseHistory(view.before)}, [now], "").shifts
        )
        if found.failing and (good := found.last_good) is not None:
            then, now_there = good.verdict.versions, now.versions
            if good.revision and past[0].revision:
                then, now_there = {**then, "tests": good.revision}, {**now_there, "tests": past[0].revision}
            view.versions.update(
                {role: (then[role], text) for role, text in now_there.items() if then.get(role, text) != text}
            )
    return view


@lru_cache(maxsize=8)
def _known(folder: Path, view: View) -> list[Layout]:
    return []


def map_of(
    history: History,
    folder: Path,
    record: SessionRecord,
    cases: Sequence[CaseRecord],
    view: View,
    changes: Changes | None,
    *,
    over: bool,
) -> HeatMap:
    """Return the heat map of cases, with what earlier sessions say if it is about that. Reads the disk.

    :param folder: of their session.
    :param record: of it.
    :param changes: in it, if it has ended.
    :param over: whether it no longer runs.
    """
    before, problem = dict[str, CaseHistory](), ""
    if view.measure in OF_HISTORY:
        try:
            history.update(CATCHING_UP)
            before = history.before(record)
        except HistoryError as error:
            problem = str(error)
    changes = changes or (None if over else changes_in(record, before))
    kinds = {change.case: change.kind for change in changes.cases} if changes else None
    known = _known(folder, view)
    return heat_map(cases, view, over=over, changes=kinds, before=before, problem=problem, known=known)
