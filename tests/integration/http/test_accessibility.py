"""Every page, for everybody: axe finds nothing, the HTML is valid, no width breaks it."""

from pathlib import Path

import html5lib
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.integration.http.conftest import HttpHarness, ScriptedAdapter, ended, open_site
from trafficlight.coordinator.session import Session
from trafficlight.http.pages.views import case_path

pytestmark = pytest.mark.timeout(600)  # axe needs a minute, and more on a busy machine

LOG = "INFO begin\nWARN careful\nERROR it\n\x1b[31mred \x1b[33myellow \x1b[36mcyan\x1b[0m\nDEBUG it\n"
OPENED = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
DOUBLES = (
    "[...document.querySelectorAll('[id]')].map(one => one.id).filter((id, n, all) => all.indexOf(id) < n)"
)


@pytest.fixture
async def still(page: Page) -> Page:
    """A page that does not follow what happens: it would reload itself while the test goes on."""
    await page.route(
        "**/static/live.js", lambda route: route.fulfill(body="", content_type="text/javascript")
    )
    return page


async def played(site: HttpHarness) -> Session:
    """Run one case, which fails and leaves files."""
    adapter = ScriptedAdapter(site)
    await adapter.register({"type": "nio", "version": "1.2", "labels": ["desk"]})
    session = await site.start(
        "await alice.perform('one')\nself.measure('sync', 1)\nassert 1 == 2, 'sums are off'"
    )
    message = await adapter.action()
    await adapter.upload("one.log", LOG.encode())
    await adapter.upload("network.har", b'{"log": {"entries": []}}')
    await adapter.respond({"id": message["id"], "text": "an answer"})
    return await ended(session)


def pages_of(site: HttpHarness, session: Session, before: Session) -> list[str]:
    """Return the URL of every page."""
    (case,) = session.record.cases.values()
    log = f"{case.attempts[0].folder}/clients/alice/one.log"
    paths = (
        f"/status/{session.id}",
        "/sessions",
        case_path(session.id, case.id) + "?between=",
        f"/s/{before.id}...{session.id}",
        f"/status/{session.id}/log?file={log}&find=it#L2-L3",
        f"/status/{session.id}/log?file={log}&file={case.attempts[0].folder}/log.debug",
        "/openapi",
    )
    return [site.url + path for path in paths] + [(session.folder.path / "report.html").as_uri()]


async def faults(page: Page, urls: list[str]) -> list[str]:
    """Return what axe finds on pages in light and dark, on a desk and on a phone."""
    found = []
    for url in urls:
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            for width in (1440, 400):
                await page.set_viewport_size({"width": width, "height": 900})
                await page.goto(url)
                await page.evaluate(OPENED)
                # It would request the style sheets again, which the policy of reports forbids.
                results = await Axe().run(page, options={"preload": False})
                found += [
                    f"{url} {scheme} {width}: {one['id']} {node['html'][:200]} {node['failureSummary']}"
                    for one in results.response["violations"]
                    for node in one["nodes"]
                ]
    return found


async def test_axe_finds_nothing(site: HttpHarness, still: Page, tmp_path: Path) -> None:
    found = await faults(still, [f"{site.url}/status"])
    before, session = await played(site), await played(site)
    await ScriptedAdapter(site).register()
    found += await faults(still, pages_of(site, session, before))
    async with open_site(tmp_path / "locked", people_token="secret-of-people") as locked:
        found += await faults(still, [f"{locked.url}/status"])
        await expect(still.get_by_role("button", name="Log in")).to_be_visible()
    assert not found, "\n".join(found)


async def test_pages_are_valid_and_fit(site: HttpHarness, still: Page) -> None:
    strict = html5lib.HTMLParser(strict=True)
    strict.parse((await site.get("/status")).text())
    before, session = await played(site), await played(site)
    for url in pages_of(site, session, before):
        await still.goto(url)
        plain = url.removeprefix(site.url)
        report = session.folder.path / "report.html"
        text = report.read_text() if url.startswith("file:") else await page_text(site, plain)
        strict.parse(text)
        assert await still.evaluate(DOUBLES) == [], url
        for width in (320, 720, 2560):
            await still.set_viewport_size({"width": width, "height": 900})
            assert await still.evaluate("document.documentElement.scrollWidth") <= width, (url, width)


async def page_text(site: HttpHarness, path: str) -> str:
    return (await site.get(path.partition("#")[0], headers={"Accept": "text/html"})).text()


async def test_paper_forced_colours_and_reduced_motion(site: HttpHarness, still: Page) -> None:
    session = await played(site)
    await still.goto(f"{site.url}/status/{session.id}")
    await still.emulate_media(media="print")
    assert await still.locator("button:visible, form:visible, header:visible").count() == 0
    await still.emulate_media(media="screen", forced_colors="active", reduced_motion="reduce")
    lamp = "getComputedStyle(document.querySelector('.lamp')).backgroundColor"
    assert await still.evaluate(lamp) not in ("rgb(0, 0, 0)", "rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    assert await still.evaluate("document.getAnimations().length") == 0
