"""Homeservers that run anyway, lent to one case at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from trafficlight.config import StaticServer
from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.probe import check_versions, title_of
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.homeservers.static_sets import KEY, SetPool, parse_overrides
from trafficlight.server_types import HomeServerSpec


@dataclass(frozen=True, slots=True)
class StaticServerInUse:
    """A homeserver that runs anyway, for one case."""

    role: str
    server_name: str
    cs_api: str
    version: str
    image: str = ""

    @property
    def exited(self) -> str | None:
        """Nothing: nobody here sees it end."""
        return None

    async def operate(self, operation: str) -> None:
        """Refuse: it is not ours.

        :raises UnsupportedError: always.
        """
        raise UnsupportedError(
            f"cannot {operation} {self.server_name}: {KEY} names homeservers that others run"
        )


class StaticProvider:
    """Lends the homeservers of ``SERVER_OVERRIDES``, with the users and rooms that earlier cases left there.

    :param overrides: the setting, as it was read.
    :raises ConfigError: an entry is wrong; names its key.
    """

    name = "static"

    def __init__(self, overrides: Mapping[str, Any]) -> None:
        self._pools = {
            type_name: SetPool(type_name, sets) for type_name, sets in parse_overrides(overrides).items()
        }
        self._titles: dict[str, str] = {}

    @property
    def hosts(self) -> None:
        """None: where they run is not ours to plan, see :attr:`capacities`."""
        return None

    @property
    def capacities(self) -> Mapping[str, int]:
        """How many homeservers of each server type cases can have at once."""
        return {type_name: pool.capacity for type_name, pool in self._pools.items()}

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return that a server type has no entry, or None where it has one."""
        if spec.type_name in self._pools:
            return None
        wanted = f" ({spec.recipe})" if spec.recipe else ""
        return f"{spec.type_name}{wanted}: {KEY} names no homeserver for it"

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Look whether every homeserver that may be lent answers, and what it is.

        :raises DeployError: one does not; names its key.
        """
        types = dict.fromkeys(spec.type_name for spec in specs if spec.type_name in self._pools)
        async with aiohttp.ClientSession() as session:
            checks = [
                self._check(session, type_name, server)
                for type_name in types
                for server in self._pools[type_name].servers
            ]
            problems = [problem for problem in await asyncio.gather(*checks) if problem]
        if problems:
            raise DeployError("; ".join(problems))

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Lend homeservers that answer; waits while other cases have them.

        :raises DeployError: one does not answer.
        :raises UnsupportedError: there are fewer than the case needs.
        """
        shares: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            shares.setdefault(request.spec.type_name, []).append(index)
        found: dict[int, StaticServer] = {}
        async with contextlib.AsyncExitStack() as stack:
            for type_name in sorted(shares):  # in one order for all, so that no two wait for each other
                pool = self._pools.get(type_name)
                if pool is None:
                    raise UnsupportedError(f"{type_name}: {KEY} names no homeserver for it")
                lent = await stack.enter_async_context(pool.lease(len(shares[type_name])))
                found.update(zip(shares[type_name], lent, strict=True))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            yield [
                await self._in_use(session, request, found[index]) for index, request in enumerate(requests)
            ]

    async def close(self) -> None:
        """Do nothing: they run on."""

    async def _in_use(
        self, session: aiohttp.ClientSession, request: ServerRequest, server: StaticServer
    ) -> StaticServerInUse:
        try:
            await check_versions(session, server.cs_api)
        except DeployError as error:
            raise DeployError(f"{request.role}: {KEY}.{request.spec.type_name}: {error.message}") from error
        version = await self._title(session, server)
        await asyncio.to_thread(_tell, request.log, server)
        return StaticServerInUse(request.role, server.server_name, server.cs_api, version)

    async def _check(
        self, session: aiohttp.ClientSession, type_name: str, server: StaticServer
    ) -> str | None:
        try:
            await check_versions(session, server.cs_api)
        except DeployError as error:
            return f"{KEY}.{type_name}: {error.message}"
        await self._title(session, server)
        return None

    async def _title(self, session: aiohttp.ClientSession, server: StaticServer) -> str:
        if server.cs_api not in self._titles:
            name = server.server_name
            federation = f"https://{name}" if ":" in name else f"https://{name}:8448"
            self._titles[server.cs_api] = await title_of(session, server.cs_api, federation)
        return self._titles[server.cs_api]


def _tell(log: Path, server: StaticServer) -> None:
    """Say in the case's log where the homeserver's own is."""
    log.write_text(f"{server.server_name} at {server.cs_api} runs elsewhere, and so does its log.\n")
