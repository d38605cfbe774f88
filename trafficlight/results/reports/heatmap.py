"""Who talks to whom: how cases ended, by clients or by tests, with a table for each homeserver. Pure.

Each row, column and cell has the query that means its cases, so that a click on it filters.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeAlias

from trafficlight.results.case import CaseRecord
from trafficlight.results.history.statistics import CaseHistory, Past, wilson, with_now
from trafficlight.results.history.verdicts import GOOD, percentile
from trafficlight.results.reports.presentation import MARKS, display_status, in_display_order, why
from trafficlight.suites.query import quoted
from trafficlight.text import count, duration, single_line

MEASURES = {
    "succeeds": "how many succeed",
    "p50": "median duration, in this session and those before it",
    "p95": "95th percentile of the duration, in this session and those before it",
    "flaky": "how many verdicts are flakes, in this session and those before it",
    "changed": "what changed since the last session",
}
"""What a cell can show, each with its explanation."""

OF_HISTORY = frozenset({"p50", "p95", "flaky", "changed"})
"""Those that earlier sessions are part of."""

ARRANGEMENTS = ("clients", "tests")
OPTIONS = {
    "families": "fold client families",
    "folders": "fold folders",
    "transposed": "transpose",
    "failed": "only rows that failed",
}

_GOOD = frozenset({"success", "flaky", "expected failure"})
_BAD = frozenset({"failure", "error", "unexpected success"})
# The most severe first: it gives a cell its mark.
_SEVERITY = (
    "failure",
    "error",
    "unexpected success",
    "running",
    "preparing",
    "waiting",
    "not run",
    "flaky",
    "expected failure",
    "success",
    "skipped",
)
_ALONE = "one client"  # the name of the table of tests without pairs, which comes last
_CELLS = 2_500  # with more of them, what can be folded is
_ROWS, _COLUMNS, _TABLES = 100, 40, 24  # of a page at most, those with failures first
_DEEPEST = 10  # levels of the colour scale above 0
_LEAST_RATIO = 4  # between the ends of the scale of durations, so that small differences stay small

_Heads: TypeAlias = "tuple[Head, Head, Head]"  # table, row and column


@dataclass(frozen=True, slots=True)
class View:
    """What a heat map shows, and how.

    :ivar by: one of :data:`ARRANGEMENTS`; empty for clients, if there are several, else tests.
    :ivar measure: a key of :data:`MEASURES`.
    :ivar options: keys of :data:`OPTIONS`.
    """

    by: str = ""
    measure: str = "succeeds"
    options: frozenset[str] = frozenset()

    @classmethod
    def of(cls, words: Iterable[str]) -> "View":
        """Return the view that words in an address mean; unknown words mean nothing."""
        known = list(words)
        return cls(
            next((word for word in known if word in ARRANGEMENTS), ""),
            next((word for word in known if word in MEASURES), "succeeds"),
            frozenset(OPTIONS).intersection(known),
        )

    @property
    def words(self) -> list[str]:
        """The words that mean this view."""
        measure = [self.measure] if self.measure != "succeeds" else []
        return [*filter(None, [self.by]), *measure, *sorted(self.options)]


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The head of a table, a row or a column.

    :ivar query: means its cases.
    :ivar note: the file of a test; else empty.
    :ivar group: the folder of a test; else empty.
    :ivar total: whether it stands for all tests of its group.
    """

    name: str
    query: str
    note: str = ""
    group: str = ""
    total: bool = False


@dataclass(slots=True, unsafe_hash=True)
class Cell:
    """The cases of a row in a column.

    :ivar case: the id of the first of those with the most severe status, which is `status`.
    :ivar value: what is measured: a share, or seconds; None if there is nothing to measure yet.
    :ivar level: of the colour scale, from 0; None without a value.
    :ivar tip: says all of it in words.
    """

    query: str
    number: int
    case: str
    status: str
    mark: str = ""
    text: str = ""
    value: float | None = None
    level: int | None = None
    tip: str = ""


@dataclass(slots=True)
class Table:
    """The cases with the same homeservers, or those of one client.

    :ivar query: means its cases; empty for the only table.
    :ivar left_out: rows and columns that are not shown, in words; empty if all are.
    """

    name: str
    query: str
    cells: dict[tuple[Head, Head], Cell] = field(default_factory=dict)
    rows: list[Head] = field(default_factory=list)
    columns: list[Head] = field(default_factory=list)
    left_out: str = ""

    @property
    def wide(self) -> bool:
        """Whether a cell has more than a mark."""
        return any(cell.text or cell.number > 1 for cell in self.cells.values())

    def row(self, head: Head) -> list[Cell | None]:
        """Return the cells of a row; None where no case is."""
        return [self.cells.get((head, column)) for column in self.columns]


@dataclass(frozen=True, slots=True)
class Choice:
    """Another view, and whether it is the one that is shown."""

    name: str
    view: View
    active: bool
    help: str = ""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The tables of a session.

    :ivar view: what is shown.
    :ivar asked: what the reader asked for, which links keep.
    :ivar notes: what is not shown, in words.
    """

    view: View
    asked: View
    tables: list[Table]
    notes: list[str]

    @property
    def choices(self) -> dict[str, list[Choice]]:
        """The views that differ from this one in one respect."""
        view, asked = self.view, self.asked
        options = [word for word in OPTIONS if word != "folders" or view.by == "tests"]
        return {
            "Rows": [Choice(word, replace(asked, by=word), view.by == word) for word in ARRANGEMENTS],
            "Cells": [
                Choice(word, replace(asked, measure=word), view.measure == word, help)
                for word, help in MEASURES.items()
            ],
            "Options": [
                Choice(OPTIONS[word], replace(asked, options=asked.options ^ {word}), word in view.options)
                for word in options
            ],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where cases are in a view.

    :ivar ids: of the cases, in their order.
    :ivar groups: by table, row and column, the query for that place, and the positions of its cases.
    :ivar cells: those that were made last, each with what its cases were then.
    """

    ids: list[str]
    view: View
    notes: list[str]
    groups: dict[_Heads, tuple[str, list[int]]]
    cells: dict[_Heads, tuple[tuple[int, bool], Cell]] = field(default_factory=dict)


def heat_map(
    cases: Sequence[CaseRecord],
    asked: View,
    *,
    over: bool,
    changes: Mapping[str, str] | None = None,
    before: Mapping[str, CaseHistory] | None = None,
    problem: str = "",
    known: list[Layout] | None = None,
) -> HeatMap:
    """Return the heat map of cases.

    :param asked: the view; what would be too large is folded all the same.
    :param over: whether their session no longer runs.
    :param changes: the kind of change of the cases that changed; None if that is unknown.
    :param before: the verdicts in earlier sessions of the cases that have some.
    :param problem: why earlier sessions cannot be read; empty if they can.
    :param known: what the next heat map of this session in this view need not find again; updated.
    """
    ids = [case.id for case in cases]
    layout = next((one for one in known or () if one.ids == ids), None) or _layout(cases, ids, asked)
    if known is not None:
        known[:] = [layout]
    view, notes = layout.view, list(layout.notes)
    if view.measure in OF_HISTORY and cases and not before:
        notes.append(f"This session only: {problem or 'its cases have no earlier verdicts'}.")
    found: dict[Head, Table] = {}
    alone = len({head for head, _, _ in layout.groups}) == 1
    for place, (query, positions) in layout.groups.items():
        head, row, column = place
        table = found.get(head) or found.setdefault(head, Table(head.name, "" if alone else head.query))
        some = [cases[position] for position in positions]
        then, cell = layout.cells.get(place, (None, None))
        now = (max([case.changed for case in some]), over)
        if cell is None or then != now or view.measure in OF_HISTORY:
            both = _query(query, table.query)
            cell = _cell(both, some, view.measure, changes or {}, before or {}, over=over)
            names = ", ".join(filter(None, (row.name, column.name, "" if alone else head.name)))
            cell.tip = f"{names}: {cell.tip}"
            layout.cells[place] = now, cell
        table.cells[(column, row) if "transposed" in view.options else (row, column)] = cell
    # All tables in one order: that of the cases.
    order = {head: at for at, head in enumerate(dict.fromkeys(chain.from_iterable(layout.groups)))}
    for table in found.values():
        _arrange(table, view, order)
    tables = sorted((table for table in found.values() if table.rows), key=lambda one: one.name == _ALONE)
    _scale([cell for table in tables for cell in table.cells.values()], view.measure)
    if found and not tables:
        notes.append("No row has a failure.")
    if len(tables) > _TABLES:
        notes.append(f"{count(len(tables) - _TABLES, 'more table')} left out: filter by homeserver.")
    return HeatMap(view, asked, tables[:_TABLES], notes)


def _layout(cases: Sequence[CaseRecord], ids: list[str], asked: View) -> Layout:
    names = _Names(cases, families="families" in asked.options)
    view = replace(asked, by=asked.by or ("clients" if names.several else "tests"))
    notes = []
    if view.by == "tests" and "folders" not in view.options and names.combinations > _CELLS:
        view = replace(view, options=view.options | {"folders"})
        notes.append("There are too many tests to show each: a click on a folder shows its tests.")
    groups: dict[_Heads, tuple[str, list[int]]] = {}
    for position, case in enumerate(cases):
        for heads, query in names.places(case, view):
            groups.setdefault(heads, (query, []))[1].append(position)
    return Layout(ids, view, notes, groups)


class _Names:
    """Names tables, rows and columns, and says which cases they mean.

    :param families: whether client types of one family have one name.
    """

    def __init__(self, cases: Sequence[CaseRecord], *, families: bool) -> None:
        every = {tuple(case.clients.values()) for case in cases}
        types = dict.fromkeys(kind for case in cases for kind in case.clients.values())
        self.several = len(types) > 1
        #: How many cells a row for each test takes.
        self.combinations = len(
            {(case.suite, *case.clients.values(), *case.servers.values()) for case in cases}
        )
        self._most = max(map(len, every), default=0)
        self._family = _families(types) if families else {}
        self._folders = {_folder(case.file) for case in cases}
        self._heads: dict[object, Head] = {}

    def places(self, case: CaseRecord, view: View) -> Iterator[tuple[_Heads, str]]:
        """Yield the places of a case and their queries: two if it counts for a test and its folder."""
        clients = tuple(self._family.get(kind, kind) for kind in case.clients.values())
        mine = self._once(("clients", clients), lambda: self._clients(clients))
        servers = tuple(case.servers.values())
        there = self._once(("servers", servers), lambda: _servers(servers))
        if view.by == "tests":
            rows = [self._once(("file", case.file), lambda: self._total(case.file))]
            if "folders" not in view.options:
                rows.append(self._once(("test", case.suite), lambda: _test(case)))
            for row in rows:
                yield (there, row, mine), _query(row.query, mine.query)
        elif len(clients) < 2:
            alone = self._once("alone", lambda: Head(_ALONE, "not clients:*+*"))
            yield (alone, mine, there), _query(mine.query, there.query)
        else:
            first, others = clients[0], clients[1:]
            row = self._once(("first", first), lambda: Head(first, self._term(first, "*")))
            name = " + ".join(others)
            column = self._once(("others", others), lambda: Head(name, self._term("*", *others)))
            yield (there, row, column), mine.query

    def _once(self, key: object, make: Callable[[], Head]) -> Head:
        if (known := self._heads.get(key)) is None:
            known = self._heads[key] = make()
        return known

    def _clients(self, clients: tuple[str, ...]) -> Head:
        if not clients:
            return Head("no client", "not clients:*")
        return Head(" → ".join(clients), self._term(*clients))

    def _term(self, *types: str) -> str:
        """Return the query for the cases with these clients; a last `*` stands for one or more."""
        term = quoted("clients", "+".join(types))
        if types[-1] == "*" or self._most <= len(types) or "*" not in term:
            return term
        # A wildcard also matches the types of further roles.
        return f"{term} not clients:{'+'.join('*' * (len(types) + 1))}"

    def _total(self, file: str) -> Head:
        folder = _folder(file)
        if folder == file:
            return Head(file or "no file", quoted("file", file) if file else "not file:*", "", folder, True)
        deeper = any(one != folder and one.startswith(folder) for one in self._folders)
        rest = f" not {quoted('file', f'{folder}*/*')}" if deeper else ""
        return Head(folder, quoted("file", f"{folder}*") + rest, "", folder, True)


def _folder(file: str) -> str:
    """Return the folder of a file, with a slash at the end, or the file itself."""
    folder, slash, _ = file.rpartition("/")
    return folder + slash if slash else file


def _servers(servers: tuple[str, ...]) -> Head:
    if not servers:
        return Head("no homeserver", "not servers:*")
    return Head(" + ".join(servers), quoted("servers", "+".join(servers)))


def _test(case: CaseRecord) -> Head:
    file, _, test = case.suite.rpartition("::")
    return Head(test, _query(quoted("file", case.file), quoted("test", test)), file, _folder(case.file))


def _query(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _families(types: Iterable[str]) -> dict[str, str]:
    """Return the families of the types that have one: patterns such as ``ElementWeb*``.

    The types of a family differ in the last word of their names or in their settings, and no other type
    matches its pattern.
    """
    names = list(types)
    stems: dict[str, None] = {}
    for name in names:
        plain, bracket, _ = name.partition("(")
        last = next((at for at in range(len(plain) - 1, 0, -1) if plain[at].isupper()), 0)
        stems |= dict.fromkeys((plain, plain[:last]) if not bracket else (plain,))
    found: dict[str, str] = {}
    for stem in sorted(filter(None, stems), key=len, reverse=True):
        some = [name for name in names if name.startswith(stem)]
        # Not a word that is merely the beginning of another family's name.
        if len(some) > 1 and not any(name in found for name in some):
            found |= dict.fromkeys(some, f"{stem}*")
    return found


def _cell(
    query: str,
    cases: Sequence[CaseRecord],
    measure: str,
    changes: Mapping[str, str],
    before: Mapping[str, CaseHistory],
    *,
    over: bool,
) -> Cell:
    members = [(display_status(case, over=over), case) for case in cases]
    status, case = min(members, key=lambda one: _SEVERITY.index(one[0]))
    cell = Cell(query, len(members), case.id, status)
    numbers = Counter(status for status, _ in members)
    good, bad = (sum(numbers[status] for status in statuses) for statuses in (_GOOD, _BAD))
    ran = good + bad
    seconds = sorted(case.seconds for status, case in members if status in ("success", "flaky"))
    if cell.number == 1:
        reason = single_line(why(case), 160) if status != "success" else ""
        cell.tip = status + (f" · {reason}" if reason else "")
    else:
        cell.tip = ", ".join(f"{number} {status}" for status, number in in_display_order(numbers).items())
    if seconds:
        cell.tip += f" · median {duration(percentile(seconds, 0.5))}"
        cell.tip += f", 95th percentile {duration(percentile(seconds, 0.95))}" if len(seconds) > 1 else ""
    past = [before[case.id] for _, case in members if case.id in before] if measure in OF_HISTORY else []
    # Those that count: a case that a user cancelled has no verdict.
    whole = [CaseHistory(with_now(case, _past(case, before))) for _, case in members if measure == "flaky"]
    verdicts = sum(len(one.past) for one in whole)
    match measure:
        case "succeeds":
            cell.mark = MARKS[status]
            cell.value = bad / ran if ran else None
            cell.text = f"{100 * good // ran} %" if ran and cell.number > 1 else ""
        case "flaky" if verdicts:
            flakes = sum(one.flakes for one in whole)
            cell.mark = MARKS["flaky"] if flakes else ""
            cell.value = flakes / verdicts
            cell.text = f"{math.ceil(100 * cell.value)} %"
            low, high = wilson(flakes, verdicts)
            cell.tip += f" · {count(flakes, 'flake')} in {count(verdicts, 'verdict')}"
            cell.tip += f": with a confidence of 95 %, {100 * low:.0f} to {100 * high:.0f} %"
        case "changed":
            kinds = Counter(changes[case.id] for _, case in members if case.id in changes)
            some = {kind: kinds[kind] for kind in ("new", "fixed", "slower") if kinds[kind]}
            cell.mark = "✗" if kinds["new"] else "✓" if kinds["fixed"] else ""
            cell.value = kinds["new"] / cell.number if some else None
            cell.text = ", ".join(f"{number} {kind}" for kind, number in some.items()) or "="
        case "p50" | "p95" if seconds or any(one.typical_seconds is not None for one in past):
            earlier = [
                one.verdict.seconds for case in past for one in case.past if one.verdict.outcome in GOOD
            ]
            every = sorted([*seconds, *earlier])
            cell.value = percentile(every, 0.95 if measure == "p95" else 0.5)
            cell.text = duration(cell.value)
            if earlier:
                cell.tip += f" · with earlier sessions median {duration(percentile(every, 0.5))}"
                cell.tip += f", 95th percentile {duration(percentile(every, 0.95))}, of {len(every):,}"
        case _:
            cell.mark = MARKS[status]
    return cell


def _past(case: CaseRecord, before: Mapping[str, CaseHistory]) -> Sequence[Past]:
    return before[case.id].past if case.id in before else ()


def _scale(cells: Sequence[Cell], measure: str) -> None:
    """Set the levels: of shares, and of durations by their ratio to the shortest."""
    values = [max(cell.value, 0.001) for cell in cells if cell.value is not None]
    least = min(values, default=1.0)
    span = math.log(max(max(values, default=1.0) / least, _LEAST_RATIO))
    for cell in cells:
        if cell.value is not None and measure in ("p50", "p95"):
            cell.level = round(_DEEPEST * math.log(max(cell.value, 0.001) / least) / span)
        elif cell.value is not None:
            cell.level = math.ceil(_DEEPEST * cell.value)


def _arrange(table: Table, view: View, order: Mapping[Head, int]) -> None:
    """Set rows and columns in this order, tests by folder; leave out what is too much."""
    bad: Counter[Head] = Counter()
    for (row, column), cell in table.cells.items():
        bad[row] += cell.status in _BAD
        bad[column] += cell.status in _BAD
    rows = _ordered(sorted({row for row, _ in table.cells}, key=order.__getitem__), view)
    columns = _ordered(sorted({column for _, column in table.cells}, key=order.__getitem__), view)
    if "failed" in view.options:
        rows = [row for row in rows if bad[row]]
    table.rows, table.columns = _most(rows, bad, _ROWS), _most(columns, bad, _COLUMNS)
    more = {"row": len(rows) - len(table.rows), "column": len(columns) - len(table.columns)}
    table.left_out = " and ".join(count(number, f"more {what}") for what, number in more.items() if number)


def _ordered(heads: list[Head], view: View) -> list[Head]:
    """Return the tests of each folder after its total."""
    groups = list(dict.fromkeys(head.group for head in heads))
    if len(groups) == 1 and "folders" not in view.options:
        return [head for head in heads if not head.total]  # of all tests: says nothing of its own
    place = {group: number for number, group in enumerate(groups)}
    return sorted(heads, key=lambda head: (place[head.group], not head.total))


def _most(heads: list[Head], bad: Mapping[Head, int], number: int) -> list[Head]:
    kept = set(sorted(heads, key=lambda head: -bad[head])[:number])
    return [head for head in heads if head in kept]
