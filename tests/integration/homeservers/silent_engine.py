"""A Docker engine that falls silent on request: the real one does not do that when it is asked to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

__all__ = ["SilentEngine"]


class SilentEngine:
    """As much of the engine's API as a deployment takes, with faults.

    :ivar silent: the last parts of paths that are not answered for as long as they are in here.
    :ivar events: what is sent to those who follow its events; each is sent once.
    :ivar asked: the paths that were asked for, without the version.
    """

    def __init__(self) -> None:
        self.url = ""
        self.silent: set[str] = set()
        self.events: list[bytes] = []
        self.asked: list[str] = []
        self._over = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["SilentEngine"]:
        """Serve it on loopback until this is left."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"tcp://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self._over.set()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/").partition("/")[2] if "/v1" in request.path else request.path
        path = path.strip("/")
        self.asked.append(path)
        if self.silent & {path, path.rpartition("/")[2]}:
            await self._over.wait()
        match path.split("/"):
            case ["events"]:
                return await self._send_events(request)
            case ["info"]:
                now = datetime.now(UTC).isoformat()
                return web.json_response({"MemTotal": 2**34, "NCPU": 2, "SystemTime": now})
            case ["version"]:
                return web.json_response({"ApiVersion": "1.43", "Version": "24.0"})
            case ["containers" | "networks", "create"]:
                return web.json_response({"Id": "made", "Warnings": []}, status=201)
            case ["containers", "json"] | ["networks"]:
                return web.json_response([])
            case ["images", *_]:
                return web.json_response({"Id": "image"})
            case _:
                return web.json_response({"Id": "made"})

    async def _send_events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        for event in self.events:
            await answer.write(event + b"\n")
        self.events.clear()
        await self._over.wait()
        return answer
