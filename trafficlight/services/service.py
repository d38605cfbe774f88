"""Services: what a test starts on nodes, stops, and collects the logs of."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from trafficlight.clock import cancel_all
from trafficlight.errors import LabError
from trafficlight.processes import run_to_completion
from trafficlight.services.account import Account
from trafficlight.services.connections import NodeAddress
from trafficlight.services.faults import Faults
from trafficlight.services.node import LogEntry, Node, case_folder, collect, note_logs
from trafficlight.test import Test

_DONE = {"start": "started", "wait": "waited", "stop": "stopped", "clean": "cleaned"}

Collect = Literal["always", "on_failure", "never"]


class ServiceError(LabError):
    """A service could not be started, ended by itself, or needs nodes that the test has not asked for."""


@dataclass(frozen=True, slots=True)
class Log:
    """A log of a service, on each of its nodes.

    :param path: a file or folder; relative to the folder of the case on the node.
    :param collect: ``always``, ``on_failure`` or ``never``; :meth:`Service.mark_for_collect` makes it always.
    """

    path: str
    collect: Collect = "on_failure"


class Service:
    """Processes on one or more nodes. Override what is done on each node.

    ::

        class Sender(Service):
            logs = {"sender.log": Log("sender.log", collect="always")}

            async def start_node(self, node: Node) -> None:
                await node.account.start(["python3", "sender.py"], name="sender")

            async def wait_node(self, node: Node) -> None:
                await node.account.wait("sender")

    A service that has a `wait_node` may end by itself; the end of any other fails the case at once.

    :cvar logs: what to collect, by its name in the results.
    :cvar parallel: whether nodes are started and stopped at the same time, or one after the other.
    :cvar stop_timeout: seconds that its processes have to end after SIGTERM.
    :ivar id: its class, and its number among the services of that class in the case: ``Sender-1``.
    :ivar nodes: its nodes; empty once it is freed.
    :ivar results: what each node's part of the service found out, by node.
    :ivar stats: likewise, while it runs.
    :param test: the running test.
    :param num_nodes: how many nodes it needs, of those that ``@cluster(num_nodes=...)`` asks for.
    :param labels: labels that its nodes must have.
    :param attributes: become attributes of the service.
    """

    logs: ClassVar[Mapping[str, Log]] = MappingProxyType({})
    parallel: ClassVar[bool] = True
    stop_timeout: ClassVar[float] = 10.0

    def __init__(
        self, test: Test, num_nodes: int = 1, labels: Collection[str] = (), **attributes: Any
    ) -> None:
        self.test = test
        self.results: dict[Node, Any] = {}
        self.stats: dict[Node, Any] = {}
        self._collect = {name: log.collect for name, log in self.logs.items()}
        self._state = "new"
        self._services = services_of(test)
        self.id = ""
        for name, value in attributes.items():
            if hasattr(self, name):
                raise TypeError(f"{type(self).__name__}({name}=...) would replace its {name}")
            setattr(self, name, value)
        self.id = self._services.add(self, num_nodes, frozenset(labels))

    def __repr__(self) -> str:
        return f"<{self.id} on {', '.join(node.name for node in self.nodes) or 'no node'}>"

    # To be overridden

    async def start_node(self, node: Node) -> None:
        """Start the part on one node; returns when it can be used."""
        raise NotImplementedError(f"{type(self).__name__} has no start_node()")

    async def wait_node(self, node: Node) -> None:
        """Wait until the part on one node has ended by itself."""
        raise NotImplementedError(f"{type(self).__name__} has no wait_node(): it does not end by itself")

    async def stop_node(self, node: Node) -> None:
        """Stop the part on one node; by default, all processes that were started with its account."""
        await node.account.stop_all(self.stop_timeout)

    async def clean_node(self, node: Node) -> None:
        """Remove what the part on one node has left outside of the case's folder."""

    # For tests

    @property
    def nodes(self) -> list[Node]:
        """Its nodes; empty once it is freed."""
        return self._services.nodes_of(self)

    def get_node(self, index: int) -> Node:
        """Return a node by its index, from 0."""
        return self.nodes[index]

    def index(self, node: Node) -> int:
        """Return the index of a node, from 0."""
        return self.nodes.index(node)

    @property
    def ends(self) -> bool:
        """Whether it may end by itself: whether it has a `wait_node`."""
        return type(self).wait_node is not Service.wait_node

    async def start(self) -> None:
        """Start it on all its nodes.

        If it fails on one, it is stopped at the end of the case, or with :meth:`stop`.
        """
        if self._state == "running":
            raise ServiceError(f"{self.id} runs already")
        await self._services.write_lists(self)
        self._state = "running"  # from here on it has to be stopped, also if this fails or is cancelled
        await self._step("start", self.start_node)

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended on all its nodes.

        :param timeout: seconds; None for as long as the case may take.
        :raises ServiceError: it has not in time.
        """
        try:
            async with asyncio.timeout(timeout) as scope:
                await self._step("wait", self.wait_node, parallel=True)
        except TimeoutError:
            if not scope.expired():
                raise
            raise ServiceError(f"{self.id} did not end within {timeout:g} s") from None

    async def stop(self) -> None:
        """Stop it on all its nodes, also on those behind one where that fails. Idempotent."""
        if self._state == "running":
            self._state = "stopped"
            await self._step("stop", self.stop_node)

    async def clean(self) -> None:
        """Remove what it has left on all its nodes."""
        await self._step("clean", self.clean_node)

    async def run(self) -> None:
        """Start it, wait until it has ended, and stop it."""
        await self.start()
        try:
            await self.wait()
        finally:
            await self.stop()

    async def bounce(self) -> None:
        """Stop it and start it again, on the same nodes."""
        await self.stop()
        await self.start()

    async def free(self) -> None:
        """Stop it, collect its logs, clean up, and give its nodes back to the test."""
        await self._services.end(self)

    def mark_for_collect(self, *names: str) -> None:
        """Collect logs whatever the outcome.

        :param names: which ones; all by default.
        """
        for name in names or self.logs:
            if name not in self.logs:
                raise ValueError(f"{self.id} has no log {name!r}; it has {', '.join(self.logs) or 'none'}")
            self._collect[name] = "always"

    async def __aenter__(self) -> "Service":
        await self.start()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._services.failed = True
        try:
            await self.free()
        except Exception as problem:
            if error is None:
                raise
            error.add_note(f"then {problem}")

    # For the end of the case

    def entries(self) -> list[LogEntry]:
        """Return the logs to collect."""
        return [
            LogEntry(service=self.id, name=name, path=log.path, collect=self._collect[name])
            for name, log in self.logs.items()
        ]

    async def _step(
        self, what: str, function: Callable[[Node], Awaitable[None]], *, parallel: bool | None = None
    ) -> None:
        """Do something on all nodes; an error on one does not keep it from being done on the others."""
        if not self._services.has(self):
            raise ServiceError(f"{self.id} is freed")
        self._services.changed(self, what, None)
        parallel = self.parallel if parallel is None else parallel
        tasks: list[asyncio.Task[None]] = []
        errors: list[tuple[Node, Exception]] = []
        try:
            for node in self.nodes:
                tasks.append(asyncio.ensure_future(function(node)))
                if not parallel:
                    await asyncio.wait(tasks)
                    if what == "start" and _error_of(tasks[-1]) is not None:
                        break
            if tasks:
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            await cancel_all(*tasks)
            raise
        for node, task in zip(self.nodes, tasks, strict=False):
            if (error := _error_of(task)) is not None:
                errors.append((node, error))
        if errors:
            node, first = errors[0]
            others = "".join(f"\nalso on {one.name}: {_line(error)}" for one, error in errors[1:])
            self._services.changed(self, what, _line(first))
            if others:
                first.add_note(others.strip())
            raise first
        self._services.changed(self, _DONE[what], None)


def _error_of(task: "asyncio.Task[None]") -> Exception | None:
    """Return what a task that is done raised; an exception that ends tests is an error of the service."""
    if task.cancelled():
        return ServiceError("it cancelled its own task")
    error = task.exception()
    if error is None or isinstance(error, Exception):
        return error
    return ServiceError(f"it raised {type(error).__name__}: {error}")


def _line(error: BaseException) -> str:
    text = str(error)
    return text.splitlines()[0] if text else type(error).__name__


class CaseServices:
    """The nodes of a case, and the services that its test has made.

    :param addresses: the case's nodes.
    :param mark: unique to the case.
    :param folder: the attempt's folder, for logs.
    :param on_change: called with a service's id, what it does, its nodes, and what went wrong.
    :param on_failure: called with what makes the case an error at once.
    :param on_fault: called with what a fault on nodes is, and whether it is in effect from now on.
    """

    def __init__(
        self,
        addresses: Iterable[NodeAddress],
        mark: str,
        folder: Path,
        on_change: Callable[[str, str, list[str], str], None],
        on_failure: Callable[[LabError], None],
        on_fault: Callable[[str, bool], None],
    ) -> None:
        self.failed = False
        self._folder, self._on_change, self._on_failure = folder, on_change, on_failure
        self._faults = Faults(on_fault)
        self._nodes = [
            Node(
                one, Account(one, case_folder(one, mark), mark, partial(self._ended, one.name)), self._faults
            )
            for one in addresses
        ]
        self._free = list(self._nodes)
        self._services: dict[Service, list[Node]] = {}
        self._numbers: dict[str, int] = {}
        self._used: set[str] = set()

    @property
    def unused(self) -> list[str]:
        """The names of the nodes that no service has used."""
        return [node.name for node in self._nodes if node.name not in self._used]

    def _ended(self, name: str, message: str) -> None:
        of = [one.id for one, nodes in self._services.items() if any(node.name == name for node in nodes)]
        self._on_failure(ServiceError(": ".join([*of, message])))

    def add(self, service: Service, num_nodes: int, labels: frozenset[str]) -> str:
        """Give nodes to a service and return its id.

        :raises ServiceError: the test has not asked for as many nodes.
        """
        kind = type(service).__name__
        fitting = [node for node in self._free if labels <= node.labels]
        # Those with labels of their own are for services that ask for them.
        fitting.sort(key=lambda node: len(node.labels))
        if num_nodes > len(fitting):
            which = f" with {', '.join(sorted(labels))}" if labels else ""
            asked = f"{len(fitting)} of the {len(self._nodes)} that the test asked for are free"
            hint = "@cluster(num_nodes=...) says how many a test needs"
            raise ServiceError(f"{kind} needs {num_nodes} nodes{which}, and {asked}: {hint}")
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        taken = fitting[:num_nodes]
        self._free = [node for node in self._free if node not in taken]
        self._services[service] = taken
        for node in taken:
            self._used.add(node.name)
            node.account.ends = service.ends
        return f"{kind}-{number}"

    def has(self, service: Service) -> bool:
        """Return whether a service has not been freed."""
        return service in self._services

    def nodes_of(self, service: Service) -> list[Node]:
        """Return the nodes of a service."""
        return self._services.get(service, [])

    def changed(self, service: Service, what: str, problem: str | None) -> None:
        """Note what a service does."""
        nodes = [node.name for node in self.nodes_of(service)]
        self._on_change(service.id, what, nodes, problem or "")

    async def write_lists(self, service: Service) -> None:
        """Write down on its nodes which logs a service has."""
        if service.logs:
            nodes, entries = self.nodes_of(service), service.entries()
            await asyncio.gather(*(note_logs(node.account, service.id, entries) for node in nodes))

    async def end(self, service: Service) -> None:
        """Stop a service, collect its logs, clean up, free its nodes; each even if one before fails.

        :raises Exception: the first thing that went wrong.
        """
        if not self.has(service):
            return
        first: Exception | None = None
        for step in (service.stop, lambda: self._collect(service), service.clean):
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - code of a test file
                first, self.failed = first or error, True
        self._free += self._services.pop(service)
        if first is not None:
            raise first

    async def _collect(self, service: Service) -> None:
        entries = service.entries()

        async def from_node(node: Node) -> list[str]:
            target = self._folder / "services" / service.id / node.name
            return await collect(node.account, entries, target, failed=self.failed)

        if entries:
            nodes = self.nodes_of(service)
            found = await asyncio.gather(*map(from_node, nodes), return_exceptions=True)
            for node, notes in zip(nodes, found, strict=True):
                for note in [_line(notes)] if isinstance(notes, BaseException) else notes:
                    self._on_change(service.id, "collect", [node.name], note)
            for notes in found:
                if isinstance(notes, BaseException):
                    raise notes

    async def close(self) -> list[Exception]:
        """Heal the nodes, end all services, the last one first, and close the connections.

        :return: what went wrong.
        """
        errors: list[Exception] = []
        try:
            errors += await self._faults.close()
            for service in reversed(list(self._services)):
                try:
                    await self.end(service)
                except Exception as error:  # noqa: BLE001 - code of a test file
                    errors.append(error)
        finally:
            await run_to_completion(self._close_accounts())
        return errors

    async def _close_accounts(self) -> None:
        await asyncio.gather(*(node.account.close() for node in self._nodes), return_exceptions=True)


def services_of(test: Test) -> CaseServices:
    """Return the services of a running test."""
    services: CaseServices = test._bound.services
    return services
