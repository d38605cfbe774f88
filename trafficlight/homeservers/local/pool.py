"""Homeservers started ahead, so that a case takes one that answers already."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from trafficlight.errors import DeployError

logger = logging.getLogger(__name__)


class Warmed(Protocol):
    """What the pool needs to know about a homeserver."""

    @property
    def exited(self) -> str | None:
        """Why it runs no more; None while it runs."""
        ...

    async def destroy(self) -> None:
        """End it and remove its data."""
        ...


K = TypeVar("K", bound=Hashable)
S = TypeVar("S", bound=Warmed)


class WarmPool(Generic[K, S]):
    """Keeps up to `size` homeservers ready, of the kinds that are asked for.

    One is started at a time, so that filling up takes at most one processor from the cases. Whoever takes a
    homeserver owns it: none ever comes back.

    :param size: how many, over all kinds; 0 turns the pool off.
    :param start: starts one of a kind and returns when it answers.
    :param has_room: whether the machine can carry one more now.
    """

    def __init__(
        self, size: int, start: Callable[[K], Awaitable[S]], has_room: Callable[[], bool] = lambda: True
    ) -> None:
        self.size = size
        self._start = start
        self._has_room = has_room
        self._kinds: list[K] = []  # the one taken last comes first
        self._broken: set[K] = set()
        self._ready: dict[K, deque[S]] = {}
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._filler: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def ready(self) -> int:
        """How many homeservers wait to be taken."""
        return sum(len(servers) for servers in self._ready.values())

    def want(self, kinds: Iterable[K]) -> None:
        """Say which kinds cases are going to ask for; filling up begins."""
        self._kinds.extend(kind for kind in dict.fromkeys(kinds) if kind not in self._kinds)
        self._refill()

    def take(self, kind: K) -> S | None:
        """Return a homeserver that answers, or None when there is no such one now."""
        if kind in self._kinds:
            self._kinds.remove(kind)
        self._kinds.insert(0, kind)
        self._broken.discard(kind)
        servers = self._ready.get(kind, deque())
        # One that died meanwhile stays in place for the filler to clear away.
        server = next((server for server in servers if server.exited is None), None)
        if server is not None:
            servers.remove(server)
        self._refill()
        return server

    async def settled(self) -> None:
        """Return when there is nothing left to start."""
        await self._settled.wait()

    async def close(self) -> None:
        """Stop filling up and destroy what nobody took. Idempotent."""
        self._closed = True
        if self._filler is not None:
            self._filler.cancel()
            await asyncio.wait([self._filler])
        for servers in self._ready.values():
            while servers:
                await servers.popleft().destroy()

    def _refill(self) -> None:
        if self.size <= 0 or self._closed:
            self._settled.set()
            return
        self._settled.clear()
        self._changed.set()
        if self._filler is None:
            self._filler = asyncio.create_task(self._fill(), name="warm homeservers")

    async def _fill(self) -> None:
        while True:
            self._changed.clear()
            await self._clear_away()
            kind = self._missing()
            if kind is None or not self._has_room():
                self._settled.set()
                await self._changed.wait()
                continue
            try:
                self._ready.setdefault(kind, deque()).append(await self._start(kind))
            except DeployError as error:
                self._broken.add(kind)  # until a case asks again, which will show the error
                logger.warning("no homeserver could be started ahead: %s", error)
            except Exception:
                self._broken.add(kind)
                logger.exception("no homeserver could be started ahead")

    def _goal(self) -> Counter[K]:
        """Return how many of each kind there should be: shared out evenly, what is in demand first."""
        kinds = [kind for kind in self._kinds if kind not in self._broken]
        return Counter(kinds[number % len(kinds)] for number in range(self.size)) if kinds else Counter()

    def _missing(self) -> K | None:
        return next(
            (kind for kind, goal in self._goal().items() if len(self._ready.get(kind, ())) < goal), None
        )

    async def _clear_away(self) -> None:
        """Destroy what died, and what takes the place of a kind that is in demand."""
        goal = self._goal()
        for kind, servers in self._ready.items():
            for server in [server for server in servers if server.exited is not None]:
                logger.warning("a homeserver that was started ahead died: %s", server.exited)
                servers.remove(server)
                await server.destroy()
            while len(servers) > goal[kind]:
                await servers.popleft().destroy()
