"""Real homeservers and real users on them."""

import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import nio  # type: ignore[import-untyped,unused-ignore]
import psutil
import pytest
import pytest_asyncio

from tests.integration.homeservers.engine import docker_on, docker_on_engine, homerunner_on_engine
from tests.integration.homeservers.far_engine import FarEngine, far_engine
from tests.integration.homeservers.homerunner_double import Double
from trafficlight.homeservers.homerunner.provider import HomerunnerProvider, HomerunnerServer
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.local.run_folder import default_base
from trafficlight.homeservers.provider import Provider, RunningServer, ServerRequest
from trafficlight.homeservers.static import StaticProvider
from trafficlight.server_types import ServerType, SynapseStable

SignUp: TypeAlias = Callable[[RunningServer, str], Awaitable[nio.AsyncClient]]
Ask: TypeAlias = Callable[..., ServerRequest]


def data_folders() -> set[Path]:
    """Return the data folders of this process's local providers."""
    return set(default_base().glob(f"trafficlight-servers-{os.getpid()}-*"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def local() -> AsyncIterator[LocalProvider]:
    """The local provider, installed in the user's real cache folder."""
    folders = data_folders()
    provider = LocalProvider()
    await provider.prepare(SynapseStable().homeservers())
    yield provider
    await provider.close()
    assert not provider.servers
    assert data_folders() == folders


class _OnDouble(HomerunnerProvider):
    """Calls the homeservers of a double's backend what they are called."""

    def __init__(self, double: Double) -> None:
        super().__init__([double.url])
        self._double = double

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        async with super().deploy(case_id, requests) as servers:
            yield [
                dataclasses.replace(server, server_name=self._double.names[server.cs_api])
                for server in servers
                if isinstance(server, HomerunnerServer)
            ]


_IN_DOCKER = pytest.mark.docker
_OPERATING = [
    "local",
    pytest.param("docker", marks=_IN_DOCKER),
    pytest.param("far_docker", marks=_IN_DOCKER),
]
_FRESH = [*_OPERATING, "homerunner", pytest.param("real_homerunner", marks=pytest.mark.homerunner)]


@pytest.fixture(params=_OPERATING)
def provider(request: pytest.FixtureRequest) -> Provider:
    """Every provider that can stop and restart its homeservers and has their logs, one after the other."""
    found: Provider = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=_FRESH)
def fresh(request: pytest.FixtureRequest) -> Provider:
    """Every provider whose homeservers are new for every case."""
    found: Provider = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=[*_FRESH, "static"])
def every(request: pytest.FixtureRequest) -> Provider:
    """Every provider."""
    found: Provider = request.getfixturevalue(request.param)
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def docker() -> AsyncIterator[Provider]:
    """The provider docker on a real engine, with nothing left there at the end."""
    async with docker_on_engine() as provider:
        yield provider


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def far() -> AsyncIterator[FarEngine]:
    """A second engine, on a machine of its own as far as the network goes, spoken to over TLS."""
    async with far_engine() as engine:
        yield engine


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def far_docker(far: FarEngine) -> AsyncIterator[Provider]:
    """The provider docker on the second engine, with nothing left there at the end."""
    async with docker_on(far.host()) as provider:
        yield provider


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def homerunner(
    local: LocalProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Provider]:
    """The provider homerunner at a double that deploys real homeservers."""
    double = Double(backend=local, folder=tmp_path_factory.mktemp("homerunner"))
    async with double.listening():
        provider = _OnDouble(double)
        await provider.prepare(SynapseStable().homeservers())
        yield provider
        await provider.close()
        assert not double.live


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_homerunner() -> AsyncIterator[Provider]:
    """The provider homerunner at a real one."""
    async with homerunner_on_engine() as url:
        provider = HomerunnerProvider([url])
        await provider.prepare(SynapseStable().homeservers())
        yield provider
        await provider.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def static(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    """The provider static, with three homeservers that run as long as the session."""
    # Not the shared provider: its tests count what it runs.
    local = LocalProvider()
    folder = tmp_path_factory.mktemp("static")
    spec = SynapseStable().homeservers()[0]
    requests = [ServerRequest(f"static{number}", spec, folder / f"{number}.log") for number in range(3)]
    async with local.deploy("static", requests) as servers:
        overrides = [{"server_name": server.server_name, "cs_api": f"{server.cs_api}/"} for server in servers]
        provider = StaticProvider({"SynapseStable": overrides})
        await provider.prepare([spec])
        yield provider
        await provider.close()
    await local.close()


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Make the request for one homeserver in a role: ``ask("alice", Synapse("1.98.0"))``."""

    def make(role: str, server_type: ServerType | None = None) -> ServerRequest:
        spec = (server_type or SynapseStable()).homeservers()[0]
        return ServerRequest(role, spec, tmp_path / f"{role}.log")

    return make


@pytest_asyncio.fixture(loop_scope="session")
async def sign_up() -> AsyncIterator[SignUp]:
    """Register a user and return its client, logged in, closed with the test."""
    clients: list[nio.AsyncClient] = []

    async def register(server: RunningServer, localpart: str) -> nio.AsyncClient:
        client = nio.AsyncClient(server.cs_api, localpart)
        clients.append(client)
        answer = await client.register(localpart, "a password")
        assert isinstance(answer, nio.RegisterResponse), answer
        assert answer.user_id == f"@{localpart}:{server.server_name}"
        return client

    yield register
    for client in clients:
        await client.close()


@pytest.fixture
def descendants() -> Callable[[], set[int]]:
    """List the processes that this one and its children have started and that still run."""

    def living() -> set[int]:
        found = set()
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just exited
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.add(child.pid)
        return found

    return living


@pytest.fixture
def talk() -> Callable[[nio.AsyncClient, nio.AsyncClient], Awaitable[str]]:
    """Share a room between two users, exchange a message in each direction and return the room."""
    return _talk


@pytest.fixture
def hear() -> Callable[[nio.AsyncClient, str, str], Awaitable[None]]:
    """Wait until a user sees a text in a room."""
    return _hear


async def _talk(one: nio.AsyncClient, other: nio.AsyncClient) -> str:
    """Share a room and exchange a message in each direction; return the room."""
    room = await _share_room(one, other)
    await _say(one, room, "hello")
    await _hear(other, room, "hello")
    await _say(other, room, "hello yourself")
    await _hear(one, room, "hello yourself")
    return room


async def _share_room(one: nio.AsyncClient, other: nio.AsyncClient) -> str:
    created = await one.room_create(invite=[other.user_id])
    assert isinstance(created, nio.RoomCreateResponse), created
    deadline = time.monotonic() + 60
    while created.room_id not in other.invited_rooms:
        assert time.monotonic() < deadline, "no invite arrived"
        await other.sync(timeout=5000)
    joined = await other.join(created.room_id)
    assert isinstance(joined, nio.JoinResponse), joined
    return str(created.room_id)


async def _say(client: nio.AsyncClient, room: str, text: str) -> None:
    sent = await client.room_send(room, "m.room.message", {"msgtype": "m.text", "body": text})
    assert isinstance(sent, nio.RoomSendResponse), sent


async def _hear(client: nio.AsyncClient, room: str, text: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        synced = await client.sync(timeout=5000)
        if not isinstance(synced, nio.SyncResponse) or room not in synced.rooms.join:
            continue
        events = synced.rooms.join[room].timeline.events
        if any(isinstance(event, nio.RoomMessageText) and event.body == text for event in events):
            return
    pytest.fail(f"{client.user_id} never saw {text!r}")
