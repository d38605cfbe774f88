"""The pages in a real browser: they follow what happens, keep what the reader opened, and break no policy."""

import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.integration.http.conftest import HttpHarness, ScriptedAdapter, ended

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

TWO = "await alice.perform('one')\nawait alice.perform('two')"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page as wide as a telephone; nothing may complain in its console."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        opened = await browser.new_page(viewport={"width": 400, "height": 900})
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda message: complaints.append(message.text))
        yield opened
        await browser.close()
    assert complaints == []


async def test_pages_follow_what_happens(site: HttpHarness, page: Page) -> None:
    """Defect 30: nothing was live."""
    await page.goto(f"{site.url}/status")
    await expect(page.locator("h1")).to_have_text("No session has run yet")
    session = await site.start(TWO)
    await expect(page.locator("#list .badge")).to_have_text("waiting", timeout=10_000)
    adapter = ScriptedAdapter(site)
    await adapter.register()
    message = await adapter.action()
    await expect(page.locator("#list .badge")).to_have_text("running", timeout=10_000)
    details = page.locator("#adapters details").first
    await details.locator("summary").click()
    await adapter.respond({"id": message["id"]})
    message = await adapter.action()
    await expect(page.locator("#adapters")).to_contain_text("two is outstanding", timeout=10_000)
    assert await details.evaluate("element => element.open")
    await adapter.respond({"id": message["id"]})
    await ended(session)
    await expect(page.locator("#list .badge")).to_have_text("success", timeout=10_000)
    await page.locator(".line").click()
    await expect(page.locator("h1")).to_contain_text("alice=Type")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400


async def test_all_sessions_are_a_click_away(site: HttpHarness, page: Page) -> None:
    for _ in range(2):
        session = await site.start(TWO)
        site.lab.engine.cancel(session, "enough")
        await ended(session)
    await page.goto(f"{site.url}/status")
    await page.get_by_role("link", name="all sessions").first.click()
    await expect(page.locator("h1")).to_have_text("2 sessions")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400
    await page.locator(".entry").first.click()
    await expect(page.locator(".over")).to_have_text(f"session {session.id} · interrupted")
