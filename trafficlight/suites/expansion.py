"""From a test class to its cases: the product of types and parameters, each cell once."""

import functools
import inspect
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from trafficlight.client_types import CLIENT_NAME, AnyMatrixClient, ClientType, Nio, client_types_of, spec_of
from trafficlight.errors import TestFileError
from trafficlight.parameters import NodeRequest, ParameterSet, ignored_types, nodes_of, time_limit_of
from trafficlight.server_types import HomeServerSpec, NamedServer, ServerType, SynapseStable
from trafficlight.suites.case_ids import base_id, case_id, suite_id
from trafficlight.suites.discovery import FileFound, methods_of
from trafficlight.suites.imports import load_test_class
from trafficlight.suites.isolation import changes_servers
from trafficlight.suites.model import Case, ServerSlot, Suite
from trafficlight.suites.pairwise import pairwise
from trafficlight.suites.rendering import as_json, render_name, render_value
from trafficlight.suites.roles import Role, Roles, is_of, read_roles
from trafficlight.suites.signatures import (
    check_hooks,
    check_ignores,
    check_members,
    check_method,
    check_roles,
    read_parameters,
    taken_roles,
)
from trafficlight.suites.source import SourceLines
from trafficlight.test import Test

# A cell of the product of all roles: the index of the type of every role.
_Row: TypeAlias = tuple[int, ...]


def _everything(_: ClientType | ServerType) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class MatrixFilter:
    """Which cells of a class's matrices are wanted.

    :param methods: whether a test method is wanted.
    :param types: whether a type is wanted.
    :param chosen: the types that fill roles for any Matrix client or any homeserver.
    :param client: whether only tests with a client role besides network proxies are wanted.
    :param server: whether only tests with a server role are wanted.
    :param parameters: values in place of the test's own.
    :param pairwise: whether covering every pair of values is enough.
    """

    methods: Callable[[str], bool] = lambda _: True
    types: Callable[[ClientType | ServerType], bool] = _everything
    client: bool = False
    server: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pairwise: bool = False
    chosen: Sequence[ClientType | ServerType] = (Nio(), SynapseStable())


def expand(
    cls: type[Test], class_name: str, file: FileFound, source: SourceLines, wanted: MatrixFilter
) -> tuple[list[Suite], list[TestFileError]]:
    """Return the suites of a test class, one for every test method, and what is wrong with it.

    A method with a problem has no suite; a class with a problem in its roles has none at all.
    """
    roles = read_roles(cls, source, wanted.chosen)
    problems = roles.problems + check_members(cls, source)
    for name, line in source.repeated_methods(class_name):
        problem = f"two tests with one id: {class_name} has two methods {name}()"
        problems.append(TestFileError(source.path, line, problem, "rename one of them"))
    methods = methods_of(cls)
    if roles.older and "run" in methods:
        # In that form a test is its run(), and all other methods are helpers.
        methods = ["run"]
    suites = []
    isolated = bool(cls.isolated or cls.breaks_federation) or changes_servers(cls)
    for method in methods if not problems else ():
        if not wanted.methods(method):
            continue
        line = source.method_line(class_name, method) or source.class_line(class_name) or 1
        sets, wrong = read_parameters(cls, method, roles, {}, (source.path, line))
        wrong += check_method(cls, method, roles, sets, source, line) if not wrong else ()
        wrong += check_hooks(cls, method, roles, sets, source) if not wrong else ()
        problems.extend(wrong)
        if wrong:
            continue
        taken = taken_roles(cls, [method], roles)
        if wanted.parameters:
            sets, _ = read_parameters(cls, method, roles, wanted.parameters, (source.path, line))
            if check_method(cls, method, roles, sets, source, line):
                continue
        limit = time_limit_of(getattr(cls, method)) or cls.timeout
        try:
            nodes = [nodes_of(getattr(cls, method), cls, one.values) for one in sets]
        except ValueError as error:
            hint = "a number, or a function of the test's parameters"
            problems.append(TestFileError(source.path, line, str(error), hint))
            continue
        ignores = list(ignored_types(getattr(cls, method), cls, roles.names))
        wrong = check_ignores(ignores, roles, source, line)
        problems.extend(wrong)
        if wrong:
            continue
        matrix = _Matrix(
            taken,
            sets,
            _Test(
                file,
                class_name,
                method,
                line,
                wanted.parameters,
                limit,
                nodes,
                bool(cls.breaks_federation),
                isolated,
            ),
            ignores,
        )
        suite, wrong = matrix.suite(_documentation(cls, method), wanted)
        problems.extend(wrong)
        suites.append(suite)
    if not problems and (wrong := check_roles(cls, methods, roles)):
        return [], wrong
    return suites, problems


def expand_case(case: Case) -> tuple[type[Test], dict[str, ClientType], dict[str, Any]]:
    """Import the test file, expand its class again, and return a case's class, client types and parameters.

    :raises TestFileError: the file cannot be imported, or no longer produces the case.
    """
    cls: Any = load_test_class(case.path, case.class_name)
    overrides, clients, servers = json.dumps(case.overrides), _choices(case), _servers(case)
    matrix = _matrix(cls, case.class_name, case.method, case.path, case.file, overrides, clients, servers)
    found = matrix.find(base_id(case.id))
    if found is None:
        problem = "the test file produced this case when it was collected and no longer does"
        problem += ": the types or parameters of its test differ from import to import"
        hint = "use no random numbers, times, process ids or addresses as values"
        raise TestFileError(case.path, case.line, problem, hint)
    kinds, parameters = found
    return cls, kinds, {name: _copied(value) for name, value in parameters.items()}


def find_client_type(path: Path, class_name: str, role: str, type_name: str) -> ClientType:
    """Return a client type that a test class of a file names for a role.

    :raises TestFileError: the file cannot be imported, or no longer names it.
    """
    roles = read_roles(load_test_class(path, class_name), SourceLines(path)).names
    for kind in roles[role].types if role in roles else ():
        if isinstance(kind, ClientType) and kind.name() == type_name:
            return kind
    raise TestFileError(path, None, f"{class_name} no longer names {type_name} for the role {role!r}")


def _choices(case: Case) -> tuple[str, ...]:
    """Return the names of what fills roles for any Matrix client, as if every client of the case did."""
    names = (kind.type_name.partition("(")[0] + kind.version for kind in case.clients.values())
    return tuple(dict.fromkeys(filter(CLIENT_NAME.fullmatch, names)))


def _servers(case: Case) -> tuple[str, ...]:
    """Return the names of what fills roles for any homeserver, as if every homeserver of the case did."""
    return tuple(dict.fromkeys(slot.type_name for slot in case.servers))


# A worker expands a test before it forks the processes of its cases.
@functools.lru_cache(maxsize=4)
def _matrix(
    cls: type[Any],
    class_name: str,
    method: str,
    path: Path,
    file: str,
    overrides: str,
    clients: tuple[str, ...],
    servers: tuple[str, ...],
) -> "_Matrix":
    chosen: list[ClientType | ServerType] = [*client_types_of(clients), *map(NamedServer, servers)]
    roles = read_roles(cls, SourceLines(path), chosen)
    sets, wrong = read_parameters(cls, method, roles, json.loads(overrides), (path, None))
    for problem in (*roles.problems, *wrong):
        raise problem
    taken = taken_roles(cls, [method], roles)
    return _Matrix(taken, sets, _Test(FileFound(path, file), class_name, method, 1, {}))


def _copied(value: Any) -> Any:
    """Copy lists, dictionaries and sets: a test that changes one must not change the next case's."""
    kind = type(value)
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    return kind(map(_copied, value)) if kind in (list, tuple, set) else value


@dataclass(frozen=True, slots=True)
class _Test:
    """The test method that a matrix belongs to.

    :ivar nodes: those that the cases of each parameter set need.
    """

    file: FileFound
    class_name: str
    method: str
    line: int
    overrides: Mapping[str, Any]
    timeout: float | None = None
    nodes: Sequence[NodeRequest | None] = ()
    breaks_federation: bool = False
    isolated: bool = False

    @property
    def id(self) -> str:
        return suite_id(self.file.name, self.class_name, self.method)


class _Matrix:
    """The cells of one test method."""

    def __init__(
        self,
        roles: Roles,
        sets: Sequence[ParameterSet],
        test: _Test,
        ignores: Sequence[tuple[Mapping[str, Any], str]] = (),
    ) -> None:
        self._roles = roles.roles
        self._groups = roles.groups
        self._sets = sets
        self._ignores = ignores
        self._test = test
        self._names = [[render_name(kind.name()) for kind in role.types] for role in self._roles]
        self._values = [{key: render_value(value) for key, value in one.values.items()} for one in sets]

    def find(self, id: str) -> tuple[dict[str, ClientType], Mapping[str, Any]] | None:
        """Return the client types and parameters of a case; None if there is no case with this id."""
        rows = itertools.product(
            *(
                [at for at, name in enumerate(names) if f"{role.key}={name}" in id]
                for role, names in zip(self._roles, self._names, strict=True)
            )
        )
        inside = id.removeprefix(self._test.id)[1:-1]
        for row in rows:
            filled = _entries(
                (role.key, names[at]) for role, names, at in zip(self._roles, self._names, row, strict=True)
            )
            if not inside.startswith(filled):
                continue
            place = self._places.get(inside.removeprefix(filled).removeprefix("," if filled else ""))
            if place is not None and self._id(row, place) == id:
                kinds = [(role, role.types[at]) for role, at in zip(self._roles, row, strict=True)]
                clients = {role.names[0]: kind for role, kind in kinds if isinstance(kind, ClientType)}
                return clients, self._sets[place].values
        return None

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """The parameter sets by their part of a case id; the first one of equal ones."""
        return {_entries(values.items()): place for place, values in reversed([*enumerate(self._values)])}

    def suite(self, documentation: str, wanted: MatrixFilter) -> tuple[Suite, list[TestFileError]]:
        """Return the suite with the wanted cells, and its problems."""
        lists = self._wanted(wanted)
        full = math.prod(len(role.types) for role in self._roles) * len(self._sets)
        asked = math.prod(map(len, lists)) * len(self._sets)
        cells = itertools.product(*lists)
        # Without mirrors there is no need to enumerate the whole product, which may be huge.
        rows = list(self._unmirrored(cells)) if self._groups or not wanted.pairwise else None
        unmirrored = asked if rows is None else len(rows) * len(self._sets)
        chosen = list(
            self._paired(lists)
            if wanted.pairwise or rows is None
            else itertools.product(rows, range(len(self._sets)))
        )
        cases, problems = self._cases(chosen)
        test = self._test
        suite = Suite(
            test.id,
            test.file.name,
            test.class_name,
            test.method,
            test.line,
            documentation,
            cases,
            pruned=asked - unmirrored,
            unpaired=unmirrored - len(chosen),
            deselected=full - asked,
        )
        return suite, problems

    def _wanted(self, wanted: MatrixFilter) -> list[list[int]]:
        clients = [role for role in self._roles if _is_client_under_test(role)]
        servers = [role for role in self._roles if isinstance(role.types[0], ServerType)]
        if (wanted.client and not clients) or (wanted.server and not servers):
            return [[]]
        return [
            [place for place, kind in enumerate(role.types) if wanted.types(kind)] for role in self._roles
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

    def _id(self, row: _Row, place: int) -> str:
        cells = [(role.key, names[at]) for role, names, at in zip(self._roles, self._names, row, strict=True)]
        return case_id(self._test.id, [*cells, *self._values[place].items()])

    def _ignored(self, row: _Row, place: int) -> str | None:
        """Return why a cell's types are ignored, or missing; None if they are not."""
        kinds = {
            name: role.types[at] for role, at in zip(self._roles, row, strict=True) for name in role.names
        }
        for kind in kinds.values():
            if isinstance(kind, AnyMatrixClient):
                return kind.missing
        values = self._sets[place].values

        def meant(name: str, stated: Any) -> bool:
            if name in kinds:
                return is_of(kinds[name], stated)
            return name in values and bool(values[name] == stated)

        for stated, reason in self._ignores:
            if all(meant(name, one) for name, one in stated.items()):
                return reason
        return None

    def _cases(self, cells: Iterable[tuple[_Row, int]]) -> tuple[tuple[Case, ...], list[TestFileError]]:
        test, cases, problems = self._test, dict[str, Case](), list[TestFileError]()
        path = test.file.path
        clients = [
            [
                spec_of(kind, path, test.class_name, role.names[0]) if isinstance(kind, ClientType) else None
                for kind in role.types
            ]
            for role in self._roles
        ]
        servers = [
            [
                _slot(kind, role, test.breaks_federation) if isinstance(kind, ServerType) else None
                for kind in role.types
            ]
            for role in self._roles
        ]
        parameters = [{name: as_json(value) for name, value in one.values.items()} for one in self._sets]
        names = [role.names[0] for role in self._roles]
        for row, place in cells:
            id = self._id(row, place)
            if id in cases:
                hint = "give the values different names, for instance a __repr__ without an address"
                problems.append(TestFileError(path, test.line, f"two tests with one id: {id}", hint))
                continue
            specs = [kinds[at] for kinds, at in zip(clients, row, strict=True)]
            slots = [kinds[at] for kinds, at in zip(servers, row, strict=True)]
            cases[id] = Case(
                id,
                test.id,
                path,
                test.file.name,
                test.class_name,
                test.method,
                test.line,
                {name: spec for name, spec in zip(names, specs, strict=True) if spec is not None},
                tuple(slot for slot in slots if slot is not None),
                parameters[place],
                test.overrides,
                self._sets[place].ignored or self._ignored(row, place),
                test.timeout,
                test.nodes[place],
                test.isolated,
            )
        return tuple(cases.values()), problems


def _entries(cells: Iterable[tuple[str, str]]) -> str:
    return case_id("", cells)[1:-1]


def _slot(kind: ServerType, role: Role, behind_proxy: bool) -> ServerSlot:
    specs = (
        HomeServerSpec(
            str(one.type_name),
            str(one.recipe),
            str(one.version),
            str(one.image),
            as_json(one.config),
            behind_proxy,
        )
        for one in kind.homeservers()
    )
    return ServerSlot(str(kind.name()), tuple(specs), role.names)


def _is_client_under_test(role: Role) -> bool:
    return any(isinstance(kind, ClientType) and kind.type != "network-proxy" for kind in role.types)


def _documentation(cls: type[Test], method: str) -> str:
    """Return the first paragraph of the docstring of the method, or else of its class."""
    own = getattr(cls, method).__doc__ or (cls.__doc__ if "__doc__" in vars(cls) else None) or ""
    return " ".join(inspect.cleandoc(own).split("\n\n")[0].split())
