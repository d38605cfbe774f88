"""Plans: suites and cases as immutable, JSON-serialisable data, without any code of a test file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator, ValidationInfo

from trafficlight.client_types import ClientTypeSpec
from trafficlight.errors import TestFileError
from trafficlight.parameters import NodeRequest
from trafficlight.server_types import HomeServerSpec
from trafficlight.text import count


@dataclass(frozen=True, slots=True)
class ServerSlot:
    """One server type and the server roles that it fills.

    :param type_name: the name of the type in case ids.
    :param roles: the roles; several if the type stands for a federation.
    """

    type_name: str
    homeservers: tuple[HomeServerSpec, ...]
    roles: tuple[str, ...]


def _shared(kind: ClientTypeSpec, info: ValidationInfo) -> ClientTypeSpec:
    known: dict[ClientTypeSpec, ClientTypeSpec] | None = info.context
    return kind if known is None else known.setdefault(kind, kind)


# Cases that are decoded together share equal types: less memory, and faster comparisons.
_SharedType = Annotated[ClientTypeSpec, AfterValidator(_shared)]


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the matrix: a test, a type for every role, parameter values.

    The client types and parameter values themselves exist only in the process that runs the case: it imports
    the test file, expands the class again, and takes the case with this id.

    :param id: readable, unique in a session, stable over time, without versions.
    :param suite: the id of its suite: the part of `id` before ``[``.
    :param path: the test file, absolute.
    :param file: the test file's name in ids and reports, relative to its root.
    :param method: ``run`` or a ``test_*`` method.
    :param line: the line of the method, from 1.
    :param clients: the client type of every client role, in the order of declaration.
    :param servers: the server types, in the order of declaration.
    :param parameters: the keyword arguments that are not roles, as JSON; other values as text.
    :param overrides: the parameters that were given in place of the test's own.
    :param skip: the reason not to run it; None if it runs.
    :param timeout: seconds for set-up and test together; None for the lab's setting.
    :param nodes: the nodes of a cluster that it needs; None for none.
    :param isolated: whether no other case may have its homeservers.
    """

    id: str
    suite: str
    path: Path
    file: str
    class_name: str
    method: str
    line: int
    clients: Mapping[str, _SharedType] = field(default_factory=dict)
    servers: tuple[ServerSlot, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    skip: str | None = None
    timeout: float | None = None
    nodes: NodeRequest | None = None
    isolated: bool = False

    @property
    def roles(self) -> dict[str, str]:
        """The name of the type in every role, clients first."""
        named = {role: kind.type_name for role, kind in self.clients.items()}
        for slot in self.servers:
            named.update(dict.fromkeys(slot.roles, slot.type_name))
        return named


@dataclass(frozen=True, slots=True)
class Suite:
    """One test with all its cases.

    :param id: ``file::Class``, with ``.method`` if the class has several tests.
    :param documentation: the first paragraph of the test's docstring.
    :param pruned: mirrored cells that were left out because roles are interchangeable.
    :param unpaired: cells that were left out because other cells cover their pairs.
    :param deselected: cells that were not selected.
    """

    id: str
    file: str
    class_name: str
    method: str
    line: int
    documentation: str
    cases: tuple[Case, ...]
    pruned: int = 0
    unpaired: int = 0
    deselected: int = 0


def _problem(value: Any) -> TestFileError:
    if isinstance(value, TestFileError):
        return value
    try:
        return TestFileError(Path(value["path"]), value["line"], value["problem"], value["hint"])
    except (KeyError, TypeError) as error:
        raise ValueError("not a problem of a test file") from error


# Pydantic reads it back from JSON.
Problem = Annotated[TestFileError, PlainValidator(_problem)]


@dataclass(frozen=True, slots=True)
class Plan:
    """The cases of a session, and what is wrong with the test files.

    :param problems: test files or classes that cannot run; they make the session end in error.
    :param deselected: cells that were not selected, of suites that are not listed.
    :param warnings: what is probably not meant so, one line each.
    :param whole: the cases of all shards, in the order of discovery.
    :param shard: which of the shards it is, from 1, and how many there are; None if it has all cases.
    :param elsewhere: the shard of every case that is in another one, by its id.
    """

    suites: tuple[Suite, ...]
    problems: tuple[Problem, ...] = ()
    deselected: int = 0
    warnings: tuple[str, ...] = ()
    whole: tuple[Case, ...] = ()
    shard: tuple[int, int] | None = None
    elsewhere: Mapping[str, int] = field(default_factory=dict)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases of all suites, in the order of discovery."""
        return tuple(case for suite in self.suites for case in suite.cases)

    @property
    def emptiness(self) -> str:
        """Why it has no case."""
        if out := self.deselected + sum(suite.deselected for suite in self.suites):
            return f"nothing to run: the selection leaves none of {count(out, 'case')}"
        return "nothing to run: no test was found"
