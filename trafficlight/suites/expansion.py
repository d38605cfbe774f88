"""From a test class to its cases: the product of types and parameters, each cell once."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from trafficlight.client_types import ClientType
from trafficlight.errors import TestFileError
from trafficlight.parameters import ParameterSet
from trafficlight.server_types import ServerType
from trafficlight.suites.case_ids import CaseId
from trafficlight.suites.discovery import FileFound, methods_of
from trafficlight.suites.model import Case, ServerSlot, Suite
from trafficlight.suites.pairwise import pairwise
from trafficlight.suites.rendering import render_name, render_value
from trafficlight.suites.roles import Role, Roles, read_roles
from trafficlight.suites.signatures import check_hooks, check_method, read_parameters
from trafficlight.suites.source import Source
from trafficlight.test import Test

# A cell of the product of all roles: for every role the place of its type.
_Row: TypeAlias = tuple[int, ...]


def _everything(_: ClientType | ServerType) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a matrix is asked for.

    :param methods: whether a test method is.
    :param types: whether a type is.
    :param client: whether a test needs a client role besides network proxies to be asked for.
    :param server: whether it needs a server role.
    :param parameters: values that take the place of the ones that the test states.
    :param pairwise: whether every pair of values is enough.
    """

    methods: Callable[[str], bool] = lambda _: True
    types: Callable[[ClientType | ServerType], bool] = _everything
    client: bool = False
    server: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pairwise: bool = False


def expand(
    cls: type[Test], class_name: str, file: FileFound, source: Source, choice: Choice
) -> tuple[list[Suite], list[TestFileError]]:
    """Return the suites of a test class, one for every test method, and what is wrong with it.

    A method that something is wrong with has no suite; a class whose roles are wrong has none at all.
    """
    roles = read_roles(cls, source)
    problems = list(roles.problems)
    for name, line in source.repeated_methods(class_name):
        problem = f"two tests with one id: {class_name} has two methods {name}()"
        problems.append(TestFileError(source.path, line, problem, "name one of them otherwise"))
    methods = methods_of(cls)
    if roles.older and "run" in methods:
        # Where that form comes from, a test is what run() does, and the rest are its helpers.
        methods = ["run"]
    suites = []
    for method in methods if not problems else ():
        if not choice.methods(method):
            continue
        line = source.method_line(class_name, method) or source.class_line(class_name) or 1
        sets, wrong = read_parameters(cls, method, {}, (source.path, line))
        wrong += check_method(cls, method, roles, sets, source, line) if not wrong else ()
        wrong += check_hooks(cls, method, roles, sets, source) if not wrong else ()
        problems.extend(wrong)
        if wrong:
            continue
        if choice.parameters:
            sets, _ = read_parameters(cls, method, choice.parameters, (source.path, line))
            if check_method(cls, method, roles, sets, source, line):
                continue
        case_id = CaseId(file.name, class_name, method)
        suite, wrong = _Matrix(roles, sets, case_id, file, line).suite(_documentation(cls, method), choice)
        problems.extend(wrong)
        suites.append(suite)
    return suites, problems


class _Matrix:
    """The cells of one test method."""

    def __init__(
        self, roles: Roles, sets: Sequence[ParameterSet], name: CaseId, file: FileFound, line: int
    ) -> None:
        self._roles = roles.roles
        self._groups = roles.groups
        self._sets = sets
        self._name = name
        self._file = file
        self._line = line
        self._names = [[render_name(kind.name()) for kind in role.types] for role in self._roles]
        self._values = [{key: render_value(value) for key, value in one.values.items()} for one in sets]

    def suite(self, documentation: str, choice: Choice) -> tuple[Suite, list[TestFileError]]:
        """Return the suite with the cells that are asked for, and its problems."""
        lists = self._asked_for(choice)
        full = math.prod(len(role.types) for role in self._roles) * len(self._sets)
        asked = math.prod(map(len, lists)) * len(self._sets)
        cells = itertools.product(*lists)
        # Without mirrors there is no need to walk through all of them, which may be very many.
        rows = list(self._unmirrored(cells)) if self._groups or not choice.pairwise else None
        unmirrored = asked if rows is None else len(rows) * len(self._sets)
        chosen = list(
            self._paired(lists)
            if choice.pairwise or rows is None
            else itertools.product(rows, range(len(self._sets)))
        )
        cases, problems = self._cases(chosen)
        name = self._name
        suite = Suite(
            name.suite,
            name.file,
            name.class_name,
            name.method,
            self._line,
            documentation,
            cases,
            pruned=asked - unmirrored,
            unpaired=unmirrored - len(chosen),
            deselected=full - asked,
        )
        return suite, problems

    def _asked_for(self, choice: Choice) -> list[list[int]]:
        clients = [role for role in self._roles if _is_client_under_test(role)]
        servers = [role for role in self._roles if isinstance(role.types[0], ServerType)]
        if (choice.client and not clients) or (choice.server and not servers):
            return [[]]
        return [
            [place for place, kind in enumerate(role.types) if choice.types(kind)] for role in self._roles
        ]

    def _unmirrored(self, rows: Iterable[_Row]) -> Iterator[_Row]:
        """Leave out the rows that are another one with interchangeable roles exchanged."""
        if not self._groups:
            yield from rows
            return
        seen = set()
        for row in rows:
            if (key := self._mirror_key(row)) not in seen:
                seen.add(key)
                yield row

    def _mirror_key(self, row: _Row) -> tuple[object, ...]:
        grouped = {index for group in self._groups for index in group}
        within = tuple(
            tuple(sorted(self._names[index][row[index]] for index in group)) for group in self._groups
        )
        return within, tuple(-1 if index in grouped else place for index, place in enumerate(row))

    def _paired(self, lists: list[list[int]]) -> Iterator[tuple[_Row, int]]:
        """Choose cells that hold every pair; what is ignored takes no part in the pairs of what is not."""
        found: dict[tuple[_Row, int], None] = {}
        roles = [[frozenset({(index, place)}) for place in stated] for index, stated in enumerate(lists)]
        for ignored in (False, True):
            places = [place for place, one in enumerate(self._sets) if (one.ignored is not None) is ignored]
            parameters, locate = self._dimensions(places)
            for row in pairwise([*roles, *parameters]) if places else ():
                types = tuple(stated[place] for stated, place in zip(lists, row, strict=False))
                found[self._first_mirror(types, lists), locate[row[len(lists) :]]] = None
        yield from sorted(found)

    def _dimensions(self, places: list[int]) -> tuple[list[list[frozenset[Any]]], dict[_Row, int]]:
        """Return the parameters as dimensions: one for each if they are a product, otherwise one for all."""
        keys = list(dict.fromkeys(key for place in places for key in self._values[place]))
        values = [list(dict.fromkeys(self._values[place].get(key) for place in places)) for key in keys]
        rows = {
            tuple(
                stated.index(self._values[place].get(key)) for key, stated in zip(keys, values, strict=True)
            ): place
            for place in places
        }
        if len(rows) == len(places) == math.prod(map(len, values)):
            dimensions = zip(keys, values, strict=True)
            return [[frozenset({(key, value)}) for value in stated] for key, stated in dimensions], rows
        whole = [frozenset(self._values[place].items()) for place in places]
        return [whole], {(index,): place for index, place in enumerate(places)}

    def _first_mirror(self, row: _Row, lists: list[list[int]]) -> _Row:
        """Return the row itself, or the one among its mirror images that a complete plan holds."""
        for group in self._groups:
            names = [self._names[index][row[index]] for index in group]
            images = []
            for image in itertools.permutations(names):
                changed = list(row)
                for index, name in zip(group, image, strict=True):
                    changed[index] = self._names[index].index(name) if name in self._names[index] else -1
                if all(changed[index] in lists[index] for index in group):
                    images.append(tuple(changed))
            row = min(images)
        return row

    def _cases(self, cells: Iterable[tuple[_Row, int]]) -> tuple[tuple[Case, ...], list[TestFileError]]:
        prefix, cases, problems = self._name.suite, {}, []
        path, name = self._file.path, self._name
        for row, place in cells:
            parameters = self._sets[place]
            entries = [
                f"{role.key}={names[at]}"
                for role, names, at in zip(self._roles, self._names, row, strict=True)
            ]
            entries += [f"{key}={value}" for key, value in self._values[place].items()]
            case_id = f"{prefix}[{','.join(entries)}]" if entries else prefix
            if case_id in cases:
                hint = "give the values different names, for instance a __repr__ without an address"
                problems.append(TestFileError(path, self._line, f"two tests with one id: {case_id}", hint))
                continue
            kinds = [(role, role.types[at]) for role, at in zip(self._roles, row, strict=True)]
            cases[case_id] = Case(
                case_id,
                prefix,
                path,
                name.file,
                name.class_name,
                name.method,
                self._line,
                {role.names[0]: kind for role, kind in kinds if isinstance(kind, ClientType)},
                tuple(ServerSlot(kind, role.names) for role, kind in kinds if isinstance(kind, ServerType)),
                parameters.values,
                parameters.ignored,
            )
        return tuple(cases.values()), problems


def _is_client_under_test(role: Role) -> bool:
    return any(isinstance(kind, ClientType) and kind.type != "network-proxy" for kind in role.types)


def _documentation(cls: type[Test], method: str) -> str:
    """Return the first paragraph of what the method, or else its class, says of itself."""
    own = getattr(cls, method).__doc__ or (cls.__doc__ if "__doc__" in vars(cls) else None) or ""
    return " ".join(inspect.cleandoc(own).split("\n\n")[0].split())
