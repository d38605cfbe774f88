"""A fake Docker engine that leaves requests unanswered, or answers them wrongly, on demand."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

__all__ = ["EngineDouble"]

_VERSION = re.compile(r"^/v1\.\d+")
_INFO = {"MemTotal": 2**30, "NCPU": 1, "SystemTime": "2026-11-21T04:30:00.123456789Z"}


class EngineDouble:
    """One engine at its own port. Requests are named ``"GET /info"``, without the API version."""

    def __init__(self) -> None:
        #: The requests that it does not answer until :meth:`speak`.
        self.silent: set[str] = set()
        #: Wrong answers by request.
        self.nonsense: dict[str, Any] = {}
        self.images = {"complement-synapse:stable"}
        #: Seconds before each line of a pull's progress; after the last it is silent.
        self.pull: list[float] = []
        self.networks: dict[str, Any] = {}
        self.containers: dict[str, Any] = {}
        #: How often it received each request.
        self.asked: Counter[str] = Counter()
        #: When it received GET /info, on the loop's clock.
        self.moments: list[float] = []
        self._changed = asyncio.Condition()
        self._spoken = asyncio.Event()
        self._over = asyncio.Event()
        #: Who follows its events.
        self.listeners: list[asyncio.Queue[str | None]] = []
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["EngineDouble"]:
        """Serve until this is left."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self._over.set()
            self.speak()
            self.say(None)
            await runner.cleanup()

    def speak(self) -> None:
        """Answer the requests that it left unanswered."""
        self.silent.clear()
        self._spoken.set()
        self._spoken = asyncio.Event()

    def say(self, line: str | None) -> None:
        """Send a line to the event streams; None ends them."""
        for listener in self.listeners:
            listener.put_nowait(line)

    async def until_asked(self, what: str, times: int = 1) -> None:
        """Wait until it has received a request a number of times."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: self.asked[what] >= times)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = _VERSION.sub("", request.path)
        what = f"{request.method} {path}"
        if path == "/info":
            self.moments.append(asyncio.get_running_loop().time())
        async with self._changed:
            self.asked[what] += 1
            self._changed.notify_all()
        body = await request.json() if request.can_read_body else {}
        if what in self.silent:
            await self._spoken.wait()
        if what in self.nonsense:
            return web.json_response(self.nonsense[what])
        match request.method, path.strip("/").split("/"):
            case "GET", ["version"]:
                return web.json_response({"ApiVersion": "1.41"})
            case "GET", ["info"]:
                return web.json_response(_INFO)
            case "GET", ["events"]:
                return await self._events(request)
            case "GET", ["images", *name, "json"] if "/".join(name) in self.images:
                return web.json_response({})
            case "POST", ["images", "create"]:
                return await self._pull(request)
            case "GET", ["containers", _, "json"]:
                return web.json_response({"Config": {"Tty": False}})
            case "GET", ["containers", _, "logs"]:
                return await self._log(request)
            case "GET", ["containers", "json"]:
                return web.json_response([*self.containers.values()])
            case "GET", ["networks"]:
                return web.json_response([*self.networks.values()])
            case "GET", ["networks", id] if id in self.networks:
                return web.json_response(self.networks[id])
            case "POST", ["networks" | "containers" as kind, "create"]:
                return self._create(kind, body)
            case "DELETE", ["networks" | "containers" as kind, id] if id in self._made(kind):
                del self._made(kind)[id]
                return web.Response(status=204)
        return web.json_response({"message": f"there is no {what}"}, status=404)

    def _made(self, kind: str) -> dict[str, Any]:
        return self.networks if kind == "networks" else self.containers

    def _create(self, kind: str, body: dict[str, Any]) -> web.Response:
        id = f"{kind}{self.asked[f'POST /{kind}/create']}"
        self._made(kind)[id] = {"Id": id, "Names": [id], "Labels": body["Labels"]}
        return web.json_response({"Id": id}, status=201)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for seconds in self.pull:
            await asyncio.sleep(seconds)
            await response.write(b'{"status": "Downloading"}\n')
        if not self.pull:
            await self._over.wait()
        self.images.add(request.query["fromImage"])
        return response

    async def _log(self, request: web.Request) -> web.StreamResponse:
        """Send one line, then break the connection if the container's name is ``broken``."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"\1\0\0\0\0\0\0\5line\n")
        if "/broken/" in request.path:
            assert request.transport is not None
            request.transport.abort()
        else:
            await self._over.wait()
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        self.listeners.append(lines)
        try:
            while not self._over.is_set() and (line := await lines.get()) is not None:
                await response.write(line.encode() + b"\n")
        finally:
            self.listeners.remove(lines)
        return response
