"""The matrix of a session: suites against combinations of client and server types."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from trafficlight.results.case import CaseRecord, Outcome

_GRAVITY = (
    Outcome.FAILURE,
    Outcome.ERROR,
    Outcome.UNEXPECTED_SUCCESS,
    Outcome.RUNNING,
    Outcome.NOT_RUN,
    Outcome.FLAKY,
    Outcome.EXPECTED_FAILURE,
    Outcome.SUCCESS,
    Outcome.SKIPPED,
)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome that deserves most attention."""
    return min(outcomes, key=_GRAVITY.index, default=Outcome.NOT_RUN)


@dataclass(slots=True)
class Cell:
    """The cases of one suite with one combination; several when it has parameters."""

    cases: list[CaseRecord] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """The outcome that deserves most attention."""
        return worst(case.outcome for case in self.cases)

    @property
    def first(self) -> CaseRecord:
        """The first case with that outcome."""
        return min(self.cases, key=lambda case: _GRAVITY.index(case.outcome))


@dataclass(slots=True)
class Row:
    """One suite; a cell for every column, None where the suite has no such case."""

    suite: str
    cells: list[Cell | None]


@dataclass(slots=True)
class Heading:
    """A type in one role, above as many columns as it spans."""

    name: str
    span: int


@dataclass(slots=True)
class Matrix:
    """The suites that have the same roles.

    :param roles: in the order of declaration, clients first.
    :param headings: a line of headings for every role.
    """

    roles: tuple[str, ...]
    columns: list[tuple[str, ...]]
    headings: list[list[Heading]]
    rows: list[Row]

    @property
    def edges(self) -> frozenset[int]:
        """The columns with which a new type in the first role begins, or in the only one."""
        spans = [heading.span for heading in self.headings[0]] if self.headings else [1]
        return frozenset(sum(spans[:index]) for index in range(len(spans)))


def matrices(cases: Iterable[CaseRecord]) -> list[Matrix]:
    """Return one matrix for every set of roles, in the order of the cases."""
    shapes: dict[tuple[str, ...], list[CaseRecord]] = {}
    for case in cases:
        shapes.setdefault((*case.clients, *case.servers), []).append(case)
    return [_matrix(roles, members) for roles, members in shapes.items()]


def _matrix(roles: tuple[str, ...], cases: list[CaseRecord]) -> Matrix:
    order: list[dict[str, int]] = [{} for _ in roles]
    for case in cases:
        for seen, name in zip(order, _types(case), strict=True):
            seen.setdefault(name, len(seen))
    columns = sorted(
        {_types(case) for case in cases},
        key=lambda types: [seen[name] for seen, name in zip(order, types, strict=True)],
    )
    position = {types: index for index, types in enumerate(columns)}
    rows: dict[str, Row] = {}
    for case in cases:
        row = rows.setdefault(case.suite, Row(case.suite, [None] * len(columns)))
        index = position[_types(case)]
        cell = row.cells[index] or Cell()
        cell.cases.append(case)
        row.cells[index] = cell
    headings = [_headings(columns, depth) for depth in range(1, len(roles) + 1)]
    return Matrix(roles, columns, headings, list(rows.values()))


def _headings(columns: list[tuple[str, ...]], depth: int) -> list[Heading]:
    runs = groupby(columns, lambda types: types[:depth])
    return [Heading(prefix[-1], len(list(run))) for prefix, run in runs]


def _types(case: CaseRecord) -> tuple[str, ...]:
    return (*case.clients.values(), *case.servers.values())
