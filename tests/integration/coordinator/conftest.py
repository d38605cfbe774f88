"""Labs without homeservers and programs of their own."""

import asyncio
import functools
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import pytest

from trafficlight.clock import Clock, SystemClock
from trafficlight.coordinator.adapter import Adapter, AdapterState
from trafficlight.coordinator.attempt import Attempt, Deadlines, Execute
from trafficlight.coordinator.channel import Receipt
from trafficlight.coordinator.engine import Engine
from trafficlight.coordinator.network import NetworkProxy
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.preparation import Preparation, Prepare
from trafficlight.coordinator.scheduling.scheduler import Limits
from trafficlight.coordinator.session import Session
from trafficlight.errors import DeployError
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.protocol import JsonObject, Registration
from trafficlight.results.case import CaseRecord
from trafficlight.results.events import Event
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.server_types import HomeServerSpec
from trafficlight.suites.planning import plan
from trafficlight.worker.execution import execute_in_process

PRELUDE = """
import asyncio, time, os, sys, ctypes, signal, logging
from trafficlight import Test, matrix, parametrize
from trafficlight.client_types import Nio, ElementWebStable, ElementAndroid
from trafficlight.server_types import SynapseStable
"""


@dataclass
class FakeServer:
    """A homeserver that is only counted."""

    role: str
    server_name: str
    cs_api: str = "http://127.0.0.1:9"
    version: str = "Fake 1"
    image: str = "fake:1"
    federation = None
    exited: str | None = None
    operations: list[str] = field(default_factory=list)

    async def operate(self, operation: str, config: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.operations.append(operation)


class FakeProvider:
    """Deploys nothing, and goes wrong on demand."""

    name = "fake"
    capacities: dict[str, int] = {}

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.fails_to_destroy: Exception | None = None
        self.hangs = False
        self.hanging = asyncio.Event()
        self.refuses: str | None = None
        self.running: list[FakeServer] = []
        self.deployed: list[FakeServer] = []
        self.most_at_once = 0

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        return self.refuses

    async def prepare(self, specs: Any) -> None: ...

    async def close(self) -> None: ...

    @asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        if self.hangs:
            self.hanging.set()
            await asyncio.sleep(3600)
        if self.fails is not None:
            raise self.fails
        servers = [FakeServer(request.role, f"hs{n}") for n, request in enumerate(requests)]
        self.running += servers
        self.deployed += servers
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            yield list(servers)
        finally:
            for server in servers:
                self.running.remove(server)
            if self.fails_to_destroy is not None:
                raise self.fails_to_destroy


class Player:
    """An adapter that is scripted: registers, polls and answers without HTTP, like a looping program.

    :param behaviour: what to answer to an action; None for nothing at all.
    """

    def __init__(
        self,
        engine: Engine,
        behaviour: Callable[[str, JsonObject], JsonObject | None] = lambda action, _: {"response": action},
        type: str = "nio",
        **registration: Any,
    ) -> None:
        self.engine = engine
        self.behaviour = behaviour
        self.registration = {"type": type, **registration}
        self.actions: list[str] = []
        self.exits: list[str] = []

    def register(self) -> Adapter:
        return self.engine.pool.register(str(uuid4()), Registration.model_validate(self.registration))

    async def loop(self) -> None:
        """Play one case after the other, until it is sent away without one."""
        adapter = None
        while adapter is None or adapter.cases:
            adapter = self.register()
            await self.play(adapter)

    async def play(self, adapter: Adapter) -> None:
        """Do as told until `exit`."""
        while True:
            message = await adapter.channel.poll(20)
            self.engine.pool.seen(adapter)
            if message.action == "exit":
                self.exits.append(str(message.data["reason"]))
                return
            if message.action != "idle":
                self.actions.append(message.action)
                if (answer := self.behaviour(message.action, message.data)) is not None:
                    assert adapter.channel.respond(message.id, answer) is not Receipt.STALE


class EventRecorder:
    """What a journal tells, from now on."""

    def __init__(self, journal: Journal) -> None:
        self.events: list[Event] = []
        self._journal = journal
        journal.subscribe(self.events.append)

    async def until(self, kind: type[Event], *, case: str = "", **data: Any) -> Event:
        """Wait for an event, which may be past.

        :param case: a part of its case's id.
        """
        came: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def look(event: Event) -> None:
            same = all(getattr(event, key, None) == value for key, value in data.items())
            if same and type(event) is kind and case in (event.case or "") and not came.done():
                came.set_result(event)

        for event in self.events:
            look(event)
        unsubscribe = self._journal.subscribe(look)
        try:
            async with asyncio.timeout(60):
                return await came
        finally:
            unsubscribe()


class EngineHarness:
    """An engine at work, and what it takes to give it something to do."""

    def __init__(self, engine: Engine, provider: FakeProvider, folder: Path) -> None:
        self.engine = engine
        self.provider = provider
        self.folder = folder
        self._told = EventRecorder(engine.journal)
        self._files = 0
        self._players: set[asyncio.Task[None]] = set()

    async def submit(
        self, text: str, options: SessionOptions | None = None, *, prepare: Prepare | None = None
    ) -> Session:
        """Start a session of what a test file holds.

        :param prepare: prepares its homeservers in the background.
        """
        self._files += 1
        path = self.folder / f"bay{self._files}_test.py"
        path.write_text(PRELUDE + textwrap.dedent(text))
        planned = plan([path], directory=self.folder)
        assert not planned.problems, planned.problems
        clock = self.engine.clock
        results = ResultsFolder.create(self.folder / "results", clock.now().date())
        preparation = None
        if prepare is not None:
            specs = [spec for case in planned.cases for slot in case.servers for spec in slot.homeservers]
            preparation = Preparation(specs, prepare, clock)
        return await self.engine.submit(
            results, planned, options or SessionOptions(), preparation=preparation
        )

    def player(self, *arguments: Any, **options: Any) -> Player:
        """Start an adapter that plays one case after the other."""
        player = Player(self.engine, *arguments, **options)
        self._keep(player.loop())
        return player

    def play_once(self, *arguments: Any, **options: Any) -> Player:
        """Start an adapter that plays one case only."""
        player = Player(self.engine, *arguments, **options)
        self._keep(player.play(player.register()))
        return player

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work, name="player")
        self._players.add(task)
        task.add_done_callback(self._players.discard)

    async def ended(self, session: Session, seconds: float = 30.0) -> dict[str, CaseRecord]:
        """Wait until a session is over; return its cases by class, or class and parameters."""
        async with asyncio.timeout(seconds):
            await session.ended.wait()
        return {id.partition("::")[2]: case for id, case in session.record.cases.items()}

    async def until(self, kind: type[Event], *, case: str = "", **data: Any) -> Event:
        """Wait for an event, which may be past.

        :param case: a part of its case's id.
        """
        return await self._told.until(kind, case=case, **data)

    @property
    def events(self) -> list[Event]:
        """What has happened up to now."""
        return self._told.events

    async def close(self) -> None:
        """End everything; no lease and no server remains."""
        await self.engine.stop("the test is over")
        for task in self._players:
            task.cancel()
        await asyncio.gather(*self._players, return_exceptions=True)

    def check_given_back(self) -> None:
        """Every adapter was asked to exit, and every homeserver was destroyed."""
        assert all(adapter.state is AdapterState.ENDED for adapter in self.engine.pool)
        assert all(adapter.held_by is None for adapter in self.engine.pool)
        assert not self.provider.running


@asynccontextmanager
async def open_bay(
    folder: Path,
    execute: Execute | None = None,
    *,
    limits: Limits | None = None,
    queue: float = 300.0,
    clock: Clock | None = None,
    network: NetworkProxy | None = None,
    record: str = "never",
    elsewhere: Callable[..., Attempt] | None = None,
    **deadlines: Any,
) -> AsyncIterator[EngineHarness]:
    """Run an engine over the real parts, without HTTP."""
    clock = clock or SystemClock()
    provider = FakeProvider()
    engine = Engine(
        clock=clock,
        journal=Journal(clock),
        servers=provider,
        execute=execute or functools.partial(execute_in_process, clock=clock),
        deadlines=Deadlines(**{"action": 10.0, "case": 20.0, "prepare": 5.0, "teardown": 5.0, **deadlines}),
        limits=lambda: limits or Limits(),
        queue_deadline=queue,
        network=network,
        record=record,
        elsewhere=elsewhere,
    )
    running = asyncio.create_task(engine.run(), name="engine")
    bay = EngineHarness(engine, provider, folder)
    try:
        yield bay
    finally:
        await bay.close()
        async with asyncio.timeout(60):
            await running
    bay.check_given_back()


@pytest.fixture
async def bay(tmp_path: Path) -> AsyncIterator[EngineHarness]:
    """An engine with the usual settings."""
    async with open_bay(tmp_path) as opened:
        yield opened


@pytest.fixture
async def bay_with(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Engines with other settings; they end with the test."""
    async with AsyncExitStack() as stack:

        async def opened(*arguments: Any, **options: Any) -> EngineHarness:
            return await stack.enter_async_context(open_bay(tmp_path, *arguments, **options))

        yield opened


@pytest.fixture
def deploy_error() -> DeployError:
    """A homeserver that does not come up."""
    return DeployError("synapse did not answer", log="KeyError: 'server_name'")
