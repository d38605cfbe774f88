"""The pages in a real browser: they follow events, keep what the reader opened, and violate no policy."""

import asyncio
import time
from urllib.parse import urlsplit

from playwright.async_api import Locator, Page, Route, expect

from tests.integration.http.conftest import HttpHarness, Opener, ScriptedAdapter, ended
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.session import Session
from trafficlight.http.pages.views import case_path
from trafficlight.results.events import CaseEnded, Log, State
from trafficlight.suites.planning import plan

PAIRS = """
from trafficlight.client_types import ClientType
from trafficlight.test import Test

TYPES = [type(name, (ClientType,), {"type": name}) for name in ("web", "nio", "ios")]

class Talk(Test):
    clients = {"alice": TYPES, "bob": TYPES}
    async def run(self, alice, bob): ...
"""
TWO = "await alice.perform('one')\nawait alice.perform('two')"


async def test_pages_follow_what_happens(site: HttpHarness, page: Page) -> None:
    await page.goto(f"{site.url}/status")
    await expect(page.locator("h1")).to_have_text("No session has run yet")
    session = await site.start(TWO)
    await expect(page.locator("#list .badge")).to_have_text("waiting")
    adapter = ScriptedAdapter(site)
    await adapter.register()
    message = await adapter.action()
    await expect(page.locator("#list .badge")).to_have_text("running")
    details = page.locator("#adapters details").first
    await details.locator("summary").click()
    await adapter.respond({"id": message["id"]})
    message = await adapter.action()
    await expect(page.locator("#adapters")).to_contain_text("two is outstanding")
    assert await details.evaluate("element => element.open")
    await adapter.respond({"id": message["id"]})
    await ended(session)
    await expect(page.locator("#list .badge")).to_have_text("success")
    await page.locator(".line").click()
    await expect(page.locator("h1")).to_contain_text("alice=Type")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400


async def test_a_page_stays_with_its_session_and_what_the_reader_did_stays(
    site: HttpHarness, page: Page
) -> None:
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start(TWO)
    message = await adapter.action()
    await page.goto(f"{site.url}/status?q=alice:*")
    await expect(page).to_have_url(f"{site.url}/status/{session.id}?q=alice:*")
    button = page.get_by_role("button", name="Pause")
    await button.focus()
    await adapter.respond({"id": message["id"]})
    message = await adapter.action()
    await expect(page.locator("#adapters")).to_contain_text("two is outstanding")
    await expect(button).to_be_focused()
    newer = await site.start(TWO)
    await adapter.respond({"id": message["id"]})
    await ended(session)
    await expect(page.locator("#newer")).to_have_text(f"A newer session has begun: {newer.id}")
    await expect(page.locator("#head .over")).to_contain_text(session.id)


async def test_long_words_do_not_push_a_page_sideways(site: HttpHarness, page: Page) -> None:
    """A label of 3,000 letters did, and the name of a measurement."""
    word = "W" * 3000
    fields = {
        "version": word[:900],
        "instance": word[:150],
        "labels": [word],
        "homepage": word,
        word[:200]: word,
    }
    await ScriptedAdapter(site).register({"type": word[:200], **fields})
    adapter = ScriptedAdapter(site)
    await adapter.register({"type": "nio", **fields})
    session = await site.start(
        f"await alice.perform('one')\nself.measure({word[:200]!r}, 1)\nassert not {word!r}"
    )
    message = await adapter.action()
    await adapter.upload(f"{word[:180]}.txt", b"text")
    await adapter.respond({"id": message["id"], "text": word})
    await ended(session)
    (case,) = session.record.cases
    pages = [site.url + path for path in ("/status", case_path(session.id, case))]
    for url in (*pages, (session.folder.path / "report.html").as_uri()):
        for width in (400, 1440):
            await page.set_viewport_size({"width": width, "height": 900})
            await page.goto(url)
            await page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, (url, width)


async def editing(site: HttpHarness, page: Page) -> tuple[ScriptedAdapter, Session, str, Locator]:
    """Show a running case and type into a field. The third value is the id of the outstanding action."""
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start(TWO)
    message = await adapter.action()
    await adapter.upload("network.har", b'{"log": {"entries": []}}')
    (case,) = session.record.cases
    await page.goto(site.url + case_path(session.id, case))
    field = page.locator("input[name=between]")
    await field.fill("1:")
    return adapter, session, message["id"], field


async def test_what_is_typed_into_the_filter_of_requests_stays(site: HttpHarness, page: Page) -> None:
    adapter, session, id, field = await editing(site, page)
    await adapter.respond({"id": id})
    message = await adapter.action()
    await expect(page.locator("#attempt-1")).to_contain_text("two")
    assert await field.input_value() == "1:"
    await adapter.respond({"id": message["id"]})
    await ended(session)
    await expect(page.locator("#head .badge")).to_have_text("success")
    assert await field.input_value() == "1:"


async def test_parts_come_and_go_while_a_field_is_edited(site: HttpHarness, page: Page) -> None:
    """Nothing was shown any more until the field was left: at the end of a case, its history comes."""
    adapter, _, id, field = await editing(site, page)
    await page.evaluate(
        """() => {
            const part = document.createElement("section");
            Object.assign(part, { id: "gone" }).dataset.live = "";
            document.querySelector("main").append(part);
            document.getElementById("attempt-1").remove();
        }"""
    )
    await adapter.respond({"id": id})
    await adapter.action()
    await expect(page.locator("#copies + #attempt-1")).to_contain_text("two")
    await expect(page.locator("#gone")).to_have_count(0)
    assert await field.input_value() == "1:"


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


class Requests:
    """What a page requests, apart from its static files."""

    def __init__(self, page: Page) -> None:
        self.paths: list[str] = []
        page.on("request", lambda request: self._add(urlsplit(request.url).path))

    def _add(self, path: str) -> None:
        if not path.startswith("/static/"):
            self.paths.append(path)

    def clear(self) -> None:
        self.paths.clear()

    def of(self, path: str) -> int:
        return self.paths.count(path)


async def waiting(site: HttpHarness) -> Session:
    """Start a session whose only case waits for an adapter, until that is known."""
    session = await site.start(TWO)
    (case,) = session.record.cases.values()
    async with asyncio.timeout(60):
        while not case.reason:
            await asyncio.sleep(0.05)
    return session


def log(site: HttpHarness, session: Session, case: str, message: str) -> None:
    site.lab.journal.append(Log(session=session.id, case=case, attempt=1, level="INFO", message=message))


async def test_an_idle_page_requests_nothing_and_an_event_leads_to_one_request(
    site: HttpHarness, page: Page
) -> None:
    session = await waiting(site)
    path = f"/status/{session.id}"
    requests = Requests(page)
    await page.goto(site.url + path)
    async with asyncio.timeout(60):
        while not requests.of(f"/api/sessions/{session.id}/events"):
            await asyncio.sleep(0.05)
    requests.clear()
    await page.wait_for_timeout(5_000)  # it would have polled at least once
    assert requests.paths == []
    await ScriptedAdapter(site).register()
    await expect(page.locator("#adapters")).to_contain_text("nio")
    (case,) = session.record.cases
    await page.wait_for_timeout(3_000)
    requests.clear()
    began = time.monotonic()
    for number in range(100):
        log(site, session, case, str(number))
        await asyncio.sleep(0.01)
    await page.wait_for_timeout(5_000)
    assert 1 <= requests.of(path) <= 1 + (time.monotonic() - began) / 2, "one each 2 s at most"
    assert set(requests.paths) == {path}  # the stream was never opened again


async def test_a_case_page_ignores_events_of_other_cases(site: HttpHarness, page: Page) -> None:
    session = await waiting(site)
    (case,) = session.record.cases
    path = case_path(session.id, case)
    requests = Requests(page)
    await page.goto(site.url + path)
    await page.wait_for_timeout(1_000)
    requests.clear()
    log(site, session, "other_test.py::Other", "not here")
    await page.wait_for_timeout(3_000)
    assert requests.of(path) == 0
    log(site, session, case, "here")
    async with asyncio.timeout(60):
        while not requests.of(path):
            await asyncio.sleep(0.05)


def end(site: HttpHarness, session: Session, case: str, state: State) -> None:
    site.lab.journal.append(
        CaseEnded(session=session.id, case=case, attempt=1, state=state, message="", seconds=1.0, phase="run")
    )


async def test_only_what_has_changed_is_sent_and_replaced(site: HttpHarness, page: Page) -> None:
    path = site.folder / "pairs_test.py"
    path.write_text(PAIRS)
    planned = plan([path], directory=site.folder)
    session = await site.lab.engine.submit(await site.lab.new_folder(), planned, SessionOptions())
    one, other, third, last = list(session.record.cases)[:4]
    async with asyncio.timeout(60):
        while not all(case.reason for case in session.record.cases.values()):
            await asyncio.sleep(0.05)
    url = f"{site.url}/status/{session.id}"
    await page.goto(url)
    cells, rows = page.locator("#map td a"), page.locator("#list li")
    await expect(cells).to_have_count(9)
    await cells.nth(0).focus()
    await page.evaluate("for (const one of document.querySelectorAll('#map td, #list li')) one.mine = true;")
    async with page.expect_response(lambda response: response.url == url, timeout=60_000) as update:
        end(site, session, one, State.FAILURE)
        end(site, session, other, State.SUCCESS)
    sent = await (await update.value).text()
    await expect(cells.nth(0)).to_contain_text("✗")
    await expect(cells.nth(1)).to_contain_text("✓")
    await expect(rows.first).to_contain_text("failure")
    assert "<h2>Adapters</h2>" not in sent
    assert sent.count("<td ") <= 2
    await expect(cells.nth(0)).to_be_focused()
    kept = "all => all.filter(one => one.mine).length"
    assert await page.locator("#map td").evaluate_all(kept) >= 8, "but the cell that was replaced"
    assert await rows.evaluate_all(kept) >= 7, (
        "rows move, and stay what they are, but those that were replaced"
    )

    # A part with selected text is left as it is, and catches up.
    await rows.first.evaluate("row => getSelection().selectAllChildren(row)")
    end(site, session, third, State.ERROR)
    await expect(cells.nth(2)).to_contain_text("!")
    await expect(page.locator("#list")).not_to_contain_text("error")
    await page.evaluate("getSelection().removeAllRanges()")
    await expect(page.locator("#list")).to_contain_text("error")

    # A coordinator that does not know the versions, as after its restart, sends all.
    await page.evaluate(
        "for (const part of document.querySelectorAll('[data-live]')) part.dataset.live = 'f';"
    )
    end(site, session, last, State.FAILURE)
    await expect(cells.nth(3)).to_contain_text("✗")
    assert await page.locator("#map td").evaluate_all(kept) >= 6, "but the cells that were replaced"
    await expect(page.locator("[data-live='f']")).to_have_count(0)


async def test_a_page_polls_while_the_stream_fails(site: HttpHarness, page: Page) -> None:
    session = await waiting(site)
    failed = 0

    async def fail(route: Route) -> None:
        nonlocal failed
        failed += 1
        await route.fulfill(status=204 if failed % 2 else 200, content_type="text/plain", body="")

    await page.route("**/events*", fail)
    await page.goto(f"{site.url}/status/{session.id}")
    await ScriptedAdapter(site).register()
    await expect(page.locator("#adapters")).to_contain_text("nio")
    assert failed
    await page.unroute("**/events*")
    site.lab.engine.cancel(session, "enough")
    await expect(page.locator(".over")).to_have_text(f"session {session.id} · interrupted")


async def test_the_stream_works_after_a_login(opener: Opener, page: Page) -> None:
    site = await opener(people_token="secret-of-people")
    session = await waiting(site)
    await page.goto(f"{site.url}/openapi")
    await page.evaluate(
        """() => {
            const form = Object.assign(document.createElement("form"), { method: "post", action: "/login" });
            for (const [name, value] of [["token", "secret-of-people"], ["next", "/status"]]) {
                form.append(Object.assign(document.createElement("input"), { name, value }));
            }
            document.body.append(form);
            form.submit();
        }"""
    )
    await expect(page.locator(".over")).to_have_text(f"session {session.id} · running")
    requests = Requests(page)
    site.lab.engine.cancel(session, "enough")
    await expect(page.locator(".over")).to_have_text(f"session {session.id} · interrupted")
    assert requests.of(f"/api/sessions/{session.id}/events") <= 1  # the one of the beginning sufficed


async def test_another_port_gets_no_login_that_changes_anything(opener: Opener, page: Page) -> None:
    """The program there, another user's perhaps, got the cookie, and ran code with it."""
    received: list[str] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\nhere")
        writer.close()

    site = await opener(people_token="secret-of-people")
    await ScriptedAdapter(site).register()
    elsewhere = await asyncio.start_server(receive, "127.0.0.1")
    port = elsewhere.sockets[0].getsockname()[1]
    async with elsewhere:
        await page.goto(f"{site.url}/status?q=x")
        await page.locator("#token").fill("wrong")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator("main")).to_contain_text("the token is wrong")
        await page.locator("#token").fill("secret-of-people")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_role("button", name="Drain all adapters").click()
        await expect(page.locator("#adapters")).to_contain_text("Drained, no adapter gets a new case")
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("body")).to_have_text("here")
        assert await page.evaluate("localStorage.length") == 0
    (cookie,) = [line.partition(": ")[2] for line in received[0].splitlines() if line.startswith("Cookie:")]
    replayed = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin", "Origin": site.url}
    assert (await site.get("/status", headers=replayed)).status == 200
    assert (await site.post("/api/adapters/undrain", headers=replayed)).status == 401
    assert site.lab.engine.pool.drained


async def test_a_form_that_is_sent_at_once_has_the_token(opener: Opener, page: Page) -> None:
    """Without it, a click right after a page began to load led to the login."""
    site = await opener(people_token="secret-of-people")
    await ScriptedAdapter(site).register()
    await page.goto(f"{site.url}/status")
    await page.locator("#token").fill("secret-of-people")
    await page.get_by_role("button", name="Log in").click()
    drain = page.get_by_role("button", name="Drain all adapters")
    await expect(drain).to_be_visible()
    loaded = asyncio.Event()

    async def late(route: Route) -> None:
        await loaded.wait()
        await route.continue_()

    await page.route("**/forms.js", late)
    await page.goto(f"{site.url}/status", wait_until="commit")
    click = asyncio.create_task(drain.click())
    await asyncio.wait([click], timeout=1)
    loaded.set()
    await click
    await expect(page.locator("#adapters")).to_contain_text("Drained, no adapter gets a new case")


async def test_a_hidden_page_holds_no_connection(site: HttpHarness, page: Page) -> None:
    session = await waiting(site)
    (case,) = session.record.cases
    path, stream = f"/status/{session.id}", f"/api/sessions/{session.id}/events"
    await page.add_init_script(
        "window.away = false; Object.defineProperty(document, 'hidden', { get: () => window.away });"
    )
    set_away = "away => { window.away = away; document.dispatchEvent(new Event('visibilitychange')); }"
    requests = Requests(page)
    await page.goto(site.url + path)
    async with asyncio.timeout(60):
        while not requests.of(stream):
            await asyncio.sleep(0.05)
    async with page.expect_event("requestfailed", lambda request: stream in request.url):
        await page.evaluate(set_away, True)
    requests.clear()
    log(site, session, case, "nobody looks")
    await page.wait_for_timeout(3_000)
    assert requests.paths == []
    await page.evaluate(set_away, False)
    async with asyncio.timeout(60):
        while not (requests.of(path) and requests.of(stream)):
            await asyncio.sleep(0.05)
