"""The machines of a session, as its coordinator sees them: Dask workers that come, run cases, and die."""

import asyncio
import contextlib
import importlib
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficlight.config import Settings
from trafficlight.coordinator.attempt import Attempt
from trafficlight.coordinator.dask.files import pack, trees_of, unpack
from trafficlight.coordinator.dask.host import Ended, Message, OpenLab, Setup
from trafficlight.coordinator.scheduling.scheduler import MACHINE, Limits
from trafficlight.errors import ConfigError
from trafficlight.processes import Progress
from trafficlight.results.case import INTERRUPTED
from trafficlight.results.events import CaseState, CaseWaits, Event, State, parse_event
from trafficlight.results.folder import ResultsFolder
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.model import Case
from trafficlight.version import install_command
from trafficlight.worker.assignment import Verdict

if TYPE_CHECKING:
    from trafficlight.coordinator.engine import Engine

logger = logging.getLogger(__name__)

# Seconds for an answer of the scheduler, and between two attempts to reach it again.
_ANSWER, _RETRY = 10.0, 1.0
# Seconds between two messages to itself, until the first is received.
_HEARD = 0.1
# Seconds between two looks whether the connection is there.
_LOOK = 0.5
# Seconds that a machine has, besides the time for the tear-down, to end a case that is cancelled.
_MARGIN = 15.0
# Topic of a Dask scheduler's own events.
_ALL = "all"


@dataclass(frozen=True, slots=True)
class _Machine:
    """A Dask worker that takes cases.

    :param slots: cases at once.
    :param threads: tasks that Dask lets it run at once.
    :param behind: how much its clock is behind this machine's.
    """

    name: str
    slots: int
    threads: int
    behind: timedelta


@dataclass(eq=False)
class RemoteAttempt(Attempt):
    """An attempt that runs on another machine, with adapters and homeservers of that machine.

    :ivar key: of its Dask task.
    :ivar place: the address of the Dask worker on which its task has started; empty before that.
    :ivar machine: the same, once something has happened there; empty before that.
    :ivar lost: why no machine will end it.
    """

    machines: "Machines" = field(kw_only=True)
    key: str = ""
    place: str = ""
    machine: str = ""
    lost: "asyncio.Future[str]" = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lost = asyncio.get_running_loop().create_future()

    @property
    def number(self) -> int | None:
        """Its number; None while nothing is recorded of it."""
        return self.waiting.attempt if self.machine else None

    @property
    def held(self) -> bool:
        """Whether its Dask task has not started."""
        return not self.place

    def lose(self, why: str) -> None:
        """End it: its machine is gone, or has not begun it and will not."""
        if not self.lost.done():
            self.lost.set_result(why)

    async def _run(self, stack: AsyncExitStack) -> Verdict:
        return await self.machines.run(self)


class Machines:
    """The workers of a Dask cluster.

    :param address: of its scheduler.
    :param progress: called with a line about what happens on a machine that takes long.
    """

    def __init__(self, address: str, progress: Progress) -> None:
        self._address, self._progress = address, progress
        self._client: Any = None
        self._plugin: Any = None
        self._name = f"trafficlight-{secrets.token_hex(6)}"
        self._keys = itertools.count(1)
        self._machines: dict[str, _Machine] = {}
        self._attempts: dict[tuple[str, int], RemoteAttempt] = {}
        self._ran: dict[tuple[str, int], str] = {}
        #: How many workers there were when they were asked for their versions.
        self.workers = 0
        self._writing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._heard: asyncio.Future[None] | None = None

    @classmethod
    @asynccontextmanager
    async def connected(cls, address: str, progress: Progress) -> AsyncIterator["Machines"]:
        """Connect to a scheduler, and check that its workers have the versions of this machine.

        :raises ConfigError: it does not answer, or they have not.
        """
        machines = cls(address, progress)
        await machines._connect()
        try:
            await machines._check_versions()
            yield machines
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                await machines._client.close(timeout=_ANSWER)

    @asynccontextmanager
    async def hosting(self, setup: Setup, engine: "Engine", folder: ResultsFolder) -> AsyncIterator[None]:
        """Let the machines run cases of a session, also those that come later; leaves nothing on them.

        :param engine: which starts the cases.
        :param folder: the session's.
        """
        self._engine, self._folder = engine, folder
        plugin = await asyncio.to_thread(importlib.import_module, "trafficlight.coordinator.dask.plugin")
        self._plugin = plugin, await asyncio.to_thread(plugin.HostPlugin, self._name, setup)
        await self._enlist()
        watching = asyncio.create_task(self._watch(), name="dask")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            try:
                async with asyncio.timeout(setup.settings.exit_deadline + _MARGIN):
                    if engine.stopping:
                        await self._client.run(plugin.end_at_once, self._name)
                    await self._client.unregister_worker_plugin(self._name)
                    while self._machines:  # their last events
                        self._changed.clear()
                        await self._changed.wait()
                    for topic in (self._name, _ALL):
                        self._client.unsubscribe_topic(topic)
            except Exception as error:  # noqa: BLE001 - the scheduler may be gone
                logger.warning("the labs of the Dask workers may end later: %r", error)
            if self._writing:
                await asyncio.wait(self._writing)

    def attempt(self, *arguments: Any) -> RemoteAttempt:
        """Return a new attempt, which takes the arguments of :class:`Attempt`."""
        return RemoteAttempt(*arguments, machines=self)

    def limits(self, settings: Settings) -> Limits:
        """Return how many cases may run at once, and how many more the machines hold ready.

        With one more for each, no machine idles until the coordinator has heard that a case has ended.
        """
        slots = sum(machine.slots for machine in self._machines.values())
        if not slots:  # also before there is a session
            return Limits(unreachable=frozenset([MACHINE]), elsewhere=True)
        # Dask knows no limit but the slots, and begins what it holds before a failure is known here.
        exact = settings.case_limit or any(one.options.max_failures for one in self._engine.sessions.values())
        # Dask compares how many tasks workers have in all with their threads, so it moves what is held to an
        # idle one only if they are of one size.
        sizes = {size for machine in self._machines.values() for size in (machine.slots, machine.threads)}
        return Limits(
            cases=min(slots, settings.case_limit or slots),
            ahead=slots if len(sizes) == 1 and not exact else 0,
            elsewhere=True,
        )

    # The connection

    async def _connect(self) -> None:
        try:
            distributed = await asyncio.to_thread(importlib.import_module, "distributed")
        except ModuleNotFoundError:
            message = f"needs the library distributed: {install_command('dask')}"
            raise ConfigError(message, key="DASK") from None
        client = None
        try:
            client = distributed.Client(
                self._address, asynchronous=True, set_as_default=False, timeout=_ANSWER, name="trafficlight"
            )
            await client
        except (OSError, ValueError) as error:
            if client is not None:
                with contextlib.suppress(Exception):
                    await client.close(timeout=_ANSWER)
            cause = str(error).splitlines()[0] if str(error) else "no answer in time"
            message = f"no Dask scheduler at {self._address}: {cause}"
            raise ConfigError(message, key="DASK") from error
        self._client = client

    async def _check_versions(self) -> None:
        """Compare the versions of all workers with those of this machine.

        :raises ConfigError: they differ.
        """
        plugin = await asyncio.to_thread(importlib.import_module, "trafficlight.coordinator.dask.plugin")
        versions = plugin.versions_here()
        mine, theirs = await asyncio.to_thread(versions), await self._client.run(versions)
        self.workers = len(theirs)
        for address, found in theirs.items():
            if why := plugin.difference(address, found, mine):
                raise ConfigError(why, key="DASK")

    async def _enlist(self) -> None:
        """Make every worker say that it takes cases, now or when it comes.

        :raises ConfigError: the scheduler does not answer, or a worker cannot take any.
        """
        try:
            await self._register()
        except Exception as error:
            message = (
                f"the Dask workers at {self._address} cannot take cases: {str(error) or type(error).__name__}"
            )
            raise ConfigError(message, key="DASK") from error

    async def _register(self) -> None:
        self._heard = asyncio.get_running_loop().create_future()
        self._client.subscribe_topic(self._name, self._receive)
        self._client.subscribe_topic(_ALL, self._note)
        # What workers say before the scheduler knows of the subscription is lost.
        async with asyncio.timeout(_ANSWER):
            while not self._heard.done():
                await self._client.log_event(self._name, {"heard": True})
                await asyncio.wait([self._heard], timeout=_HEARD)
        answers = await self._client.register_plugin(self._plugin[1], name=self._name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER):
                while not self._machines.keys() >= answers.keys():
                    self._changed.clear()
                    await self._changed.wait()

    async def _watch(self) -> None:
        """Connect again, and again, when the scheduler is gone."""
        while True:
            client, connection = self._client, self._client.scheduler_comm
            while client.status == "running" and client.scheduler_comm is connection:
                await asyncio.sleep(_LOOK)
            self._progress(f"the Dask scheduler at {self._address} is gone")
            self._machines.clear()
            for attempt in list(self._attempts.values()):
                attempt.lose("the Dask scheduler was lost")
            self._engine.wake()
            back = False
            while not back:
                with contextlib.suppress(Exception):  # closed already, or not answering
                    await self._client.close(timeout=_ANSWER)
                await asyncio.sleep(_RETRY)
                with contextlib.suppress(ConfigError):
                    await self._connect()
                    await self._enlist()
                    back = True
            self._progress(f"the Dask scheduler at {self._address} is back")

    def _note(self, event: tuple[float, Message]) -> None:
        """Note that a worker is gone: what it has begun is interrupted."""
        _, message = event
        if message.get("action") != "remove-worker":
            return
        address = message["worker"]
        machine = self._machines.pop(address, None)
        keys = {*message.get("processing-tasks", ()), *message.get("lost-computed-tasks", ())}
        name = machine.name if machine is not None else address
        for attempt in list(self._attempts.values()):
            if attempt.machine == address or (attempt.key in keys and not attempt.machine):
                attempt.lose(f"the machine {name} is gone (Dask worker {address})")
        if machine is not None:
            self._progress(f"the machine {name} is gone (Dask worker {address})")
        self._changed.set()
        self._engine.wake()

    # What machines say

    def _receive(self, event: tuple[float, Message]) -> None:
        _, message = event
        if "heard" in message:
            if self._heard is not None and not self._heard.done():
                self._heard.set_result(None)
            return
        address = message["from"]
        if "runs" in message:
            for attempt in self._attempts.values():
                if attempt.key == message["runs"]:
                    attempt.place = attempt.place or address
        elif "lines" in message:
            for line in message["lines"]:
                if (happened := parse_event(line)) is not None:
                    self._record(happened, address, message.get("content"), message.get("file", ""))
        elif "say" in message:
            self._progress(f"{message['machine']}: {message['say']}")
        elif "log" in message:
            machine = f"{message['machine']}-{address.rpartition(':')[2]}"
            self._keep(self._folder.path / "adapters" / machine / message["log"], message["content"])
        else:
            self._enter(address, message)

    def _enter(self, address: str, message: Message) -> None:
        """Note that a worker takes cases, no more, or none."""
        if "slots" in message:
            slots, threads = message["slots"], message["threads"]
            behind = timedelta(seconds=self._engine.clock.now().timestamp() - message["time"])
            self._machines[address] = _Machine(message["machine"], slots, threads, behind)
            self._engine.wake()
        elif "refused" in message:
            self._progress(f"{message['machine']} gets no cases: {message['refused']}")
            for attempt in self._attempts.values():
                if attempt.held:  # which of them are there, only Dask knows
                    attempt.lose("its Dask worker was refused")
        else:
            self._machines.pop(address, None)
        self._changed.set()

    def _record(self, event: Event, address: str, content: bytes | None, name: str) -> None:
        """Record what happened on a machine as if it had happened here."""
        journal, machine = self._engine.journal, self._machines.get(address)
        if isinstance(event, CaseWaits):
            where = f" on {machine.name}" if machine is not None else ""
            journal.append(replace(event, reason=f"{event.reason}{where}"))
            return
        time = min(
            self._engine.clock.now(), event.time + (machine.behind if machine is not None else timedelta())
        )
        if event.case is not None and event.attempt is not None:
            key = event.case, event.attempt
            attempt = self._attempts.get(key)
            if attempt is not None and not attempt.lost.done() and attempt.place == address:
                if not attempt.machine:
                    # What it was held for is not part of what it took, also if it is interrupted.
                    attempt.started = attempt.resources.clock.monotonic()
                attempt.machine = self._ran[key] = address
            if self._ran.get(key) != address:
                return  # Dask has started it again after its machine was lost
            if attempt is not None and isinstance(event, CaseState) and event.state is State.RUNNING:
                attempt.began = True
            if content is not None:
                path = self._folder.attempt(*key).path / name
                self._keep(path, content, lambda: journal.append(event, time=time))
                return
        journal.append(event, time=time)

    def _keep(self, path: Path, content: bytes, kept: Callable[[], object] = lambda: None) -> None:
        """Keep a file that came by itself."""

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        async def keep() -> None:
            try:
                await asyncio.to_thread(write)
            except OSError as error:
                logger.warning("%s cannot be kept: %s", path, error)
            else:
                kept()

        task = asyncio.create_task(keep(), name=f"keep {path.name}")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    # Cases

    async def run(self, attempt: RemoteAttempt) -> Verdict:
        """Run an attempt on a machine that Dask chooses.

        :return: its verdict; with the state `waiting`, no machine has begun it, and none will.
        """
        key = attempt.case.id, attempt.waiting.attempt
        plugin, _ = self._plugin
        try:
            future = self._client.submit(
                plugin.run_case,
                *(self._name, _portable(attempt.case), attempt.waiting.attempt),
                key=f"{self._name}-{next(self._keys)}",
                pure=False,
                resources={plugin.RESOURCE: 1},
            )
        except Exception as error:  # noqa: BLE001 - the connection may be lost at any time
            logger.info("no case can be sent to a Dask worker: %s", error)
            await asyncio.sleep(_LOOK)  # by then, it is known that there are none
            return Verdict(State.WAITING)
        attempt.key = future.key
        self._attempts[key] = attempt
        waiting = asyncio.create_task(_outcome(future), name=f"wait for {attempt.case.id}")
        try:
            return await self._verdict(attempt, waiting)
        except asyncio.CancelledError:
            if attempt.machine:
                await self._cancel(attempt, waiting)
            raise
        finally:
            del self._attempts[key]
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            with contextlib.suppress(Exception):
                if not future.done():
                    async with asyncio.timeout(_ANSWER):
                        await future.cancel()
                future.release()

    async def _verdict(self, attempt: RemoteAttempt, waiting: "asyncio.Task[Ended | str]") -> Verdict:
        both: list[asyncio.Future[Any]] = [waiting, attempt.lost]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        ended = waiting.result() if waiting.done() else attempt.lost.result()
        if isinstance(ended, str):
            if not attempt.machine:
                return Verdict(State.WAITING)
            return Verdict(State.ERROR, f"interrupted: {ended}", phase=INTERRUPTED)
        clock = attempt.resources.clock
        # What it has waited for is not part of what it took.
        attempt.waited = max(0.0, clock.monotonic() - attempt.started - ended.seconds)
        attempt.unclaimed = ended.unclaimed
        if ended.files:
            await asyncio.to_thread(unpack, ended.files, attempt.folder.path)
        if ended.verdict.phase == INTERRUPTED and not attempt.machine:
            return Verdict(State.WAITING)
        return ended.verdict

    async def _cancel(self, attempt: RemoteAttempt, waiting: "asyncio.Task[Ended | str]") -> None:
        """Cancel an attempt on its machine, and wait for what is left of it."""
        plugin, _ = self._plugin
        reason = attempt.cancel_reason or "cancelled by its coordinator"
        with contextlib.suppress(Exception):
            async with asyncio.timeout(attempt.resources.deadlines.teardown + _MARGIN):
                ask = (plugin.cancel_case, self._name, attempt.case.id, reason)
                await self._client.run(*ask, workers=[attempt.machine])
                await self._verdict(attempt, waiting)


async def _outcome(future: Any) -> Ended | str:
    """Return what a task returns, or why it returns nothing."""
    try:
        ended: Ended = await future
    except (asyncio.CancelledError, Exception) as error:
        if future.status == "cancelled":
            return "the connection to the Dask scheduler was lost"
        if isinstance(error, asyncio.CancelledError):
            raise
        if type(error).__name__ == "KilledWorker":
            return f"its machine is gone: {error}"
        logger.warning("a Dask worker could not run a case", exc_info=error)
        message = f"the Dask worker could not run it: {type(error).__name__}: {error}"
        return Ended(Verdict(State.ERROR, message, phase="prepare"), 0.0)
    return ended


def setup_of(settings: Settings, session: str, cases: Iterable[Case], open_lab: OpenLab) -> Setup:
    """Return what machines need to run cases of a session. Blocks.

    :raises UsageError: its test files are too large to be sent.
    """
    cases = list(cases)
    # As many of those that need the same as there may be adapters of a type.
    most = max((program.count for program in settings.adapters.values()), default=0) or 1
    some: dict[Any, list[Case]] = {}
    for case in cases:
        if case.skip is None:
            needs = tuple(case.clients.values()), tuple(slot.homeservers for slot in case.servers)
            if len(group := some.setdefault(needs, [])) < most:
                group.append(replace(_portable(case), parameters={}, overrides={}))
    few = tuple(itertools.chain(*some.values()))
    trees = trees_of(cases)
    return Setup(session, settings, few, SHIPPED, trees, pack(trees), open_lab)


def _portable(case: Case) -> Case:
    """Return a case without what asks workers of this machine."""
    return replace(case, clients={role: replace(kind) for role, kind in case.clients.items()})
