"""Homeservers that cases share: they serve many cases, at once and one after the other."""

import asyncio
import contextvars
import logging
import shutil
import tempfile
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from trafficlight.homeservers.local.run_folder import RunFolder
from trafficlight.homeservers.provider import Provider, RunningServer, ServerRequest
from trafficlight.processes import run_to_completion
from trafficlight.server_types import HomeServerSpec
from trafficlight.suites.model import Case

logger = logging.getLogger(__name__)

# Cases after which a homeserver is replaced: its database and its log must not grow without end.
_MOST_CASES = 100
# Cases at once beyond which another homeserver starts if there is room: a Synapse uses one core.
_MOST_AT_ONCE = 8
_PIECE = 1 << 20  # bytes


@dataclass(eq=False, slots=True)
class _Deployment:
    """Homeservers that were deployed together, as many as one case needs, so that they federate.

    :ivar cases: the cases that have had them.
    :ivar users: the cases that have them now.
    :ivar spoiled: whether no other case may have them.
    """

    requests: tuple[ServerRequest, ...]
    ready: "asyncio.Future[list[RunningServer]]"
    task: "asyncio.Task[None] | None" = None
    left: asyncio.Event = field(default_factory=asyncio.Event)
    cases: int = 0
    users: int = 0
    spoiled: bool = False

    @property
    def specs(self) -> list[HomeServerSpec]:
        return [request.spec for request in self.requests]

    @property
    def usable(self) -> bool:
        """Whether another case may have them."""
        if not self.ready.done():
            return not self.spoiled
        broken = self.ready.cancelled() or self.ready.exception() is not None
        return not (self.spoiled or broken or any(one.exited for one in self.ready.result()))


@dataclass(slots=True)
class SharedLease:
    """What a case has of shared homeservers.

    :param servers: in the order of its requests.
    :param logs: the log of each, and the offset in bytes at which the case began.
    :ivar failed: whether the case ended in an unexpected way: no other case may have them then.
    """

    servers: Sequence[RunningServer]
    logs: Sequence[tuple[Path, int]]
    failed: bool = False


class SharedServers:
    """Deploys homeservers for cases that share them, and for those that do not.

    :param can_share: whether a provider supports that for a homeserver.
    :param capacity: how many homeservers run at once: unused ones are destroyed when others are needed.
    :param most_cases: the number of cases after which a homeserver is replaced.
    """

    def __init__(
        self,
        provider: Provider,
        can_share: Callable[[HomeServerSpec], bool],
        *,
        capacity: int,
        most_cases: int = _MOST_CASES,
    ) -> None:
        self._provider, self._can_share = provider, can_share
        self._capacity, self._most_cases = capacity, most_cases
        self._deployments: list[_Deployment] = []
        self._ending: set[_Deployment] = set()
        self._alone = 0
        self._folder = RunFolder(Path(tempfile.gettempdir()))
        self._opened = False
        self._choosing = asyncio.Lock()

    def shares(self, case: Case) -> bool:
        """Return whether a case shares its homeservers."""
        specs = [spec for slot in case.servers for spec in slot.homeservers]
        return (
            not case.isolated
            and bool(specs)
            and all(not spec.config and not spec.behind_proxy and self._can_share(spec) for spec in specs)
        )

    @asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Deploy homeservers for one case alone.

        :raises DeployError: one does not become ready.
        """
        await self._make_room(len(requests))
        self._alone += len(requests)
        try:
            async with self._provider.deploy(case_id, requests) as servers:
                yield servers
        finally:
            self._alone -= len(requests)

    @asynccontextmanager
    async def lease(self, requests: Sequence[ServerRequest]) -> AsyncIterator[SharedLease]:
        """Lease homeservers that other cases have, too. On leaving, each log gets what was written meanwhile.

        :raises DeployError: one does not become ready.
        """
        async with self._choosing:
            chosen = self._chosen([request.spec for request in requests])
            deployment = chosen or await self._start(requests)
            deployment.cases += 1
            deployment.users += 1
        logs = [(request.log, 0) for request in deployment.requests]
        try:
            servers = await asyncio.shield(deployment.ready)
            logs = [(log, await to_thread(_size, log)) for log, _ in logs]
            lease = SharedLease(servers, logs)
            yield lease
            deployment.spoiled |= lease.failed
        except BaseException:
            deployment.spoiled = True
            raise
        finally:
            try:
                copies = [one.log for one in requests]
                await run_to_completion(to_thread(_copy_ends, logs, copies))
            finally:
                deployment.users -= 1
                if not deployment.users and (not deployment.usable or deployment.cases >= self._most_cases):
                    self._end(deployment)

    async def end_unused(self) -> None:
        """Destroy the homeservers that no case has."""
        await self._end_all(one for one in self._deployments if not one.users)

    async def close(self) -> None:
        """Destroy all homeservers. Idempotent."""
        await self._end_all(self._deployments)
        await to_thread(self._folder.close)

    def _chosen(self, specs: Sequence[HomeServerSpec]) -> _Deployment | None:
        """Return what a case gets: the busiest with room, else something new, else the least busy."""
        usable = [
            one
            for one in self._deployments
            if one.specs == specs and one.usable and one.cases < self._most_cases
        ]
        with_room = [one for one in usable if one.users < _MOST_AT_ONCE]
        if with_room:
            return max(with_room, key=lambda one: one.users)
        if not usable or self._running + len(specs) <= self._capacity:
            return None
        return min(usable, key=lambda one: one.users)

    @property
    def in_use(self) -> int:
        """How many homeservers cases have now."""
        return self._alone + sum(len(one.requests) for one in self._deployments if one.users)

    @property
    def _running(self) -> int:
        return self._alone + sum(len(one.requests) for one in (*self._deployments, *self._ending))

    async def _start(self, requests: Sequence[ServerRequest]) -> _Deployment:
        loop = asyncio.get_running_loop()
        if not self._opened:
            await run_to_completion(to_thread(self._folder.open))
            self._opened = True
        folder = await to_thread(self._folder.new, "logs")
        mine = tuple(replace(request, log=folder / f"{place}.log") for place, request in enumerate(requests))
        deployment = _Deployment(mine, loop.create_future())
        self._deployments.append(deployment)
        # Not in the context of the first case, in whose name it would log.
        deployment.task = loop.create_task(
            self._serve(deployment), name="shared homeservers", context=contextvars.Context()
        )
        return deployment

    async def _serve(self, deployment: _Deployment) -> None:
        """Deploy homeservers and destroy them when no case needs them any more."""
        try:
            await self._make_room(0)
            async with self._provider.deploy("shared", deployment.requests) as servers:
                deployment.ready.set_result(servers)
                await deployment.left.wait()
        except Exception as error:
            if deployment.ready.done():
                logger.exception("shared homeservers could not be destroyed")
            else:
                deployment.ready.set_exception(error)
                deployment.ready.exception()  # retrieved, also where no case waits for it any more
                await deployment.left.wait()  # cases copy its log
        finally:
            folder = deployment.requests[0].log.parent
            await run_to_completion(to_thread(shutil.rmtree, folder, ignore_errors=True))

    def _end(self, deployment: _Deployment) -> None:
        if deployment not in self._deployments:
            return
        self._deployments.remove(deployment)
        assert deployment.task is not None
        if deployment.ready.done():
            deployment.left.set()
        else:
            deployment.ready.cancel()
            deployment.task.cancel()
        self._ending.add(deployment)
        deployment.task.add_done_callback(lambda _: self._ending.discard(deployment))

    async def _end_all(self, deployments: Iterable[_Deployment]) -> None:
        for one in list(deployments):
            self._end(one)
        while self._ending:
            await asyncio.wait([one.task for one in self._ending if one.task is not None])

    async def _make_room(self, count: int) -> None:
        """Destroy unused homeservers, the oldest first, until there is room for others."""
        while self._running + count > self._capacity:
            unused = [one for one in self._deployments if not one.users][:1]
            if not unused and not self._ending:
                return
            await self._end_all(unused)


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _copy_ends(logs: Iterable[tuple[Path, int]], targets: Iterable[Path]) -> None:
    """Copy what each log has after an offset. Blocks."""
    for (log, start), target in zip(logs, targets, strict=True):
        try:
            with log.open("rb") as source, target.open("wb") as copy:
                source.seek(start)
                while piece := source.read(_PIECE):
                    copy.write(piece)
        except FileNotFoundError:  # it did not start
            continue
        except OSError as error:
            logger.warning("the log of a shared homeserver cannot be copied to %s: %s", target, error)
