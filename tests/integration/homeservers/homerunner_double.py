"""A homerunner that needs no Docker, with the faults of the real one on demand."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from trafficlight.homeservers.provider import Provider, ServerRequest
from trafficlight.server_types import HomeServerSpec

__all__ = ["Double", "Faults"]

_Facts = dict[str, Any]


@dataclass
class Faults:
    """What goes wrong. Numbers count down: so many times, then no more.

    :param delay: seconds that a create takes.
    :param refuse: creates that end with this many 400s, an unhealthy container each; their names are burnt.
    :param mute: creates that answer 200 while their homeservers never answer.
    :param cut: creates whose connection is closed while they continue.
    :param crash: ends the whole homerunner in the middle of a create.
    :param no_docker: every create fails, although it is healthy.
    :param lifetime: minutes until the servers end.
    :param digits: digits of the fraction of a second in `expires`.
    :param incomplete: leaves homeservers out of the answer.
    """

    delay: float = 0.0
    refuse: int = 0
    mute: int = 0
    cut: int = 0
    crash: bool = False
    no_docker: bool = False
    lifetime: float = 30.0
    digits: int = 6
    incomplete: bool = False


@dataclass
class _Deployment:
    stack: AsyncExitStack
    facts: dict[str, _Facts]
    expiry: asyncio.Task[None] | None = None


@dataclass
class Double:
    """One homerunner at a port of its own.

    :param faults: what goes wrong; may change at any time.
    :param backend: deploys real homeservers; by default they only answer ``/versions``.
    :param folder: where the backend's logs go.
    """

    faults: Faults = field(default_factory=Faults)
    backend: Provider | None = None
    folder: Path = Path()
    images: set[str] = field(default_factory=lambda: {"complement-synapse:stable"})
    #: The bodies of all creates, in order.
    created: list[_Facts] = field(default_factory=list)
    destroyed: list[str] = field(default_factory=list)
    #: What the backend's homeservers are called, by their URL: others than the real one's, `hs1` and so on.
    names: dict[str, str] = field(default_factory=dict)
    #: The most creates that ran at once.
    most_at_once: int = 0
    _running: int = 0
    _live: dict[str, _Deployment] = field(default_factory=dict)
    #: The first deployment of each name, which is deployed again for every request.
    _snapshots: dict[str, list[_Facts]] = field(default_factory=dict)
    _burnt: set[str] = field(default_factory=set)
    _creates: set["asyncio.Task[tuple[int, _Facts]]"] = field(default_factory=set)
    _runner: web.AppRunner | None = None
    _port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def live(self) -> set[str]:
        """The names of what runs."""
        return set(self._live)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Double"]:
        """Serve until this is left, and destroy everything that it started."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_post("/create", self._create)
        app.router.add_post("/destroy", self._destroy)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        try:
            yield self
        finally:
            if self._creates:
                await asyncio.wait(self._creates)
            await self.stop()
            for name in list(self._live):
                await self._end(name)

    async def stop(self) -> None:
        """Refuse connections from now on. Idempotent."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def settled(self) -> None:
        """Return when no create is under way."""
        while self._creates:
            await asyncio.wait(self._creates)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _create(self, request: web.Request) -> web.StreamResponse:
        work = asyncio.create_task(self._bring_up(await request.read()))
        self._creates.add(work)
        work.add_done_callback(self._creates.discard)
        if self.faults.crash:
            self._abort(request)
            assert self._runner is not None
            for site in list(self._runner.sites):
                await site.stop()
            await asyncio.shield(work)
            raise asyncio.CancelledError
        if self.faults.cut:
            self.faults.cut -= 1
            self._abort(request)
        status, body = await asyncio.shield(work)  # it continues after the client disconnected
        return web.json_response(body, status=status)

    def _abort(self, request: web.Request) -> None:
        assert request.transport is not None
        request.transport.close()

    async def _bring_up(self, raw: bytes) -> tuple[int, _Facts]:
        try:
            body = json.loads(raw)
        except ValueError:
            return 400, {"message": "request body not JSON"}
        self.created.append(body)
        if not body.get("base_image_uri"):
            return 400, {"message": "missing base image uri"}
        if not body.get("blueprint_name") and not body.get("blueprint"):
            return 400, {"message": "one of 'blueprint_name' or 'blueprint' must be specified"}
        name = body["blueprint"]["Name"]
        if name in self._live or name in self._burnt:
            return _failed(f"Conflict. The container name /complement_homerunner_{name} is already in use")
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            await asyncio.sleep(self.faults.delay)
            return await self._deploy(name, body)
        finally:
            self._running -= 1

    async def _deploy(self, name: str, body: _Facts) -> tuple[int, _Facts]:
        wanted = self._snapshots.setdefault(name, body["blueprint"]["Homeservers"])
        for server in wanted:
            image = server.get("BaseImageURI") or body["base_image_uri"]
            if image not in self.images:
                return _failed(f"Error response from daemon: No such image: {image}")
        if self.faults.no_docker:
            return _failed("Cannot connect to the Docker daemon at unix:///var/run/docker.sock")
        if self.faults.refuse or self.faults.crash:
            self.faults.refuse -= 1
            self._burnt.add(name)
            return _failed(
                f"{name}: failed to check server is up. timed out checking for homeserver to be up"
            )
        mute = self.faults.mute > 0
        self.faults.mute -= mute
        stack = AsyncExitStack()
        servers = await self._start(name, [server["Name"] for server in wanted], stack, mute=mute)
        expires = datetime.now(UTC) + timedelta(minutes=self.faults.lifetime)
        self._live[name] = deployment = _Deployment(stack, servers)
        deployment.expiry = asyncio.create_task(self._expire(name, self.faults.lifetime * 60))
        fraction = f".{expires.microsecond:06d}000"[: self.faults.digits + 1] if self.faults.digits else ""
        shown = {} if self.faults.incomplete else servers
        return 200, {"homeservers": shown, "expires": f"{expires:%Y-%m-%dT%H:%M:%S}{fraction}Z"}

    async def _start(
        self, name: str, names: Sequence[str], stack: AsyncExitStack, *, mute: bool
    ) -> dict[str, _Facts]:
        if self.backend is not None:
            spec = HomeServerSpec("SynapseStable", "synapse", "stable", "")
            requests = [ServerRequest(server, spec, self.folder / f"{name}-{server}.log") for server in names]
            found = await stack.enter_async_context(self.backend.deploy(name, requests))
            self.names |= {server.cs_api: server.server_name for server in found}
            return {
                server.role: _facts(name, server.role, server.cs_api)
                | {"FedBaseURL": f"https://{server.server_name}"}
                for server in found
            }
        facts = {}
        for server in names:
            port = await stack.enter_async_context(_answering(404 if mute else 200))
            facts[server] = _facts(name, server, f"http://127.0.0.1:{port}")
        return facts

    async def _expire(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        deployment = self._live.pop(name)
        await deployment.stack.aclose()

    async def _end(self, name: str) -> None:
        deployment = self._live.pop(name)
        if deployment.expiry is not None:
            deployment.expiry.cancel()
        await deployment.stack.aclose()

    async def _destroy(self, request: web.Request) -> web.Response:
        name = (await request.json()).get("blueprint_name")
        if not name:
            return web.json_response({"message": "missing blueprint name"}, status=400)
        if name not in self._live:
            return web.json_response({"message": f"no deployment with name '{name}' exists"}, status=500)
        self.destroyed.append(name)
        await self._end(name)
        return web.json_response({})


def _failed(reason: str) -> tuple[int, _Facts]:
    return 400, {"message": f"failed to create deployment: {reason}"}


def _facts(name: str, server: str, url: str) -> _Facts:
    """Return the description of a homeserver as the real one does: with a 200, its tokens may be missing."""
    return {
        "BaseURL": url,
        "FedBaseURL": url,
        "ContainerID": "0123456789abcdef",
        "AccessTokens": {f"@alice:{server}": ""},
        "DeviceIDs": {},
        "ApplicationServices": {},
        "Network": f"complement_homerunner_{name}",
    }


@asynccontextmanager
async def _answering(status: int) -> AsyncIterator[int]:
    """Serve what looks like a homeserver's ``/versions``."""

    async def versions(request: web.Request) -> web.Response:
        return web.json_response({"versions": ["v1.1"]}, status=status)

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"server": {"name": "Synapse", "version": "1.0 (b=main)"}})

    app = web.Application()
    app.router.add_get("/_matrix/client/versions", versions)
    app.router.add_get("/_matrix/federation/v1/version", version)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await runner.cleanup()
