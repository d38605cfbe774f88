"""The application over a real lab, on a real loopback port."""

import asyncio
import json
import shutil
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import aiohttp
import pytest
import yarl
from playwright.async_api import Page, async_playwright, expect
from quart import Quart

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.session import Session
from trafficlight.http.app import app_of
from trafficlight.http.server import bind, serving
from trafficlight.suites.planning import plan

# Milliseconds: long, as other tests run beside these, but less than a page waits before it polls.
expect.set_options(timeout=40_000)

TEST_FILE = """
from trafficlight.client_types import ClientType
from trafficlight.clients import MatrixClient
from trafficlight.test import Test


class Type(ClientType):
    type = "{client_type}"


class Talk(Test):
    clients = {{"alice": [Type]}}

    async def run(self, alice: MatrixClient) -> None:
{body}
"""


@dataclass(frozen=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    async def of(cls, asked: Any) -> "Answer":
        """Send a request and read all that comes."""
        async with asked as answer:
            return cls(answer.status, answer.headers, await answer.read())

    @property
    def content_type(self) -> str:
        return self.headers["Content-Type"].partition(";")[0]

    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class HttpHarness:
    """A lab that answers over HTTP."""

    url: str
    lab: Lab
    client: aiohttp.ClientSession
    folder: Path
    app: Quart | None = None

    async def start(self, body: str, file: str = "talk_test.py", *, client_type: str = "nio") -> Session:
        """Start a session of one case, whose test has this body; `alice` is its only client."""
        path = self.folder / file
        lines = textwrap.indent(textwrap.dedent(body).strip(), " " * 8)
        path.write_text(TEST_FILE.format(body=lines, client_type=client_type))
        planned = plan([path], directory=self.folder)
        assert not planned.problems, planned.problems
        return await self.lab.engine.submit(await self.lab.new_folder(), planned, SessionOptions())

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request to a path, which is not encoded."""
        url = yarl.URL(self.url + path, encoded="%" in path)
        return await Answer.of(self.client.request(method, url, allow_redirects=False, **options))

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        return await self.ask("POST", path, **options)


class ScriptedAdapter:
    """An adapter that does only what a test tells it to."""

    def __init__(self, site: HttpHarness, uuid: str | None = None) -> None:
        self.site = site
        self.uuid = uuid or str(uuid4())
        self.headers: dict[str, str] = {}

    @property
    def path(self) -> str:
        return f"/client/{self.uuid}"

    async def register(self, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = await self.site.post(
            f"{self.path}/register", json=body or {"type": "nio"}, headers=self.headers
        )
        assert answer.status == 200, answer.text()
        read: dict[str, Any] = answer.json()
        return read

    async def poll(self, wait: float | None = None) -> dict[str, Any]:
        query = "" if wait is None else f"?wait={wait}"
        answer = await self.site.get(f"{self.path}/poll{query}", headers=self.headers)
        assert answer.status == 200, answer.text()
        read: dict[str, Any] = answer.json()
        return read

    async def action(self) -> dict[str, Any]:
        """Poll until there is an action, or `exit`."""
        while (message := await self.poll())["action"] == "idle":
            pass
        return message

    async def respond(self, body: Any) -> Answer:
        return await self.site.post(f"{self.path}/respond", json=body, headers=self.headers)

    async def error(self, body: Any) -> Answer:
        return await self.site.post(f"{self.path}/error", json=body, headers=self.headers)

    async def upload(self, name: str, content: bytes) -> Answer:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("file", content, filename=name, content_type="application/octet-stream")
        return await self.site.post(f"{self.path}/upload", data=form, headers=self.headers)


Opener: TypeAlias = Callable[..., Any]


@asynccontextmanager
async def open_site(folder: Path, *, resumable: bool = False, **settings: Any) -> AsyncIterator[HttpHarness]:
    """Run a lab without homeservers and adapters of its own, and serve it.

    :param resumable: whether sessions can be resumed, as with `serve`.
    """
    values = {
        "results_folder": folder / "results",
        "workers": 0,
        "case_limit": 8,
        "adapters": {},
        "poll_hold": 5.0,
        "grace": 0.1,
        **settings,
    }
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab.open(Settings.model_validate(values), resumable=resumable))
        app = app_of(lab)
        url = await stack.enter_async_context(serving(app, bind("127.0.0.1", 0)))
        stack.callback(lab.engine.pool.close, "the test is over")
        # A limit for each request, so that a hang has a name.
        timeout = aiohttp.ClientTimeout(total=30)
        client = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        )
        yield HttpHarness(url, lab, client, folder, app)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    """A lab with the usual settings."""
    async with open_site(tmp_path) as opened:
        yield opened


@pytest.fixture
async def opener(tmp_path: Path) -> AsyncIterator[Opener]:
    """Open labs with other settings; they end with the test."""
    async with AsyncExitStack() as stack:

        async def opened(**settings: Any) -> HttpHarness:
            return await stack.enter_async_context(open_site(tmp_path, **settings))

        yield opened


async def ended(session: Session) -> Session:
    """Wait until a session is over."""
    async with asyncio.timeout(60):
        await session.ended.wait()
    return session


async def over(site: HttpHarness, id: str) -> None:
    """Wait until a session is over, which may be so already."""
    if (session := site.lab.engine.sessions.get(id)) is not None:
        await ended(session)


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page as wide as a phone, whose console must stay empty."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium here")
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        opened = await browser.new_page(viewport={"width": 400, "height": 900})
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda message: complaints.append(message.text))
        yield opened
        await browser.close()
    # Of a wrong token, of what the lab refuses, and of a field that a test has focused before the page could.
    status = "the server responded with a status of"
    expected = (f"{status} 401", f"{status} 409", "Autofocus processing was blocked")
    assert [text for text in complaints if not any(one in text for one in expected)] == []
