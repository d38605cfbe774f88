"""The heat map of a session's page in a real browser: the keyboard, and one filter for all parts."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, Route, expect

from tests.integration.http.conftest import HttpHarness, ended
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.suites.planning import plan

PAIRS = """
from trafficlight.client_types import ClientType
from trafficlight.test import Test


class Web(ClientType):
    type = "web"


class Nio(ClientType):
    type = "nio"


class Talk(Test):
    clients = {"alice": [Web, Nio], "bob": [Web, Nio]}

    async def run(self, alice, bob) -> None: ...
"""

# Its rows come some at a time.
SHOWN = """new Promise(done => {
    const look = () => document.getAnimations().length ? requestAnimationFrame(look) : done();
    look();
})"""


async def _as_jenkins(route: Route, folder: Path) -> None:
    policy = "sandbox; default-src 'none'; img-src 'self'; style-src 'self';"
    name = urlsplit(route.request.url).path.removeprefix("/")
    await route.fulfill(path=folder / name, headers={"Content-Security-Policy": policy})


async def test_arrow_keys_move_and_enter_filters_everything(site: HttpHarness, page: Page) -> None:
    path = site.folder / "pairs_test.py"
    path.write_text(PAIRS)
    planned = plan([path], directory=site.folder)
    session = await site.lab.engine.submit(await site.lab.new_folder(), planned, SessionOptions())
    site.lab.engine.cancel(session, "enough")
    await ended(session)
    await page.goto(f"{site.url}/status/{session.id}")
    stop = page.locator("#map .maps [tabindex='0']")
    await expect(stop).to_have_count(1)
    await expect(stop).to_have_text("Web")
    await stop.focus()
    for key, text in (
        ("ArrowDown", "Nio"),
        ("ArrowUp", "Web"),
        ("ArrowUp", "Web"),
        ("End", "not run"),
    ):
        await page.keyboard.press(key)
        await expect(page.locator(":focus")).to_have_accessible_name(re.compile(text))
    await expect(stop).to_have_count(1)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**q=**", timeout=60_000)
    assert parse_qs(urlsplit(page.url).query) == {"q": ["clients:Web+Nio"]}
    await expect(page.locator("#list .line")).to_have_count(1)
    await expect(page.locator("#list .line")).to_contain_text("alice=Web,bob=Nio")
    await expect(page.locator("#map")).to_contain_text("Of 1 case that match")
    await page.goto(f"{site.url}/status/{session.id}?map=tests")
    await expect(page.locator("#map th").last).to_contain_text("Talk")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400

    assert page.context.browser is not None
    report = await page.context.browser.new_page()  # whose console has what the policy forbids
    await report.route("http://jenkins/**", lambda route: _as_jenkins(route, session.folder.path))
    await report.goto("http://jenkins/report.html")
    lamp = report.locator(".lamp").first
    await expect(lamp).to_have_css("border-top-left-radius", "50%")
    await expect(report.locator("#map td a").first).to_have_accessible_name("· not run")


async def test_a_large_table_of_which_only_some_rows_are_laid_out(site: HttpHarness, page: Page) -> None:
    path = site.folder / "pairs_test.py"
    path.write_text(PAIRS.replace("[Web, Nio]", "[type(f'Client{n}', (Nio,), {}) for n in range(21)]"))
    planned = plan([path], directory=site.folder)
    session = await site.lab.engine.submit(await site.lab.new_folder(), planned, SessionOptions())
    site.lab.engine.cancel(session, "enough")
    await ended(session)
    await page.goto(f"{site.url}/status/{session.id}")
    await page.evaluate(SHOWN)
    table = page.get_by_role("grid")
    await expect(table.get_by_role("rowheader", name="Client20")).to_have_count(1)
    await table.get_by_role("rowheader", name="Client0").get_by_role("link").focus()
    for key in (*("ArrowDown",) * 20, "End"):
        await page.keyboard.press(key)
    last = page.locator(":focus")
    await expect(last).to_have_attribute("title", re.compile("Client20, Client20: not run"))
    await expect(last).to_be_in_viewport()
    head, cell = await table.get_by_role("columnheader").last.bounding_box(), await last.bounding_box()
    assert head is not None
    assert cell is not None
    assert abs(head["x"] + head["width"] / 2 - cell["x"] - cell["width"] / 2) < 1, (
        "columns are below each other"
    )
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400
    results = await Axe().run(page, context="#map", options={"preload": False})
    assert not results.response["violations"]
