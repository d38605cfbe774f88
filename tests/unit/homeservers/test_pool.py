"""Which homeservers are started ahead, and when they are destroyed."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.pool import Kind, WarmPool
from trafficlight.homeservers.local.server import LocalServer


class FakeServer(LocalServer):
    """A homeserver without a process."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.end: str | None = None
        self.destroyed = False

    @property
    def exited(self) -> str | None:
        return self.end

    async def destroy(self) -> None:
        self.destroyed = True


def _kinds(*names: str) -> list[Kind]:
    return [(name, "1.0") for name in names]


class Starter:
    """Starts fakes, and fails for kinds that are broken."""

    def __init__(self) -> None:
        self.started: list[FakeServer] = []
        self.broken: dict[str, Exception] = {}
        self.at_once = 0
        self.most_at_once = 0

    async def __call__(self, kind: Kind) -> FakeServer:
        name, _ = kind
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if name in self.broken:
            raise self.broken[name]
        server = FakeServer(name)
        self.started.append(server)
        return server

    @property
    def kinds(self) -> list[str]:
        return [server.kind for server in self.started]


MakePool = Callable[..., WarmPool]


@pytest.fixture
def starter() -> Starter:
    return Starter()


@pytest_asyncio.fixture
async def make_pool(starter: Starter) -> AsyncIterator[MakePool]:
    pools: list[WarmPool] = []

    def make(size: int, has_room: Callable[[], bool] = lambda: True) -> WarmPool:
        pools.append(WarmPool(size, starter, has_room))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()


async def test_fills_up_to_its_size_one_at_a_time(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(3)
    pool.want(_kinds("synapse"))
    await pool.filled()
    assert starter.kinds == ["synapse"] * 3
    assert starter.most_at_once == 1
    assert pool.ready == 3


async def test_starts_nothing_before_it_is_known_what_cases_need(
    make_pool: MakePool, starter: Starter
) -> None:
    pool = make_pool(2)
    assert pool.ready == 0
    assert starter.started == []


async def test_shares_its_size_out_between_kinds(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(3)
    pool.want(_kinds("old", "new"))
    await pool.filled()
    assert sorted(starter.kinds) == ["new", "old", "old"]


async def test_refills_what_was_taken(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(2)
    pool.want(_kinds("synapse"))
    await pool.filled()
    taken = {pool.take(*_kinds("synapse")), pool.take(*_kinds("synapse"))}
    assert taken == set(starter.started)
    assert pool.take(*_kinds("synapse")) is None
    await pool.filled()
    assert pool.ready == 2
    assert taken.isdisjoint(starter.started[2:])
    assert not any(server.destroyed for server in starter.started)


async def test_makes_room_for_the_latest_kind(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(1)
    pool.want(_kinds("old"))
    await pool.filled()
    assert pool.take(*_kinds("new")) is None
    await pool.filled()
    [old, new] = starter.started
    assert (old.kind, old.destroyed) == ("old", True)
    assert pool.take(*_kinds("new")) is new


async def test_a_dead_server_is_replaced_and_never_used(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(2)
    pool.want(_kinds("synapse"))
    await pool.filled()
    dead, alive = starter.started
    dead.end = "signal 9"
    assert pool.take(*_kinds("synapse")) is alive
    await pool.filled()
    assert dead.destroyed
    assert pool.ready == 2


@pytest.mark.parametrize("error", [DeployError("no"), ValueError("a defect")])
async def test_a_kind_that_fails_is_not_retried_until_it_is_requested(
    make_pool: MakePool, starter: Starter, error: Exception
) -> None:
    pool = make_pool(2)
    starter.broken["bad"] = error
    pool.want(_kinds("bad", "good"))
    await pool.filled()
    assert starter.kinds == ["good", "good"]
    starter.broken.clear()
    assert pool.take(*_kinds("bad")) is None
    await pool.filled()
    assert sorted(server.kind for server in starter.started if not server.destroyed) == ["bad", "good"]


async def test_starts_none_while_the_machine_has_no_room(make_pool: MakePool, starter: Starter) -> None:
    room = [False]
    pool = make_pool(1, lambda: room[0])
    pool.want(_kinds("synapse"))
    await pool.filled()
    assert pool.ready == 0
    room[0] = True
    assert pool.take(*_kinds("synapse")) is None
    await pool.filled()
    assert pool.ready == 1


async def test_a_pool_of_size_0_does_nothing(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(0)
    pool.want(_kinds("synapse"))
    assert pool.take(*_kinds("synapse")) is None
    await pool.filled()
    assert starter.started == []


async def test_closing_destroys_what_was_not_taken(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(3)
    pool.want(_kinds("synapse"))
    await pool.filled()
    taken = pool.take(*_kinds("synapse"))
    await pool.close()
    await pool.close()
    assert isinstance(taken, FakeServer)
    assert not taken.destroyed
    assert [server.destroyed for server in starter.started if server is not taken] == [True, True]
    pool.want(_kinds("synapse"))
    assert pool.ready == 0


async def test_closing_while_one_is_being_started_cancels_that() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def start(_: Kind) -> FakeServer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError("unreachable")

    pool = WarmPool(1, start, lambda: True)
    pool.want(_kinds("synapse"))
    await begun.wait()
    await pool.close()
    assert cancelled.is_set()
