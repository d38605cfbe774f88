"""What lies between a test file and the lab: tests, suites and cases, as plain immutable data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trafficlight.client_types import ClientType
from trafficlight.errors import TestFileError
from trafficlight.server_types import ServerType


@dataclass(frozen=True, slots=True)
class Sealed:
    """What of a case only a process that has imported its test file can hold.

    :param content: its client types and parameters, pickled.
    :param problem: why they cannot be; empty where they can.
    """

    content: bytes = b""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ServerSlot:
    """One server type and the server roles that it fills (several, when it stands for a federation)."""

    type: ServerType
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the matrix: a test, a type for every role, parameter values.

    :param id: readable, unique in a session, stable over time, without versions.
    :param suite: the id of the suite that it belongs to; the part of `id` before ``[``.
    :param path: the test file, absolute.
    :param file: the test file as people and JUnit are told it, relative to where the search started.
    :param class_name: the Test's class.
    :param method: ``run`` or a ``test_*`` method.
    :param line: the line of the method, from 1.
    :param clients: the client type of every client role, in the order of declaration.
    :param servers: the server types, in the order of declaration.
    :param parameters: the keyword arguments that are not roles.
    :param skip: why it is not meant to run; None when it is.
    :param sealed: the real client types and parameters, where `clients` and `parameters` only tell of them
        because they are made by code of the test file; None where they are the real ones.
    """

    id: str
    suite: str
    path: Path
    file: str
    class_name: str
    method: str
    line: int
    clients: Mapping[str, ClientType] = field(default_factory=dict)
    servers: tuple[ServerSlot, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    skip: str | None = None
    sealed: Sealed | None = None

    @property
    def roles(self) -> dict[str, str]:
        """The name of the type in every role, clients first."""
        named = {role: kind.name() for role, kind in self.clients.items()}
        for slot in self.servers:
            named.update(dict.fromkeys(slot.roles, slot.type.name()))
        return named


@dataclass(frozen=True, slots=True)
class Suite:
    """One test with all its cases.

    :param id: ``file::Class``, with ``.method`` when the class has several tests.
    :param documentation: the test's docstring, one paragraph.
    :param pruned: how many mirrored cells were left out because roles are interchangeable.
    :param unpaired: how many cells were left out because their pairs are in others.
    :param deselected: how many cells were left out because they were not asked for.
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


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a session is to run, and what was wrong with the rest.

    :param problems: test files or classes that cannot run; a session with any of them ends in error.
    :param deselected: how many cells of suites that are not even listed were not asked for.
    """

    suites: tuple[Suite, ...]
    problems: tuple[TestFileError, ...] = ()
    deselected: int = 0

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases of all suites, in the order of discovery."""
        return tuple(case for suite in self.suites for case in suite.cases)
