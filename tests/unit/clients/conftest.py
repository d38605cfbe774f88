"""A homeserver that is made up, and a link that operates it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from trafficlight.clients import HomeServer
from trafficlight.clients.base import ServerOperation
from trafficlight.errors import UnsupportedError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import TestEvent
from trafficlight.worker.assignment import CaseLink


class Accounts:
    """The part of a homeserver that knows users: registration and login."""

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}
        self.devices: list[str] = []
        self.agents: list[str] = []

    async def register(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["username"]
        if name in self.passwords:
            return web.json_response({"errcode": "M_USER_IN_USE", "error": "taken"}, status=400)
        self.passwords[name] = body["password"]
        return web.json_response({"user_id": f"@{name}:example.org"})

    async def login(self, request: web.Request) -> web.Response:
        body = await request.json()
        user_id = body["identifier"]["user"]
        localpart = user_id.removeprefix("@").partition(":")[0]
        if self.passwords.get(localpart) != body["password"]:
            return web.json_response({"errcode": "M_FORBIDDEN", "error": "wrong password"}, status=403)
        self.devices.append(localpart)
        self.agents.append(request.headers["User-Agent"])
        device = f"DEVICE{len(self.devices)}"
        return web.json_response({"user_id": user_id, "device_id": device, "access_token": device})


class Operations(CaseLink):
    """A link that writes down what is done to homeservers, and can do all but pause them."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        raise NotImplementedError

    async def upload(self, role: str, name: str) -> Path:
        raise NotImplementedError

    async def operate(self, role: str, operation: ServerOperation, config: JsonObject) -> None:
        if operation == "pause":
            raise UnsupportedError("a homeserver from elsewhere cannot be paused")
        self.done.append((role, operation))

    async def network(self) -> Path:
        raise NotImplementedError

    def emit(self, event: TestEvent) -> None:
        """Its steps are of no interest here."""


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest_asyncio.fixture
async def server(accounts: Accounts) -> AsyncIterator[HomeServer]:
    app = web.Application()
    for version in ("r0", "v3"):
        app.router.add_post(f"/_matrix/client/{version}/register", accounts.register)
        app.router.add_post(f"/_matrix/client/{version}/login", accounts.login)
    async with TestServer(app) as running:
        found = HomeServer("example.org", str(running.make_url("/")))
        yield found
        await found.close()


@pytest.fixture
def operations() -> Operations:
    """What was done to homeservers."""
    return Operations()
