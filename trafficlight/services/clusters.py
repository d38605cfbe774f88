"""Clusters: where nodes come from, which of them are free, and what happens to them after a case."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import tempfile
import textwrap
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
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
# Seconds for a command that prints a list.
_COMMAND = 60.0
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
            await connection.close()  # what did not end would take its channels
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


@asynccontextmanager
async def open_cluster(
    setting: str, command: str, containers: Callable[[str], contextlib.AbstractAsyncContextManager[Cluster]]
) -> AsyncIterator[Cluster]:
    """Give the cluster that the settings name.

    :param setting: the setting ``CLUSTER``.
    :param command: a command that prints a list of nodes; goes before `setting`.
    :param containers: makes a cluster of containers of an image.
    :raises ConfigError: it names nothing usable.
    """
    kind, _, rest = setting.partition(":")
    async with AsyncExitStack() as stack:
        if command:
            printed = await _printed(["/bin/sh", "-c", command], "CLUSTER_COMMAND")
            cluster = Cluster(_nodes(printed, "the output of CLUSTER_COMMAND", None))
        elif setting == "local":
            cluster = Cluster(make=_LocalNodes().node)
        elif kind == "docker" and rest:
            cluster = await stack.enter_async_context(containers(rest))
        elif kind == "ssh" and rest:
            cluster = Cluster(_nodes(json.dumps(rest.split(",")), "CLUSTER"))
        elif kind == "vagrant":
            text = await _printed(["vagrant", "ssh-config"], "CLUSTER", Path(rest or "."))
            config = await stack.enter_async_context(_file(_without_host_keys(text)))
            cluster = Cluster(_nodes(json.dumps(_hosts(text)), "vagrant ssh-config", config=config))
        else:
            cluster = Cluster(_nodes(await _read(setting), setting))
        stack.push_async_callback(cluster.close)
        yield cluster


async def _read(setting: str) -> str:
    try:
        return await asyncio.to_thread(read_user_file, Path(setting))
    except OSError as error:
        problem = (
            f"{setting!r} is neither local, docker:IMAGE, ssh:NAMES, vagrant, nor a file that can be read"
        )
        raise ConfigError(f"{problem}: {error.strerror or error}", key="CLUSTER") from None


async def _printed(command: Sequence[str], key: str, directory: Path | None = None) -> str:
    """Return what a command prints to stdout."""
    shown = repr(textwrap.shorten(" ".join(command).removeprefix("/bin/sh -c "), 80, placeholder=" ..."))
    try:
        async with asyncio.timeout(_COMMAND):
            lines = await run_tool(key, command, directory=directory, errors_apart=True)
    except TimeoutError:
        raise ConfigError(f"{shown} did not end within {_COMMAND:g} s", key=key) from None
    except DeployError as error:
        last = " ".join(error.log.split("\n")[-3:]).strip()
        problem = error.message.removeprefix(f"{key}: ")
        raise ConfigError(
            f"{problem}: {last}" if last and last not in problem else problem, key=key
        ) from None
    if not "".join(lines).strip():
        raise ConfigError(f"{shown} printed nothing", key=key)
    return "\n".join(lines)


def _nodes(
    text: str, source: str, key: str | None = "CLUSTER", config: Path | None = None
) -> list[NodeAddress]:
    try:
        listed = _LIST.validate_python(yaml.safe_load(text))  # JSON is YAML
    except ValidationError as error:
        where, problem = first_problem(error)
        raise ConfigError(f"{where and f'node {where}: '}{problem}", key=key, source=source) from None
    except yaml.YAMLError as error:
        # Not the whole error: it quotes the line, which may have a password.
        problem = f"line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else "no list"
        raise ConfigError(f"is neither JSON nor YAML: {problem}", key=key, source=source) from None
    nodes = [one.node(config) for one in listed]
    names = [node.name for node in nodes]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"names the node {double} twice", key=key, source=source)
    if not nodes:
        raise ConfigError("names no node", key=key, source=source)
    return nodes


def _hosts(text: str) -> list[dict[str, str]]:
    """Return the machines in what ``vagrant ssh-config`` prints, with the addresses that they have."""
    blocks = re.split(r"^(?=Host )", text, flags=re.MULTILINE)
    pairs = [
        (re.match(r"Host (\S+)", one), re.search(r"^\s+HostName (\S+)", one, re.MULTILINE)) for one in blocks
    ]
    return [{"host": host[1], "address": name[1] if name else ""} for host, name in pairs if host]


def _without_host_keys(text: str) -> str:
    """Return an ``ssh_config`` in which asyncssh, too, finds that host keys are not checked."""
    if "StrictHostKeyChecking no" not in text:
        return text
    return re.sub(r"^(\s+UserKnownHostsFile) .*", r"\1 none", text, flags=re.MULTILINE)


@asynccontextmanager
async def _file(content: str) -> AsyncIterator[Path]:
    """Give a file that only this user can read."""

    def write() -> Path:
        descriptor, path = tempfile.mkstemp(prefix="trafficlight-ssh-")
        with open(descriptor, "w") as file:
            file.write(content + "\n")
        return Path(path)

    path = await asyncio.to_thread(write)
    try:
        yield path
    finally:
        await run_to_completion(asyncio.to_thread(path.unlink, missing_ok=True))


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
