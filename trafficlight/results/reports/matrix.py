"""The matrix of a session: suites as rows, combinations of client and server types as columns."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from trafficlight.results.case import CaseRecord
from trafficlight.results.reports.presentation import display_status, why
from trafficlight.text import single_line

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


@dataclass(frozen=True, slots=True)
class Cell:
    """The cases of one suite with one combination; several if it has parameters.

    :ivar case: the first case with the most severe status.
    """

    case: CaseRecord
    status: str
    number: int

    @property
    def tip(self) -> str:
        """The tooltip."""
        more = f" (+{self.number - 1} more)" if self.number > 1 else ""
        reason = single_line(why(self.case), 160)
        return f"{self.status}: {self.case.cell or self.case.id}{more}" + (f" · {reason}" if reason else "")


@dataclass(slots=True)
class Row:
    """One suite, with a cell per column; None where it has no such case."""

    suite: str
    cells: list[Cell | None]


@dataclass(slots=True)
class Heading:
    """A type in one role, and the number of columns that it spans."""

    name: str
    span: int


@dataclass(slots=True)
class Matrix:
    """The suites that have the same roles.

    :ivar roles: in the order of declaration, clients first.
    :ivar headings: a row of headings per role.
    """

    roles: tuple[str, ...]
    columns: list[tuple[str, ...]]
    headings: list[list[Heading]]
    rows: list[Row]

    @property
    def edges(self) -> frozenset[int]:
        """The columns in which the type of the first role changes, including the first column."""
        spans = [heading.span for heading in self.headings[0]] if self.headings else [1]
        return frozenset(sum(spans[:index]) for index in range(len(spans)))


def matrices(cases: Iterable[CaseRecord], *, over: bool) -> list[Matrix]:
    """Return one matrix per set of roles, in the order of the cases.

    :param over: whether their session no longer runs.
    """
    shapes: dict[tuple[str, ...], list[CaseRecord]] = {}
    for case in cases:
        shapes.setdefault((*case.clients, *case.servers), []).append(case)
    return [_matrix(roles, members, over=over) for roles, members in shapes.items()]


def _matrix(roles: tuple[str, ...], cases: list[CaseRecord], *, over: bool) -> Matrix:
    order: list[dict[str, int]] = [{} for _ in roles]
    for case in cases:
        for seen, name in zip(order, _types(case), strict=True):
            seen.setdefault(name, len(seen))
    columns = sorted(
        {_types(case) for case in cases},
        key=lambda types: [seen[name] for seen, name in zip(order, types, strict=True)],
    )
    suites: dict[str, dict[tuple[str, ...], list[CaseRecord]]] = {}
    for case in cases:
        suites.setdefault(case.suite, {}).setdefault(_types(case), []).append(case)
    rows = [
        Row(suite, [_cell(found[types], over=over) if types in found else None for types in columns])
        for suite, found in suites.items()
    ]
    headings = [_headings(columns, depth) for depth in range(1, len(roles) + 1)]
    return Matrix(roles, columns, headings, rows)


def _cell(cases: list[CaseRecord], *, over: bool) -> Cell:
    statuses = [display_status(case, over=over) for case in cases]
    status = min(statuses, key=_SEVERITY.index)
    return Cell(cases[statuses.index(status)], status, len(cases))


def _headings(columns: list[tuple[str, ...]], depth: int) -> list[Heading]:
    runs = groupby(columns, lambda types: types[:depth])
    return [Heading(prefix[-1], len(list(run))) for prefix, run in runs]


def _types(case: CaseRecord) -> tuple[str, ...]:
    return (*case.clients.values(), *case.servers.values())
