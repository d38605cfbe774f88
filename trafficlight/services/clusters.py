"""Clusters: where nodes come from, which of them are free, and what happens to them after a case."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from trafficlight.errors import ConfigError, DeployError
from trafficlight.parameters import NodeRequest
from trafficlight.processes import run_to_completion, run_tool
from trafficlight.services.connections import (
    Connection,
    Login,
    NodeAddress,
    NodeError,
    connect,
    script_of,
)
from trafficlight.services.node import Guard
from trafficlight.text import first_problem, read_user_file

logger = logging.getLogger(__name__)

# Seconds for a health check, and between two of a node that failed its last one: at first, and at most.
_CHECK, _SOON, _AGAIN = 20.0, 1.0, 20.0
# Ports that each node of this machine has.
_PORTS = 10


class ListedNode(Login):
    """A node in a list: a name of ``ssh_config``, or an object.

    :ivar name: unique in the list; by default the host.
    :ivar host: the host name or address to log in to.
    :ivar address: under which other nodes reach it; by default the host.
    :ivar labels: what tests ask for with ``@cluster(labels=...)``.
    :ivar os: its operating system.
    :ivar folder: where the folders of cases are made.
    """

    host: str = Field(min_length=1)
    name: str = ""
    address: str = ""
    labels: frozenset[str] = frozenset()
    os: str = "linux"
    folder: str = "/tmp"  # noqa: S108 - each case makes a folder of its own in it

    def node(self, config: Path | None = None) -> NodeAddress:
        """Return it as an address.

        :param config: an ``ssh_config`` in place of the user's.
        """
        login = self.model_dump(include=set(Login.model_fields))
        return NodeAddress(
            name=self.name or self.host,
            host=self.address or self.host,
            ssh=Login(**{**login, "config": config or self.config}),
            labels=self.labels,
            os=self.os,
            folder=self.folder,
        )


def _as_node(value: Any) -> Any:
    return {"host": value} if isinstance(value, str) else value


_LIST: TypeAdapter[list[ListedNode]] = TypeAdapter(list[Annotated[ListedNode, BeforeValidator(_as_node)]])


class Cluster:
    """The nodes that cases may use.

    :param nodes: the nodes, if the cluster has certain ones; None if it makes as many as are asked for.
    :param make: returns a new node, which is removed at the end of the block; for clusters that make them.
    """

    def __init__(
        self,
        nodes: Iterable[NodeAddress] | None = None,
        make: Callable[[int], contextlib.AbstractAsyncContextManager[NodeAddress]] | None = None,
    ) -> None:
        self._nodes = None if nodes is None else {node.name: node for node in nodes}
        self._make = make
        # Those to certain nodes, for health checks and guards; each is opened by its first use.
        self._connections = {node.name: connect(node) for node in self._nodes.values()} if self._nodes else {}
        self._leased: set[str] = set()
        self._healthy: set[str] = set()
        self._dirty: dict[str, set[str]] = {}
        self._set_aside: dict[str, str] = {}
        self._numbers = 0
        self._changed = asyncio.Event()

    @property
    def limited(self) -> bool:
        """Whether it has certain nodes and makes no others."""
        return self._nodes is not None

    @property
    def free(self) -> list[NodeAddress]:
        """The nodes that passed their last health check and that no case uses."""
        return [one for name, one in (self._nodes or {}).items() if name in self._healthy - self._leased]

    @property
    def busy(self) -> list[NodeAddress]:
        """The nodes that will be free later: those of a case, and those that have not been checked yet."""
        return [
            one
            for name, one in (self._nodes or {}).items()
            if name in self._leased or not (name in self._healthy or name in self._set_aside)
        ]

    @property
    def set_aside(self) -> list[tuple[NodeAddress, str]]:
        """The nodes that failed their last health check, and why."""
        return [((self._nodes or {})[name], why) for name, why in self._set_aside.items()]

    def take(self, names: Iterable[str]) -> None:
        """Take free nodes for a case, which leases them later."""
        self._leased.update(names)

    def give_back(self, names: Iterable[str]) -> None:
        """Give back the nodes of a case, when it has ended."""
        if names := set(names):
            self._leased -= names
            self._changed.set()

    def unsupported(self, request: NodeRequest) -> str | None:
        """Return why a request can never be met; None if it can."""
        if self._nodes is None:
            plain = NodeRequest(request.num_nodes)
            return None if request == plain else f"needs {request}; the cluster makes plain linux nodes"
        fitting = sum(map(request.fits, self._nodes.values()))
        if fitting >= request.num_nodes:
            return None
        return f"needs {request}; the cluster has {fitting} of {len(self._nodes)} such nodes"

    @asynccontextmanager
    async def lease(
        self, request: NodeRequest, names: Sequence[str], mark: str, logs: Path
    ) -> AsyncIterator[list[NodeAddress]]:
        """Hand out nodes to a case; what the case leaves on them is removed at the end of the block.

        :param names: the nodes that the scheduler chose; empty if the cluster makes them.
        :param mark: unique to the case.
        :param logs: the folder for logs which the case itself has not collected.
        """
        async with AsyncExitStack() as stack:
            if self._nodes is not None:
                nodes = [self._nodes[name] for name in names]
            else:
                assert self._make is not None
                first, self._numbers = self._numbers + 1, self._numbers + request.num_nodes
                made = [self._make(number) for number in range(first, first + request.num_nodes)]
                try:
                    nodes = await _enter_all(stack, made)
                except* DeployError as errors:
                    raise errors.exceptions[0] from None
            guards = [Guard(node, mark, self._connection(node)) for node in nodes]
            try:
                started = await asyncio.gather(*(one.start() for one in guards), return_exceptions=True)
                if (problem := next(filter(None, started), None)) is not None:
                    raise problem
                yield nodes
            finally:
                await run_to_completion(self._take_back(guards, logs))

    def _connection(self, node: NodeAddress) -> Connection:
        return self._connections.get(node.name) or connect(node)

    async def _take_back(self, guards: Sequence[Guard], logs: Path) -> None:
        found = await asyncio.gather(*(one.end(logs) for one in guards), return_exceptions=True)
        for guard, result in zip(guards, found, strict=True):
            if not result:
                continue
            logger.warning("%s", repr(result) if isinstance(result, BaseException) else result)
            if (name := guard.address.name) in self._connections:
                self._dirty.setdefault(name, set()).add(guard.mark)
                self._healthy.discard(name)
                self._changed.set()

    async def close(self) -> None:
        """Close the connections to its nodes, when all cases have ended."""
        await asyncio.gather(*(one.close() for one in self._connections.values()))

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Check the nodes until cancelled: at first all of them, then those that failed.

        :param on_change: called when a node can be used from now on, or no longer.
        """
        pause = _SOON
        while self._nodes is not None:
            self._changed.clear()
            waiting = [one for name, one in self._nodes.items() if name not in self._healthy | self._leased]

            async def check(node: NodeAddress) -> None:
                await self._check(node)
                on_change()

            await asyncio.gather(*map(check, waiting))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause if self._set_aside else None)
            pause = min(2 * pause, _AGAIN) if self._set_aside else _SOON

    async def _check(self, node: NodeAddress) -> None:
        connection, folder = self._connection(node), script_of([node.folder])
        try:
            async with asyncio.timeout(_CHECK):
                command = await connection.open(f"[ -w {folder} ]")
                if await command.wait() != 0:
                    raise NodeError(f"node {node.name}: cannot write to {node.folder}")
            for mark in list(self._dirty.get(node.name, ())):
                if problem := await Guard(node, mark, connection).end():
                    raise NodeError(problem)
                self._dirty[node.name].discard(mark)
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this node only
            if isinstance(error, TimeoutError):
                problem = f"node {node.name}: no answer within {_CHECK:g} s"
            else:
                known = isinstance(error, NodeError)
                problem = " ".join(str(error).split("\n")) if known else f"node {node.name}: {error!r}"
            if self._set_aside.get(node.name) != problem:
                logger.warning("%s; it is set aside, and tried again at most %.0f s later", problem, _AGAIN)
            self._set_aside[node.name] = problem
        else:
            self._set_aside.pop(node.name, None)
            self._healthy.add(node.name)


async def _enter_all(
    stack: AsyncExitStack, made: Sequence[contextlib.AbstractAsyncContextManager[NodeAddress]]
) -> list[NodeAddress]:
    """Enter context managers at the same time; whatever happens, the stack leaves those that were entered."""

    async def enter(one: contextlib.AbstractAsyncContextManager[NodeAddress]) -> NodeAddress:
        node = await one.__aenter__()
        stack.push_async_exit(one)
        return node

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(enter(one)) for one in made]
    return [task.result() for task in tasks]


async def open_cluster(setting: str, command: str, engine: str | None) -> Cluster:
    """Return the cluster that the settings name.

    :param setting: the setting ``CLUSTER``.
    :param command: a command that prints such a list; goes before `setting`.
    :param engine: the URL of the Docker engine; None for Docker's own default.
    :raises ConfigError: it names nothing usable.
    """
    if command:
        try:
            lines = await run_tool("CLUSTER_COMMAND", ["/bin/sh", "-c", command])
        except DeployError as error:
            raise ConfigError(str(error), key="CLUSTER_COMMAND") from None
        return Cluster(_nodes("\n".join(lines), "CLUSTER_COMMAND"))
    kind, _, rest = setting.partition(":")
    if setting == "local":
        return Cluster(make=_LocalNodes().node)
    if kind == "docker" and rest:
        return Cluster(make=lambda number: _container(number, rest, engine))
    if kind == "ssh" and rest:
        return Cluster(_nodes(json.dumps(rest.split(",")), "CLUSTER"))
    if kind == "vagrant":
        return await _vagrant(Path(rest or "."))
    try:
        text = await asyncio.to_thread(read_user_file, Path(setting))
    except OSError as error:
        problem = (
            f"{setting!r} is neither local, docker:IMAGE, ssh:NAMES, vagrant, nor a file that can be read"
        )
        raise ConfigError(f"{problem}: {error.strerror or error}", key="CLUSTER") from None
    return Cluster(_nodes(text, setting))


def _nodes(text: str, source: str, config: Path | None = None) -> list[NodeAddress]:
    try:
        listed = _LIST.validate_python(yaml.safe_load(text))  # JSON is YAML
    except ValidationError as error:
        where, problem = first_problem(error)
        raise ConfigError(f"{where and f'node {where}: '}{problem}", key="CLUSTER", source=source) from None
    except yaml.YAMLError as error:
        # Not the whole error: it quotes the line, which may have a password.
        problem = f"line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else "no list"
        raise ConfigError(f"is neither JSON nor YAML: {problem}", key="CLUSTER", source=source) from None
    nodes = [one.node(config) for one in listed]
    names = [node.name for node in nodes]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"names the node {double} twice", key="CLUSTER", source=source)
    if not nodes:
        raise ConfigError("names no node", key="CLUSTER", source=source)
    return nodes


async def _vagrant(folder: Path) -> Cluster:
    """Return the running machines of a Vagrantfile."""
    try:
        lines = await run_tool("vagrant ssh-config", ["vagrant", "ssh-config"], directory=folder)
    except DeployError as error:
        raise ConfigError(str(error), key="CLUSTER", source="vagrant") from None

    def write() -> Path:
        descriptor, path = tempfile.mkstemp(prefix="trafficlight-ssh-")
        with open(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")
        return Path(path)

    names = re.findall(r"^Host (\S+)$", "\n".join(lines), re.MULTILINE)
    config = await asyncio.to_thread(write)
    return Cluster(_nodes(json.dumps(names), "vagrant ssh-config", config))


class _LocalNodes:
    """Nodes that are folders and free ports of this machine."""

    def __init__(self) -> None:
        self._ports: set[int] = set()

    @asynccontextmanager
    async def node(self, number: int) -> AsyncIterator[NodeAddress]:
        """Make a node."""
        ports = self._free_ports()
        try:
            yield NodeAddress(name=f"local-{number}", folder=tempfile.gettempdir(), ports=ports)
        finally:
            self._ports.difference_update(ports)

    def _free_ports(self) -> tuple[int, ...]:
        """Return ports that nothing listens on, and that no other node has."""
        with contextlib.ExitStack() as stack:
            found: list[int] = []
            while len(found) < _PORTS:
                one = stack.enter_context(socket.socket())
                one.bind(("127.0.0.1", 0))
                if (port := one.getsockname()[1]) not in self._ports:
                    found.append(port)
        self._ports.update(found)
        return tuple(found)


@asynccontextmanager
async def _container(number: int, image: str, engine: str | None) -> AsyncIterator[NodeAddress]:
    """Make a container that is a node."""
    docker = ["docker", *(["-H", engine] if engine else [])]
    name = f"trafficlight-node-{token_hex(4)}-{number}"
    remove = [*docker, "rm", "-f", name]
    run = [*docker, "run", "-d", "--rm", "--init", "--name", name, "--cap-add", "NET_ADMIN"]
    try:
        await run_tool(f"node {name}", [*run, "--entrypoint", "sleep", image, "infinity"])
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        lines = await run_tool(f"node {name}", [*docker, "inspect", "-f", form, name])
        prefix = (*docker, "exec", "-i", name)
        address = next(iter(lines[-1].split()), "") if lines else ""
        if not address:
            raise DeployError(f"node {name}: the container has no address")
        yield NodeAddress(name=f"docker-{number}", host=address, prefix=prefix)
    finally:
        with contextlib.suppress(DeployError):
            await run_to_completion(run_tool(f"remove {name}", remove))
