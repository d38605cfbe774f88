"""Homeservers started ahead of the cases that will use them."""

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.server import LocalServer
from trafficlight.homeservers.provider import SERVER_BYTES, available_bytes

logger = logging.getLogger(__name__)

_RESERVE_BYTES = 512 * 2**20
_MOST = 4

Kind: TypeAlias = tuple[str, str]
"""A recipe's name and an exact version."""


def default_warm() -> int:
    """Return how many homeservers to start ahead: one for each core, as far as memory allows."""
    return max(0, min(_MOST, os.cpu_count() or 1, (available_bytes() - _RESERVE_BYTES) // (2 * SERVER_BYTES)))


def has_memory() -> bool:
    """Return whether there is memory for one more homeserver that no case has requested yet."""
    return available_bytes() > _RESERVE_BYTES + SERVER_BYTES


class WarmPool:
    """Keeps up to `size` homeservers ready, of the kinds that cases use.

    It starts one at a time, so that it takes at most one core from the cases. Taken ones are never returned.

    :param size: how many, over all kinds; 0 turns the pool off.
    :param start: starts one of a kind and returns when it is ready.
    :param has_room: whether the machine has room for one more.
    """

    def __init__(
        self,
        size: int,
        start: Callable[[Kind], Awaitable[LocalServer]],
        has_room: Callable[[], bool] = has_memory,
    ) -> None:
        self.size = size
        self._start = start
        self._has_room = has_room
        self._kinds: list[Kind] = []  # most recently used first
        self._broken: set[Kind] = set()
        self._ready: dict[Kind, deque[LocalServer]] = {}
        self._changed = asyncio.Event()
        self._filled = asyncio.Event()
        self._filler: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def ready(self) -> int:
        """How many homeservers can be taken."""
        return sum(len(servers) for servers in self._ready.values())

    def want(self, kinds: Iterable[Kind]) -> None:
        """Start filling the pool with the kinds that cases will use."""
        self._kinds.extend(kind for kind in dict.fromkeys(kinds) if kind not in self._kinds)
        self._refill()

    def take(self, kind: Kind) -> LocalServer | None:
        """Return a homeserver that is ready, now the caller's; None if there is none."""
        if kind in self._kinds:
            self._kinds.remove(kind)
        self._kinds.insert(0, kind)
        self._broken.discard(kind)
        servers = self._ready.get(kind, deque())
        server = next((server for server in servers if server.exited is None), None)
        if server is not None:
            servers.remove(server)
        self._refill()
        return server

    async def filled(self) -> None:
        """Wait until there is nothing left to start."""
        await self._filled.wait()

    async def close(self) -> None:
        """Stop filling the pool and destroy its homeservers. Idempotent."""
        self._closed = True
        if self._filler is not None:
            self._filler.cancel()
            await asyncio.wait([self._filler])
        for servers in self._ready.values():
            while servers:
                await servers.popleft().destroy()

    def _refill(self) -> None:
        if self.size <= 0 or self._closed:
            self._filled.set()
            return
        self._filled.clear()
        self._changed.set()
        if self._filler is None:
            self._filler = asyncio.create_task(self._fill(), name="warm homeservers")

    async def _fill(self) -> None:
        while True:
            self._changed.clear()
            await self._destroy_surplus()
            kind = self._missing()
            if kind is None or not self._has_room():
                self._filled.set()
                await self._changed.wait()
                continue
            try:
                self._ready.setdefault(kind, deque()).append(await self._start(kind))
            except DeployError as error:
                self._broken.add(kind)  # until a case requests it and reports the error
                logger.warning("cannot start a homeserver ahead: %s", error)
            except Exception:
                self._broken.add(kind)
                logger.exception("cannot start a homeserver ahead")

    def _goal(self) -> Counter[Kind]:
        """Return how many of each kind there should be: an even share, rounded up for the latest used."""
        kinds = [kind for kind in self._kinds if kind not in self._broken]
        return Counter(kinds[number % len(kinds)] for number in range(self.size)) if kinds else Counter()

    def _missing(self) -> Kind | None:
        return next(
            (kind for kind, goal in self._goal().items() if len(self._ready.get(kind, ())) < goal), None
        )

    async def _destroy_surplus(self) -> None:
        """Destroy homeservers that exited, and those of a kind that exceed its share."""
        goal = self._goal()
        for kind, servers in self._ready.items():
            for server in [server for server in servers if server.exited is not None]:
                logger.warning("a homeserver that was started ahead exited: %s", server.exited)
                servers.remove(server)
                await server.destroy()
            while len(servers) > goal[kind]:
                await servers.popleft().destroy()
