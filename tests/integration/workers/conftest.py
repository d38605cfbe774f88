"""Test files to order, and links that remember what test code asked for."""

import asyncio
import contextlib
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

from trafficlight.clients.base import ServerOperation
from trafficlight.coordinator.workers import pool as workers_module
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.errors import LabError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import Log, Measurement, State, StepBegan, StepEnded, TestEvent
from trafficlight.suites.model import Case
from trafficlight.suites.planning import plan
from trafficlight.suites.selection import Selection
from trafficlight.worker.assignment import Assignment, Verdict

PRELUDE = (
    "import asyncio, time, os, sys, ctypes, signal, logging\n"
    "from trafficlight import ElementCallClient, Test, errors, matrix\n"
    "from trafficlight.client_types import Nio\n"
)


@dataclass
class FakeLink:
    """The coordinator's end of a test's link."""

    performed: list[tuple[str, str, JsonObject]] = field(default_factory=list)
    asked_at: dict[str, str] = field(default_factory=dict)
    operated: list[tuple[str, ServerOperation]] = field(default_factory=list)
    emitted: list[TestEvent] = field(default_factory=list)
    steps: list[StepBegan | StepEnded] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    answer: Callable[[str, str, JsonObject], Awaitable[JsonObject]] | None = None
    logged_event: asyncio.Event = field(default_factory=asyncio.Event)

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        self.performed.append((role, action, data))
        self.asked_at[action] = where
        try:
            return await self.answer(role, action, data) if self.answer else {"response": action}
        except asyncio.CancelledError:
            self.withdrawn.append(action)
            raise

    async def upload(self, role: str, name: str) -> Path:
        return Path(role) / name

    async def operate(self, role: str, operation: ServerOperation, config: JsonObject) -> None:
        self.operated.append((role, operation))

    async def network(self) -> Path:
        raise LabError("there is no network proxy")

    def emit(self, event: TestEvent) -> None:
        if isinstance(event, StepBegan | StepEnded):
            self.steps.append(event)
        else:
            self.emitted.append(event)
        if isinstance(event, Log):
            self.logged_event.set()

    @property
    def values(self) -> list[float]:
        """What the test measured."""
        return [event.value for event in self.emitted if isinstance(event, Measurement)]


class WorkerHarness:
    """Makes assignments out of test files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.attempts = 0

    def assignment(
        self, body: str, *, clients: tuple[str, ...] = (), case: float = 60.0, teardown: float = 5.0
    ) -> Assignment:
        """Return an assignment of a test class with this body, whose clients are all Nios.

        :param case: the case's deadline, in seconds.
        :param teardown: that of the tear-down.
        """
        declared = f"    clients = {{{', '.join(f'{role!r}: Nio' for role in clients)}}}\n\n"
        (found,) = self.cases(
            "class T(Test):\n" + declared + textwrap.indent(textwrap.dedent(body).strip(), " " * 4)
        )
        return self.attempt(found, clients=clients, case=case, teardown=teardown)

    def cases(self, text: str, client_names: tuple[str, ...] = ()) -> tuple[Case, ...]:
        """Return the cases of a test file with this text, after the imports.

        :param client_names: what fills roles for any Matrix client.
        """
        self.attempts += 1
        path = self.folder / f"bench{self.attempts}_test.py"
        path.write_text(PRELUDE + textwrap.dedent(text))
        planned = plan([path], Selection(client_types=list(client_names)), directory=self.folder)
        assert not planned.problems, planned.problems
        return planned.cases

    def attempt(
        self, found: Case, *, clients: tuple[str, ...] = (), case: float = 60.0, teardown: float = 5.0
    ) -> Assignment:
        """Return an assignment of a case."""
        self.attempts += 1
        folder = self.folder / f"attempt-{self.attempts}"
        folder.mkdir()
        return Assignment(
            found,
            1,
            folder,
            clients={role: {"type": "nio"} for role in clients},
            case_deadline=case,
            teardown_deadline=teardown,
        )


Fine: TypeAlias = Callable[[WorkerPool], Awaitable[None]]
OpenPool: TypeAlias = Callable[..., AbstractAsyncContextManager[WorkerPool]]


async def exited(pid: float) -> None:
    """Wait until a process has exited, whether or not its parent has waited for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        async with asyncio.timeout(60):
            while psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> WorkerHarness:
    return WorkerHarness(tmp_path)


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@asynccontextmanager
async def _open_pool(ready: int = 1, **options: Any) -> AsyncIterator[WorkerPool]:
    """Run a pool, and check that none of its processes is left."""
    async with WorkerPool(ready, **options) as pool:
        yield pool
        pids = pool.pids
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not pool.pids


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerPool]:
    monkeypatch.setattr(workers_module, "_MARGIN", 0.3)
    monkeypatch.setattr(workers_module, "_LAST_WORDS", 0.5)
    async with _open_pool() as opened:
        yield opened


@pytest.fixture
def fine(bench: WorkerHarness, link: FakeLink) -> Fine:
    """Check that a pool can still run a test."""

    async def check(pool: WorkerPool) -> None:
        verdict = await pool.execute(bench.assignment("async def run(self):\n    pass"), link)
        assert verdict == Verdict(State.SUCCESS)

    return check


@pytest.fixture
def open_pool() -> OpenPool:
    """Run pools with other settings."""
    return _open_pool
