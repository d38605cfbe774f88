"""One case of a session is cancelled, and runs again: over HTTP, and on its page."""

from pathlib import Path
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.integration.coordinator.conftest import EventRecorder
from tests.integration.http.conftest import HttpHarness, Opener, ScriptedAdapter, open_site, over
from tests.integration.http.sessions import lines, submitted
from trafficlight.coordinator.session import Session
from trafficlight.http.pages.views import case_path
from trafficlight.results.events import CaseEnded, CaseState
from trafficlight.results.history.verdicts import verdicts_of

# The second case keeps the session open: no adapter is of its type.
TESTS = """
from trafficlight import Test
from trafficlight.client_types import ClientType


class Phone(ClientType):
    type = "nio"


class Absent(ClientType):
    type = "absent"


class Talk(Test):
    clients = {"alice": Phone}

    async def run(self, alice):
        await alice.perform("one")

    async def teardown(self):
        self.attach("torn-down", b"yes")


class Open(Test):
    clients = {"alice": Absent}

    async def run(self, alice):
        pass
"""
TALK, OPEN = "talk_test.py::Talk[alice=Phone]", "talk_test.py::Open[alice=Absent]"


async def begun(site: HttpHarness, **request: Any) -> Session:
    """Start a session of the two cases."""
    path = site.folder / "talk_test.py"
    path.write_text(TESTS)
    body = await submitted(site, targets=[str(path)], **request)
    return site.lab.engine.sessions[body["id"]]


async def acting(site: HttpHarness) -> tuple[ScriptedAdapter, dict[str, Any]]:
    """Register an adapter and return it with its action."""
    adapter = ScriptedAdapter(site)
    await adapter.register()
    return adapter, await adapter.action()


async def failed(site: HttpHarness, told: EventRecorder) -> None:
    """Let the first attempt of the case fail."""
    adapter, _ = await acting(site)
    await adapter.error({"error": {"type": "action", "path": "here", "details": "no"}})
    await told.until(CaseEnded, attempt=1)


async def asked(site: HttpHarness, session: str, what: str, case: str = TALK, **more: str) -> tuple[int, Any]:
    answer = await site.post(f"/api/sessions/{session}/cases/{what}", json={"case": case, **more})
    return answer.status, answer.json().get("error", {}).get("code", "")


async def test_a_case_gets_a_further_attempt_in_its_session(site: HttpHarness) -> None:
    told = EventRecorder(site.lab.journal)
    session = await begun(site)
    assert await asked(site, session.id, "rerun") == (409, "case_not_ended")
    assert await asked(site, session.id, "rerun", "nothing") == (404, "unknown_case")
    await failed(site, told)
    assert await asked(site, session.id, "rerun", reason="new battery") == (200, "")
    assert await asked(site, session.id, "rerun") == (409, "case_not_ended")
    # Nothing has happened that would replace its verdict.
    assert await asked(site, session.id, "cancel") == (200, "")
    case = session.record.cases[TALK]
    assert (case.state, case.message.partition("\n")[0]) == ("failure", "alice: one: no [here]")
    assert await asked(site, session.id, "rerun") == (200, "")
    adapter, message = await acting(site)
    await adapter.respond({"id": message["id"]})
    await told.until(CaseEnded, attempt=2)
    assert await asked(site, session.id, "cancel", OPEN) == (200, "")
    await over(site, session.id)
    assert [one.state for one in case.attempts] == ["failure", "success"]
    assert (case.outcome, session.exit_code) == ("flaky", 0)
    assert b"flakyFailure" in session.folder.junit.read_bytes()
    events = lines((await site.get(f"/api/sessions/{session.id}/events")).body)
    reasons = [one["data"]["reason"] for one in events if one["kind"] in ("case_rerun", "case_cancelled")]
    assert reasons == [
        "the case was run again over the API: new battery",
        "the case was cancelled over the API",
        "the case was run again over the API",
        "the case was cancelled over the API",
    ]


async def test_a_running_case_is_cancelled_once_and_says_how(site: HttpHarness) -> None:
    told = EventRecorder(site.lab.journal)
    session = await begun(site, deflake=2)
    adapter, _ = await acting(site)
    form = {"case": TALK}
    answer = await site.post(f"/api/sessions/{session.id}/cases/cancel", data=form)
    assert (answer.status, answer.headers["Location"]) == (303, case_path(session.id, TALK))
    site.lab.engine.cancel_case(session, TALK, "again")  # changes nothing
    await told.until(CaseEnded, attempt=1)
    assert (await adapter.action())["action"] == "exit"
    case = session.record.cases[TALK]
    assert (case.state, case.message.partition(";")[0]) == (
        "error",
        "cancelled while running: the case was cancelled on its page",
    )
    assert case.attempt is not None
    folder = session.folder.path / case.attempt.folder
    assert next(folder.rglob("torn-down")).read_bytes() == b"yes"
    assert await asked(site, session.id, "cancel") == (409, "case_ended")
    # It keeps that verdict if nothing comes of a further attempt.
    assert await asked(site, session.id, "rerun") == (200, "")
    assert await asked(site, session.id, "cancel") == (200, "")
    assert (case.state, case.message.partition(";")[0]) == (
        "error",
        "cancelled while running: the case was cancelled on its page",
    )
    assert verdicts_of(session.record) == []
    await asked(site, session.id, "cancel", OPEN)
    await over(site, session.id)
    assert (len(case.attempts), session.exit_code) == (1, 3)
    assert b'type="trafficlight.error"' in session.folder.junit.read_bytes()


async def test_a_case_of_a_past_session_runs_again_in_a_new_one(tmp_path: Path) -> None:
    async with open_site(tmp_path, resumable=True) as site:
        told = EventRecorder(site.lab.journal)
        session = await begun(site, deflake=1, repeat=2)
        await failed(site, told)
        for case in list(session.record.cases):
            site.lab.engine.cancel_case(session, case, "enough")
        await over(site, session.id)
    async with open_site(tmp_path, resumable=True) as site:
        page = (await site.get(case_path(session.id, f"{TALK}#2"))).text()
        assert "Run again in a new session" in page
        answer = await site.post(f"/api/sessions/{session.id}/cases/rerun", data={"case": f"{TALK}#2"})
        assert answer.status == 303
        new = next(iter(site.lab.engine.sessions))
        assert answer.headers["Location"] == case_path(new, TALK)
        request = await site.lab.request_of(new)
        assert request is not None
        assert (request.only, request.deflake, request.repeat) == ([f"{TALK}#2"], 1, 1)
        assert await asked(site, session.id, "rerun") == (201, "")
        # `trafficlight run` starts none, and its pages offer none.
        assert site.app is not None
        site.app.config["SESSIONS"] = False
        assert await asked(site, session.id, "rerun") == (403, "no_sessions")
        assert "Run again" not in (await site.get(case_path(session.id, TALK))).text()


async def test_pages_offer_what_the_lab_accepts(opener: Opener, page: Page) -> None:
    site: HttpHarness = await opener()
    told = EventRecorder(site.lab.journal)
    session = await begun(site)
    await failed(site, told)
    await page.goto(site.url + case_path(session.id, TALK))
    badge, again = page.locator("#head .badge"), page.get_by_role("button", name="Run again")
    cancel = page.get_by_role("button", name="Cancel this case")
    await expect(badge).to_have_text("failure")
    assert not (await Axe().run(page)).response["violations"]
    # What the lab refuses stays to be read while the page follows what happens.
    refusal = {"error": {"code": "case_not_run", "message": "no camera"}}
    await page.route("**/cases/rerun", lambda route: route.fulfill(status=409, json=refusal))
    await again.click()
    news = page.get_by_role("status").filter(has_text="no camera")
    await expect(news).to_be_visible()
    await page.unroute("**/cases/rerun")
    for what, state in (("rerun", "waiting"), ("cancel", "failure")):
        assert await asked(site, session.id, what) == (200, "")
        await expect(badge).to_have_text(state)
    await expect(news).to_be_visible()
    await again.focus()
    await page.keyboard.press("Enter")
    await expect(badge).to_have_text("waiting")
    await acting(site)
    await told.until(CaseState, attempt=2, state="running")
    await expect(badge).to_have_text("running")
    await cancel.click()
    await told.until(CaseEnded, attempt=2)
    await expect(page.locator("#attempt-2")).to_contain_text("cancelled on its page")
    assert await asked(site, session.id, "cancel", OPEN) == (200, "")
    await over(site, session.id)
    new = page.get_by_role("button", name="Run again in a new session")
    await expect(new).to_be_visible()
    await new.click()
    await expect(badge).to_have_text("waiting")
    (started,) = site.lab.engine.sessions
    await expect(page).to_have_url(site.url + case_path(started, TALK))
