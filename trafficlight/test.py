"""The `Test` class: what a test declares, and what it can use while it runs.

::

    class SendMessages(Test):
        clients = {"alice": [Nio, ElementWebStable], "bob": [Nio, ElementWebStable]}
        servers = {"server": [SynapseStable, Dendrite]}

        async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None: ...
"""

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, Protocol, TypeAlias, TypeVar, overload

from trafficlight.client_types import ClientMatcher, NetworkProxy
from trafficlight.clock import cancel_all
from trafficlight.errors import LabError, Skipped, UnsupportedError
from trafficlight.server_types import ServerType

__all__ = ["CaseInfo", "Deadline", "Declaration", "Test", "TestRun", "accepted"]

T = TypeVar("T")

ClientTypes: TypeAlias = ClientMatcher | type[ClientMatcher] | Sequence[ClientMatcher | type[ClientMatcher]]
ServerTypes: TypeAlias = ServerType | type[ServerType] | Sequence[ServerType | type[ServerType]]


@dataclass(frozen=True, slots=True)
class CaseInfo:
    """What a running test knows about its case.

    :param id: the case's id, readable and unique in the session.
    :param parameters: the keyword arguments that are not roles.
    :param attempt: which try this is, from 1.
    :param folder: the attempt's folder in the results; it exists.
    :param roles: the name of the type in every role.
    """

    id: str
    parameters: Mapping[str, Any]
    attempt: int
    folder: Path
    roles: Mapping[str, str] = field(default_factory=dict)


class Deadline(Protocol):
    """The deadline of the case."""

    @property
    def remaining(self) -> float:
        """Seconds that are left; 0 once it has expired."""
        ...

    @property
    def expired(self) -> bool:
        """Whether it has expired."""
        ...


class TestRun(Protocol):
    """What a test uses while it runs; set with :meth:`Test.bind`."""

    @property
    def case(self) -> CaseInfo:
        """The case, and its results folder."""
        ...

    @property
    def logger(self) -> logging.Logger:
        """A logger that writes to the case's log."""
        ...

    @property
    def deadline(self) -> Deadline:
        """The deadline of the case."""
        ...

    @property
    def services(self) -> Any:
        """The nodes of the case, and its services: a `CaseServices`."""
        ...

    def record(self, name: str, value: float, unit: str, at: float | None) -> None:
        """Record a measurement."""
        ...

    def attach(self, name: str, content: Path | bytes) -> None:
        """Attach a file, or bytes, to the results of the case."""
        ...

    def step(self, name: str) -> AbstractContextManager[None]:
        """Record a step: when it begins, when it ends, and the line of the test."""
        ...


class Step(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """A step of a test, for `with` and `async with`."""

    def __init__(self, recorded: AbstractContextManager[None]) -> None:
        self._recorded = recorded

    def __enter__(self) -> None:
        self._recorded.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._recorded.__exit__(*error)

    async def __aenter__(self) -> None:
        self._recorded.__enter__()

    async def __aexit__(self, *error: Any) -> bool | None:
        return self._recorded.__exit__(*error)


class Runnable(Protocol):
    """A service, for :meth:`Test.run_parallel`."""

    async def run(self) -> None:
        """Start it, wait until it has ended, and stop it."""
        ...


# pytest must not collect it. Not a member, as every implementation would need it.
setattr(TestRun, "__test__", False)  # noqa: B010


@dataclass(frozen=True, slots=True)
class Declaration:
    """One role as it was declared, unchecked.

    :param kind: ``client`` or ``server``.
    :param names: the role; several if one server type stands for several homeservers.
    :param types: the types as they were written.
    :param where: file and line of the call that declared it; None for the class attributes.
    """

    kind: str
    names: tuple[str, ...]
    types: object
    where: tuple[str, int] | None = None


class Test:
    """A test: its roles, and an async `run()` or several async `test_*()` methods.

    They receive one object for every role, and the parameters, by name; `setup()` and `teardown()` run
    before and after.

    :cvar clients: the client types that may fill each client role.
    :cvar servers: the server types that may fill each server role; a tuple of roles where one type
        stands for several federated homeservers.
    :cvar interchangeable: roles that play the same part, so that mirrored cells are left out; a list
        of groups if there are several.
    :cvar timeout: seconds for `setup()` and one test together; by default `CASE_DEADLINE`.
        `@time_limit` sets it for one test.
    :cvar breaks_federation: whether the test uses ``server.federation``: its homeservers then ask each other
        through the network proxy.
    :cvar isolated: whether each case has homeservers of its own, also with `--share-servers`. A test whose
        code operates them, administrates them or disturbs the network has them anyway.
    """

    # pytest must not collect it, even if its name begins with Test.
    __test__: ClassVar[bool] = False

    clients: ClassVar[Mapping[str, ClientTypes]] = MappingProxyType({})
    servers: ClassVar[Mapping[str | tuple[str, ...], ServerTypes]] = MappingProxyType({})
    interchangeable: ClassVar[Sequence[str] | Sequence[Sequence[str]]] = ()

    timeout: ClassVar[float | None] = None
    breaks_federation: ClassVar[bool] = False
    isolated: ClassVar[bool] = False

    _run: TestRun | None = None

    async def setup(self, *args: Any, **kwargs: Any) -> None:
        """Prepare; may take any argument that the test receives."""

    async def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Clean up; always runs, and may take any argument that the test receives."""

    # The older form of declaring roles, for `__init__`.

    def _client_under_test(self, types: ClientTypes, name: str) -> None:
        self._declare("client", (name,), types)

    def _server_under_test(self, types: ServerTypes, names: Sequence[str]) -> None:
        self._declare("server", (names,) if isinstance(names, str) else tuple(names), types)

    def _network_proxy(self, name: str) -> None:
        self._declare("client", (name,), [NetworkProxy()])

    def _declare(self, kind: str, names: tuple[str, ...], types: object) -> None:
        caller = sys._getframe(2)
        declaration = Declaration(kind, names, types, (caller.f_code.co_filename, caller.f_lineno))
        # Set here and not in __init__, so that a subclass without super().__init__() works.
        vars(self).setdefault("_declared", []).append(declaration)

    def declarations(self) -> list[Declaration]:
        """Return every role, clients first, in the order of declaration."""
        stated = [Declaration("client", (role,), types) for role, types in self.clients.items()]
        for names, types in self.servers.items():
            stated.append(Declaration("server", names if isinstance(names, tuple) else (names,), types))
        stated.extend(vars(self).get("_declared", ()))
        return sorted(stated, key=lambda one: one.kind)

    # For a running test.

    def bind(self, run: TestRun) -> None:
        """Set what the test uses while it runs."""
        self._run = run

    @property
    def _bound(self) -> TestRun:
        if self._run is None:
            raise LabError(
                f"{type(self).__name__} is not running: only a running test has a case, a log and a deadline"
            )
        return self._run

    @property
    def case(self) -> CaseInfo:
        """The case: its id, parameters, attempt and results folder."""
        return self._bound.case

    @property
    def logger(self) -> logging.Logger:
        """A logger that writes to the case's log."""
        return self._bound.logger

    @property
    def deadline(self) -> Deadline:
        """The deadline of the case: `.remaining` seconds, `.expired`."""
        return self._bound.deadline

    def record(self, name: str, value: float, unit: str = "", *, at: float | None = None) -> None:
        """Record a measurement in the results of the case. Several of one name are a series.

        :param at: when it was measured, in seconds since 1970 (`time.time()`); by default, now.
        """
        self._bound.record(name, value, unit, at)

    def attach(self, name: str, content: Path | str | bytes) -> None:
        """Attach a file to the results of the case.

        :param name: the file name in the results.
        :param content: the bytes, or the path of a file.
        """
        self._bound.attach(name, Path(content) if isinstance(content, str) else content)

    def step(self, name: str) -> "Step":
        """Name what the test does in a `with` block: the timeline shows when, how long, and in which line.

        `async with` does the same.
        """
        return Step(self._bound.step(name))

    async def run_parallel(self, *services: "Runnable") -> None:
        """Run services at the same time: start each, wait until it has ended, stop it.

        :raises Exception: the first error of any; the others are stopped then.
        """
        tasks = [asyncio.ensure_future(one.run()) for one in services]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel_all(*tasks)

    @overload
    async def eventually(
        self, condition: Callable[[], Awaitable[T]], timeout: float = 10.0, *, message: str = ""
    ) -> T: ...

    @overload
    async def eventually(
        self, condition: Callable[[], T], timeout: float = 10.0, *, message: str = ""
    ) -> T: ...

    async def eventually(
        self, condition: Callable[[], Any], timeout: float = 10.0, *, message: str = ""
    ) -> Any:
        """Wait until a condition holds, and return what it returned.

        A condition that raises does not hold yet; only an error of the lab is raised at once.

        :param condition: a function, plain or async, whose result is true once it holds.
        :param timeout: seconds; at most until the case's deadline.
        :param message: what the error says did not happen, such as `alice saw no reply`.
        :raises AssertionError: it did not hold in time; the message has its last result or error.
        :raises TypeError: the condition is no function, or returned one: a call is missing.
        """
        if self._run is None:
            return await _eventually(condition, timeout, message)
        with self._run.step("eventually"):
            return await _eventually(condition, min(timeout, self._run.deadline.remaining), message)

    def skip(self, reason: str) -> NoReturn:
        """End the test as skipped. `except Exception` does not catch it.

        :param reason: why, one line.
        """
        raise Skipped(reason)


def accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the keyword arguments that a function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    taken = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return {name: value for name, value in arguments.items() if name in taken}


_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25


async def _eventually(condition: Callable[[], Any], timeout: float, message: str) -> Any:
    """Wait until a condition holds, and return what it returned; it is tried at least once.

    :param condition: a function, plain or async, whose result is true once it holds.
    :param timeout: seconds.
    :param message: what did not happen; by default, that the condition did not hold.
    :raises AssertionError: it did not hold in time; says what it returned or raised last.
    :raises LabError: the condition raised it; waiting longer would not help.
    :raises UnsupportedError: likewise.
    :raises TypeError: the condition is no function, or returned a function or a generator, which is always
        true.
    """
    shown = getattr(condition, "__name__", None) or repr(condition)
    if not callable(condition):
        raise TypeError(f"eventually() takes a function, not the result of calling one: {shown}")
    last, raised = "it never came to an end", None
    pause = _FIRST_PAUSE
    try:
        async with asyncio.timeout(max(timeout, _FIRST_PAUSE)) as scope:
            while True:
                try:
                    value = condition()
                    if inspect.isawaitable(value):
                        value = await value
                except (LabError, UnsupportedError):
                    raise
                except Exception as error:  # noqa: BLE001 - raised when time is up
                    last, raised = f"it raised {type(error).__name__}: {error}", error
                else:
                    if inspect.isroutine(value) or inspect.isgenerator(value) or inspect.isasyncgen(value):
                        raise TypeError(f"{shown} returned {value!r}, which is always true: call it")
                    if value:
                        return value
                    last, raised = f"it returned {value!r}", None
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
    except TimeoutError:
        if not scope.expired():
            raise
        said = f"{message or f'{shown} did not hold'} within {timeout:g} s"
        raise AssertionError(f"{said}; at the last try {last}") from raised
