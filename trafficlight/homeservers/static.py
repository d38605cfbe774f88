"""Homeservers that run already, each leased to one case at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import aiohttp
from pydantic import ValidationError
from yarl import URL

from trafficlight.config import StaticServer
from trafficlight.errors import ConfigError, DeployError, UnsupportedError
from trafficlight.homeservers.probe import check_versions, title_of
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.server_types import HomeServerSpec
from trafficlight.text import in_plain_words

_KEY = "SERVER_OVERRIDES"
_FORMS = "an object with server_name and cs_api, a list of them, or a list of such lists"
_Set: TypeAlias = tuple[StaticServer, ...]


@dataclass(frozen=True, slots=True)
class LeasedServer:
    """A homeserver that runs already, leased to one case."""

    role: str
    server_name: str
    cs_api: str
    version: str
    exited: None = None  # nothing here observes its exit
    image: str = ""
    federation: None = None

    async def operate(self, operation: str, config: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Refuse.

        :raises UnsupportedError: always.
        """
        raise UnsupportedError(
            f"cannot {operation} {self.server_name}: {_KEY} names homeservers that the lab does not control"
        )


class StaticProvider:
    """Leases the homeservers of ``SERVER_OVERRIDES``, which keep the users and rooms of earlier cases.

    :raises ConfigError: an entry is wrong; names its key.
    """

    name = "static"

    def __init__(self, overrides: Mapping[str, Any]) -> None:
        self._pools = {
            type_name: StaticServerPool(type_name, sets)
            for type_name, sets in parse_overrides(overrides).items()
        }
        self._titles: dict[str, str] = {}

    @property
    def capacities(self) -> Mapping[str, int]:
        """How many homeservers of each server type cases can lease at once."""
        return {type_name: pool.capacity for type_name, pool in self._pools.items()}

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return that a server type has no entry; None if it has one."""
        if spec.type_name in self._pools:
            return None
        recipe = f" ({spec.recipe})" if spec.recipe else ""
        return f"{spec.type_name}{recipe}: {_KEY} names no homeserver for it"

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Check that every homeserver of these types is ready.

        :raises DeployError: one is not; names its key.
        """
        types = dict.fromkeys(spec.type_name for spec in specs if spec.type_name in self._pools)
        async with aiohttp.ClientSession() as session:
            checks = [
                self._problem(session, type_name, server)
                for type_name in types
                for server in self._pools[type_name].servers
            ]
            problems = list(filter(None, await asyncio.gather(*checks)))
        if problems:
            raise DeployError("; ".join(problems))

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Lease homeservers that are ready; waits while other cases have them.

        :raises DeployError: one is not ready.
        :raises UnsupportedError: there are fewer than the case needs.
        """
        shares: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            shares.setdefault(request.spec.type_name, []).append(index)
        found: dict[int, StaticServer] = {}
        async with contextlib.AsyncExitStack() as stack:
            for type_name in sorted(shares):  # in one order, so that no two cases wait for each other
                pool = self._pools.get(type_name)
                if pool is None:
                    raise UnsupportedError(f"{type_name}: {_KEY} names no homeserver for it")
                leased = await stack.enter_async_context(pool.lease(len(shares[type_name])))
                found.update(zip(shares[type_name], leased, strict=True))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            yield [
                await self._lease(session, request, found[index]) for index, request in enumerate(requests)
            ]

    async def close(self) -> None:
        """Do nothing: the homeservers are not the lab's."""

    async def _lease(
        self, session: aiohttp.ClientSession, request: ServerRequest, server: StaticServer
    ) -> LeasedServer:
        try:
            version = await self._check(session, request.spec.type_name, server)
        except DeployError as error:
            raise DeployError(f"{request.role}: {error.message}") from error
        line = f"{server.server_name} at {server.cs_api} runs outside the lab, where its log is.\n"
        await asyncio.to_thread(request.log.write_text, line)
        return LeasedServer(request.role, server.server_name, server.cs_api, version)

    async def _problem(self, session: aiohttp.ClientSession, type_name: str, server: StaticServer) -> str:
        """Return why a homeserver is not ready; empty if it is."""
        try:
            await self._check(session, type_name, server)
        except DeployError as error:
            return error.message
        return ""

    async def _check(self, session: aiohttp.ClientSession, type_name: str, server: StaticServer) -> str:
        """Return the name and version of a homeserver that is ready.

        :raises DeployError: it is not ready.
        """
        try:
            await check_versions(session, server.cs_api)
        except DeployError as error:
            raise DeployError(f"{_KEY}.{type_name}: {error.message}") from error
        if server.cs_api not in self._titles:
            name = server.server_name
            federation = f"https://{name}" if ":" in name else f"https://{name}:8448"
            self._titles[server.cs_api] = await title_of(session, server.cs_api, federation)
        return self._titles[server.cs_api]


class StaticServerPool:
    """The sets of one server type, each leased to one case at a time. Waiting cases are served in order.

    :param type_name: the server type.
    :param sets: its sets, all of the same size.
    """

    def __init__(self, type_name: str, sets: Sequence[_Set]) -> None:
        self._type_name = type_name
        self._sets = tuple(sets)
        self._free: asyncio.Queue[_Set] = asyncio.Queue()
        for servers in sets:
            self._free.put_nowait(servers)
        self._turn = asyncio.Lock()

    @property
    def servers(self) -> tuple[StaticServer, ...]:
        """Every homeserver once."""
        return tuple({server.cs_api: server for servers in self._sets for server in servers}.values())

    @property
    def capacity(self) -> int:
        """How many homeservers cases can lease at once."""
        return sum(len(servers) for servers in self._sets)

    @contextlib.asynccontextmanager
    async def lease(self, count: int) -> AsyncIterator[list[StaticServer]]:
        """Lease homeservers exclusively; waits while other cases have them.

        :raises UnsupportedError: there are not that many.
        """
        needed = -(-count // len(self._sets[0]))
        if needed > len(self._sets):
            raise UnsupportedError(
                f"{_KEY}.{self._type_name} names {self.capacity} homeservers, the case needs {count}"
            )
        taken: list[_Set] = []
        try:
            async with self._turn:
                while len(taken) < needed:
                    taken.append(await self._free.get())
            yield [server for servers in taken for server in servers][:count]
        finally:
            for servers in taken:
                self._free.put_nowait(servers)


def parse_overrides(overrides: Mapping[str, Any]) -> dict[str, tuple[_Set, ...]]:
    """Return the sets of homeservers of every server type.

    One object or URL is one set of one homeserver; a list of them is one set; a list of lists is several.

    :raises ConfigError: an entry is none of these; names its key.
    """
    return {type_name: _sets(value, f"{_KEY}.{type_name}") for type_name, value in overrides.items()}


def _sets(value: Any, key: str) -> tuple[_Set, ...]:
    if not isinstance(value, list):
        return ((_server(value, key),),)
    if not value:
        raise ConfigError(f"is empty; write {_FORMS}", key=key)
    if not any(isinstance(item, list) for item in value):
        return (_set(value, key),)
    if not all(isinstance(item, list) and item for item in value):
        raise ConfigError(f"mixes lists with other values; write {_FORMS}", key=key)
    sets = tuple(_set(item, f"{key}[{index}]") for index, item in enumerate(value))
    if len({len(servers) for servers in sets}) > 1:
        raise ConfigError("its sets are of different sizes; each must fill the same roles", key=key)
    return sets


def _set(items: Sequence[Any], key: str) -> _Set:
    return tuple(_server(item, f"{key}[{index}]") for index, item in enumerate(items))


def _server(value: Any, key: str) -> StaticServer:
    if isinstance(value, str):
        value = {"cs_api": value}
    if not isinstance(value, dict):
        raise ConfigError(f"is {value!r}; write {_FORMS}", key=key)
    cs_api = value.get("cs_api")
    if isinstance(cs_api, str):
        value = {"server_name": _name_in(cs_api), **value, "cs_api": cs_api.rstrip("/")}
    try:
        return StaticServer.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A missing server name often follows from an invalid URL.
        first = next((problem for problem in problems if problem["loc"] == ("cs_api",)), problems[0])
        part = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{in_plain_words(first)}; write {_FORMS}", key=f"{key}.{part}") from None


def _name_in(url: str) -> str:
    """Return the host of a URL, with its port if one is written."""
    try:
        parsed = URL(url)
        return f"{parsed.host}:{parsed.explicit_port}" if parsed.explicit_port else parsed.host or ""
    except ValueError:
        return ""
