"""A lab that answers over HTTP, and adapters that play case after case."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.session import Session
from trafficlight.http.app import app_of
from trafficlight.http.server import bind, serving
from trafficlight.results.events import State
from trafficlight.results.folder import ResultsFolder
from trafficlight.suites.planning import plan

HEAD = (
    "import pathlib, time\n"
    "from trafficlight import Test, matrix\nfrom trafficlight.client_types import Nio\n\n"
)

SIX = """
class Dances(Test):
    clients = {"alice": Nio}

    @matrix(n=range(6))
    async def run(self, alice, n):
        assert (await alice.perform("dance", n=n))["steps"] == n
"""


class HttpHarness:
    """A lab that answers over HTTP, and looping adapters."""

    def __init__(self, lab: Lab, url: str, http: aiohttp.ClientSession, folder: Path) -> None:
        self.lab = lab
        self.url = url
        self.http = http
        self.folder = folder
        self.tasks: set[asyncio.Task[None]] = set()

    async def submit(self, name: str, text: str) -> Session:
        path = self.folder / f"{name}_test.py"
        path.write_text(HEAD + text)
        planned = plan([path], directory=self.folder)
        assert not planned.problems, planned.problems
        folder = ResultsFolder.create(self.folder / "results", self.lab.clock.now().date())
        return await self.lab.engine.submit(folder, planned, SessionOptions())

    def start_adapter(self) -> None:
        task = asyncio.create_task(self._loop(), name="adapter")
        self.tasks.add(task)

    async def _loop(self) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            while await self._live(f"{self.url}/client/{uuid4()}"):
                pass

    async def _live(self, client: str) -> bool:
        """Play one case; return whether there was one."""
        async with self.http.post(f"{client}/register", json={"type": "nio"}) as answer:
            assert answer.status == 200
        played = False
        while True:
            async with self.http.get(f"{client}/poll") as answer:
                message = await answer.json()
            if message["action"] == "exit":
                return played
            if message["action"] != "idle":
                played = True
                body = {"id": message["id"], "response": "danced", "steps": message["data"]["n"]}
                async with self.http.post(f"{client}/respond", json=body) as answer:
                    assert answer.status == 200


@asynccontextmanager
async def open_site(folder: Path, workers: int, **more: Any) -> AsyncIterator[HttpHarness]:
    settings = Settings.model_validate(
        {
            "results_folder": folder / "results",
            "workers": workers,
            "adapters": {},
            "grace": 0.1,
            **more,
        }
    )
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab.open(settings))
        url = await stack.enter_async_context(serving(app_of(lab), bind("127.0.0.1", 0)))
        stack.callback(lab.engine.pool.close, "the test is over")
        timeout = aiohttp.ClientTimeout(total=30)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        site = HttpHarness(lab, url, http, folder)
        yield site
        lab.engine.pool.close("the test is over")
        await asyncio.gather(*site.tasks)


async def ended(session: Session) -> None:
    async with asyncio.timeout(60):
        await session.ended.wait()
    assert {case.state for case in session.record.cases.values()} == {State.SUCCESS}
