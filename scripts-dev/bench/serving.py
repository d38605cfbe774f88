"""The servers that are measured: ``serving.py lab|bare URL_FILE [hypercorn|uvicorn|granian]``, until killed.

``lab`` is the real application over a real lab, with one more endpoint that plays the tests of many cases;
``bare`` does the least that Quart can do for the same requests. uvicorn and granian are not dependencies.
"""

import asyncio
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quart import Quart, jsonify, request
from quart.wrappers import Response

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.http.app import app_of
from trafficlight.http.server import bind, serving


def bare() -> Quart:
    """Return an application that answers at once, without state."""
    app = Quart("bare")
    app.config["MAX_CONTENT_LENGTH"] = None

    @app.post("/client/<uuid>/register")
    async def register(uuid: str) -> Response:
        await request.get_json()
        return jsonify({"uuid": uuid})

    @app.get("/client/<uuid>/poll")
    async def poll(uuid: str) -> Response:
        return jsonify({"action": "idle", "data": {"delay": 0}})

    @app.post("/client/<uuid>/respond")
    async def respond(uuid: str) -> Response:
        await request.get_json()
        return jsonify({"receipt": "unasked"})

    @app.post("/client/<uuid>/upload")
    async def upload(uuid: str) -> Response:
        size = 0
        async for chunk in request.body:
            size += len(chunk)
        return jsonify({"size": size})

    return app


def with_rounds(lab: Lab) -> Quart:
    """Return the lab's application, and an endpoint that asks every adapter for actions."""
    app = app_of(lab)

    @app.get("/bench/rounds/<int:actions>")
    async def rounds(actions: int) -> Response:
        """Ask all adapters at the same time, each for several actions; return the seconds of each action."""
        found: list[float] = []

        async def case(adapter: Any) -> None:
            for _ in range(actions):
                began = time.perf_counter()
                await adapter.channel.perform("dance", {"steps": 3}, 60.0)
                found.append(time.perf_counter() - began)

        async with asyncio.TaskGroup() as group:
            for adapter in lab.engine.pool.free:
                group.create_task(case(adapter))
        return jsonify(found)

    return app


async def _serve(kind: str, told: Path, server: str) -> None:
    async def until_killed(app: Quart) -> None:
        if server == "hypercorn":
            async with serving(app, bind("127.0.0.1", 0)) as url:
                await asyncio.to_thread(told.write_text, url)
                await asyncio.Event().wait()
        listening = bind("127.0.0.1", 0)
        port = listening.getsockname()[1]
        await asyncio.to_thread(told.write_text, f"http://127.0.0.1:{port}")
        if server == "uvicorn":
            uvicorn = importlib.import_module("uvicorn")
            await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve([listening])
        listening.close()
        granian = importlib.import_module("granian.server.embed")
        await granian.Server(app, port=port, interface="asgi", log_enabled=False).serve()

    if kind == "bare":
        await until_killed(bare())
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = {"results_folder": folder, "workers": 0, "adapters": {}}
        async with Lab.open(Settings.model_validate(settings)) as lab:
            await until_killed(with_rounds(lab))


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2]), *(sys.argv[3:] or ["hypercorn"])))
