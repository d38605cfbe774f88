"""Which homeservers are started ahead, and what becomes of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.pool import WarmPool


class FakeServer:
    """A homeserver that is only counted."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.exited: str | None = None
        self.destroyed = False

    async def destroy(self) -> None:
        self.destroyed = True


class Starter:
    """Starts fakes, and fails for kinds that are broken."""

    def __init__(self) -> None:
        self.started: list[FakeServer] = []
        self.broken: dict[str, Exception] = {}
        self.at_once = 0
        self.most_at_once = 0

    async def __call__(self, kind: str) -> FakeServer:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if kind in self.broken:
            raise self.broken[kind]
        server = FakeServer(kind)
        self.started.append(server)
        return server

    @property
    def kinds(self) -> list[str]:
        return [server.kind for server in self.started]


Pool = WarmPool[str, FakeServer]
MakePool = Callable[..., Pool]


@pytest.fixture
def starter() -> Starter:
    return Starter()


@pytest_asyncio.fixture
async def make_pool(starter: Starter) -> AsyncIterator[MakePool]:
    pools: list[Pool] = []

    def make(size: int, has_room: Callable[[], bool] = lambda: True) -> Pool:
        pools.append(WarmPool(size, starter, has_room))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()


async def test_fills_up_to_its_size_one_at_a_time(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(3)
    pool.want(["synapse"])
    await pool.settled()
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
    pool.want(["old", "new"])
    await pool.settled()
    assert sorted(starter.kinds) == ["new", "old", "old"]


async def test_refills_what_was_taken(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(2)
    pool.want(["synapse"])
    await pool.settled()
    taken = {pool.take("synapse"), pool.take("synapse")}
    assert taken == set(starter.started)
    assert pool.take("synapse") is None
    await pool.settled()
    assert pool.ready == 2
    assert taken.isdisjoint(starter.started[2:])
    assert not any(server.destroyed for server in starter.started)


async def test_makes_room_for_the_kind_in_demand(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(1)
    pool.want(["old"])
    await pool.settled()
    assert pool.take("new") is None
    await pool.settled()
    [old, new] = starter.started
    assert (old.kind, old.destroyed) == ("old", True)
    assert pool.take("new") is new


async def test_a_dead_server_is_replaced_and_never_handed_out(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(2)
    pool.want(["synapse"])
    await pool.settled()
    dead, alive = starter.started
    dead.exited = "signal 9"
    assert pool.take("synapse") is alive
    await pool.settled()
    assert dead.destroyed
    assert pool.ready == 2


@pytest.mark.parametrize("error", [DeployError("no"), ValueError("a defect")])
async def test_a_kind_that_fails_is_left_alone_until_it_is_asked_for(
    make_pool: MakePool, starter: Starter, error: Exception
) -> None:
    pool = make_pool(2)
    starter.broken["bad"] = error
    pool.want(["bad", "good"])
    await pool.settled()
    assert starter.kinds == ["good", "good"]
    starter.broken.clear()
    assert pool.take("bad") is None
    await pool.settled()
    assert sorted(server.kind for server in starter.started if not server.destroyed) == ["bad", "good"]


async def test_starts_none_while_the_machine_has_no_room(make_pool: MakePool, starter: Starter) -> None:
    room = [False]
    pool = make_pool(1, lambda: room[0])
    pool.want(["synapse"])
    await pool.settled()
    assert pool.ready == 0
    room[0] = True
    assert pool.take("synapse") is None
    await pool.settled()
    assert pool.ready == 1


async def test_a_pool_of_size_0_does_nothing(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(0)
    pool.want(["synapse"])
    assert pool.take("synapse") is None
    await pool.settled()
    assert starter.started == []


async def test_closing_destroys_what_nobody_took(make_pool: MakePool, starter: Starter) -> None:
    pool = make_pool(3)
    pool.want(["synapse"])
    await pool.settled()
    taken = pool.take("synapse")
    await pool.close()
    await pool.close()
    assert taken is not None
    assert not taken.destroyed
    assert [server.destroyed for server in starter.started if server is not taken] == [True, True]
    pool.want(["synapse"])
    assert pool.ready == 0


async def test_closing_while_one_is_being_started_cancels_that() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def start(_: str) -> FakeServer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError("unreachable")

    starting: Callable[[str], Awaitable[FakeServer]] = start
    pool = WarmPool(1, starting)
    pool.want(["synapse"])
    await begun.wait()
    await pool.close()
    assert cancelled.is_set()
