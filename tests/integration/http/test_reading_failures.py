"""Ten faults of different kinds, and a reader who sees only what Chromium shows."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from tests.integration.coordinator.conftest import FakeProvider
from tests.integration.http.conftest import HttpHarness, ScriptedAdapter, open_site
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.session import Session
from trafficlight.results.events import NetworkChanged, State
from trafficlight.suites.planning import plan

STACK = "TypeError: Cannot read properties of undefined\n" + "    at Room.send (room.js:7)\n" * 30
UNREADABLE = (
    "expected the message 'Hi' within 5 s; the timeline of 1 ends with: undecryptable message by @a:hs0"
)
TESTS = """
from trafficlight.client_types import ClientType
from trafficlight.server_types import SynapseStable
from trafficlight.test import Test

def kind(name):
    return type(name, (ClientType,), {"type": name})

class WrongText(Test):
    clients = {"alice": [kind("answers")]}
    async def run(self, alice):
        last = (await alice.perform("read"))["message"]
        assert last == "It compiles"

class BrokenAdapter(Test):
    clients = {"alice": [kind("crashes")]}
    async def run(self, alice):
        await alice.perform("send")

class NoAnswer(Test):
    timeout = 10
    clients = {"alice": [kind("silent")]}
    async def run(self, alice):
        await alice.perform("send", message="Good night")

class DeadClient(Test):
    clients = {"alice": [kind("dies")]}
    async def run(self, alice):
        await alice.perform("send")

class DeadHomeserver(Test):
    clients = {"alice": [kind("loses its homeserver")]}
    servers = {"server": SynapseStable}
    async def run(self, alice, server):
        await alice.perform("send")

class ServerError(Test):
    clients = {"alice": [kind("gets 500")]}
    async def run(self, alice):
        await alice.perform("send")

class Blocked(Test):
    clients = {"alice": [kind("is cut off")]}
    async def run(self, alice):
        await alice.perform("send")

class Mistyped(Test):
    clients = {"alice": [kind("answers")]}
    async def run(self, alice):
        await alice.verify_mesage("Hi")

class Undecryptable(Test):
    clients = {"alice": [kind("cannot decrypt")]}
    async def run(self, alice):
        await alice.perform("verify")

class NoAdapter(Test):
    clients = {"alice": [kind("absent")]}
    async def run(self, alice):
        await alice.perform("send")
"""
HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "find-out-why.md"
CAUSES = {
    "WrongText": ["It complies"],
    "BrokenAdapter": ["Cannot read properties of undefined", "at Room.send (room.js:7)"],
    "NoAnswer": ["alice was performing send", "message='Good night'", "too late"],
    "DeadClient": ["its process ended (signal 9)"],
    "DeadHomeserver": ["the homeserver server exited (signal 9)"],
    "ServerError": ["500 Internal Server Error"],
    "Blocked": ["alice: block PUT /send"],
    "Mistyped": ["no attribute 'verify_mesage'", 'await alice.verify_mesage("Hi")'],
    "Undecryptable": ["undecryptable message by @a:hs0"],
    "NoAdapter": ["absent"],
}
"""What a reader must find of each case."""


class Actor(ScriptedAdapter):
    """Goes wrong in the way that its type says, once it has an action."""

    def __init__(self, site: HttpHarness, kind: str, servers: FakeProvider, late: asyncio.Event) -> None:
        super().__init__(site)
        self.kind, self.servers, self.late = kind, servers, late

    async def play(self) -> None:
        message = await self.action()
        adapter = self.site.lab.engine.pool.get(self.uuid)
        answer = {"id": message.get("id")}
        match self.kind:
            case "answers":
                await self.respond({**answer, "message": "It complies"})
            case "crashes":
                await self.error({"error": {"type": "adapter", "details": STACK}})
            case "dies":
                await self.error({"error": {"type": "adapter", "details": "its process ended (signal 9)"}})
            case "gets 500":
                await self.respond(
                    {**answer, "response": "error", "error": "PUT /send: 500 Internal Server Error"}
                )
            case "cannot decrypt":
                await self.respond({**answer, "response": "error", "error": UNREADABLE})
            case "is cut off":
                assert adapter.lease is not None
                adapter.lease.emit(NetworkChanged(rule="block PUT /send", active=True), role="alice")
                await self.respond({**answer, "response": "error", "error": "no connection"})
            case "loses its homeserver":
                (server,) = self.servers.running
                server.exited = "signal 9"
            case "silent":
                await self.late.wait()
                assert (await self.respond(answer)).status == 409
            case _:
                raise AssertionError(self.kind)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[tuple[HttpHarness, Session]]:
    """A lab in which every case but one has failed, and that one waits."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(open_site(tmp_path))
        servers, late = FakeProvider(), asyncio.Event()
        engine = site.lab.engine
        engine._resources = replace(engine._resources, servers=servers)
        kinds = ["answers", "answers", "crashes", "silent", "dies", "loses its homeserver"]
        kinds += ["gets 500", "is cut off", "cannot decrypt"]
        actors = [Actor(site, kind, servers, late) for kind in kinds]
        for actor in actors:
            await actor.register({"type": actor.kind})
        path = tmp_path / "faults_test.py"
        path.write_text(TESTS)
        planned = plan([path], directory=tmp_path)
        assert not planned.problems
        session = await engine.submit(await site.lab.new_folder(), planned, SessionOptions())
        async with asyncio.TaskGroup() as group:
            playing = [group.create_task(actor.play()) for actor in actors]
            async with asyncio.timeout(90):
                while (
                    sum(case.verdict is not None for case in session.record.cases.values()) < len(CAUSES) - 1
                ):
                    await asyncio.sleep(0.05)
                late.set()
                # One of those that answer plays for a test that asks nothing.
                done = [task for task, actor in zip(playing, actors, strict=True) if actor.kind == "silent"]
                await asyncio.gather(*done)
            for task in playing:
                task.cancel()
        yield site, session
        engine.cancel(session, "the test is over")


async def reads(page: Page, words: list[str]) -> bool:
    """Whether a reader sees all of these words."""
    seen = await page.locator("main").inner_text()
    return all(word in seen for word in words)


async def clicks_to_the_cause(page: Page, overview: str, test: str) -> int:
    """Return how often a reader clicks, from the overview, until the cause is on the screen."""
    words = CAUSES[test]
    await page.goto(overview)
    clicks = 0
    if not await reads(page, words):
        await page.locator("#cases a", has_text=test).first.click()
        await expect(page.locator("h1")).to_contain_text("alice=")
        clicks += 1
    folded = page.locator("main details:not([open]) > summary")
    while not await reads(page, words) and await folded.count():
        await folded.filter(has_text="more line").or_(folded.filter(has_text="Traceback")).first.click()
        clicks += 1
    assert await reads(page, words), f"{test}: {words} in {await page.locator('main').inner_text()}"
    return clicks


async def test_every_cause_is_at_most_three_clicks_away(lab: tuple[HttpHarness, Session], page: Page) -> None:
    site, session = lab
    states = {case.class_name: case.state for case in session.record.cases.values()}
    assert states.pop("NoAdapter") is State.WAITING
    assert set(states.values()) == {State.FAILURE, State.ERROR}
    await page.set_viewport_size({"width": 1440, "height": 900})
    overview = f"{site.url}/status/{session.id}"
    clicks = {test: await clicks_to_the_cause(page, overview, test) for test in CAUSES}
    assert max(clicks.values()) <= 3, clicks

    # What the how-to says of the first of them.
    await page.goto(overview)
    await page.locator("#cases a", has_text="WrongText").first.click()
    await page.locator("#copies summary").click()
    await expect(page.locator("#copy-command")).to_be_visible()
    seen = await page.locator("main").inner_text()
    _, code, _, verdict, *_ = HOW_TO.read_text().split("```")
    assert all(line.strip() in TESTS for line in code.splitlines()[2:])
    assert verdict.strip() in seen
    assert "trafficlight run 'faults_test.py::WrongText[alice=answers]'" in seen
    for name in ("Copy the id, the command, an issue", "expected", "received", "next failure"):
        assert name in seen, name

    # The cursor: what was said then, without a reload, also if it is moved before the script has been loaded.
    moved = asyncio.Event()

    async def late(route: Route) -> None:
        await moved.wait()
        await route.continue_()

    await page.route("**/static/case.js", late)
    await page.goto(overview)
    await page.locator("#cases a", has_text="Blocked").first.click()
    slider = page.get_by_role("slider", name="Moment")
    await slider.focus()
    await slider.press("Home")
    moved.set()
    await expect(page.locator("#attempt-1-evidence h3")).to_contain_text("of 0.00 s")
    await expect(page.locator("#attempt-1-evidence")).to_contain_text("adapter leased")
    await expect(page).to_have_url(re.compile("at=0"))
