"""The pages, their files, and what their browsers must not do."""

import asyncio
import html
import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from tests.integration.http.conftest import HttpHarness, Opener, ScriptedAdapter, ended
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.session import Session
from trafficlight.http.pages import routes
from trafficlight.http.pages.views import case_key
from trafficlight.results.events import CaseWaits, Event, Log
from trafficlight.results.reports.causes import causes
from trafficlight.suites.planning import plan

NASTY = "<script>alert(1)</script> \" onload='x' {{ 7*7 }} \ud800 \x07 \x00"
BROWSER = {"Accept": "text/html"}


async def played(site: HttpHarness, body: str = "await alice.perform('one')", **answer: Any) -> Session:
    """Run one case."""
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start(body)
    message = await adapter.action()
    await adapter.upload("shot.png", b"\x89PNG\r\n\x1a\n")
    await adapter.upload("page.html", b"<script>alert(1)</script>")
    await adapter.upload("film.mp4", bytes(range(256)) * 40)
    await adapter.upload("cut.webm", b"")
    await adapter.respond({"id": message["id"], **answer})
    return await ended(session)


def file_path(session: Session, name: str) -> str:
    (case,) = session.record.cases.values()
    return f"/status/{session.id}/files/{quote(case.attempts[0].folder)}/clients/alice/{name}"


async def test_requests_of_clients_are_asked_for_by_time(site: HttpHarness) -> None:
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start("await alice.perform('one')")
    message = await adapter.action()
    entry = {
        "startedDateTime": datetime.now(UTC).isoformat(),
        "time": 1,
        "request": {"method": "GET", "url": "http://127.0.0.1:1/sync<b>", "bodySize": 0},
        "response": {"status": 200, "bodySize": 5},
    }
    await adapter.upload("network.har", json.dumps({"log": {"entries": [entry]}}).encode())
    await adapter.respond({"id": message["id"]})
    await ended(session)
    (case,) = session.record.cases.values()

    page = f"/status/{session.id}/case/{case_key(case.id)}"
    plain = (await site.get(page)).text()
    assert "sync" not in plain
    assert plain.count('name="between"') == 1
    assert "GET /sync&lt;b&gt;" in (await site.get(f"{page}?role=alice&between=")).text()
    assert "GET /sync&lt;b&gt; 200" in (await site.get(f"{page}?at=0")).text(), "what the cursor shows"
    assert "No requests in this range." in (await site.get(f"{page}?between=500:")).text()
    assert (await site.get(f"{page}?between=soon")).status == 400
    where = f"/api/sessions/{session.id}/requests?case={quote(case.id)}"
    asked = (await site.get(f"{where}&between=0:500")).json()
    assert asked["left_out"] == []
    assert (asked["attempt"], [one["target"] for one in asked["requests"]]) == (1, ["/sync<b>"])
    assert (await site.get(f"{where}&role=bob")).json()["requests"] == []
    assert (await site.get(f"{where}&attempt=2")).status == 404


async def test_the_root_redirects_to_the_status_page(site: HttpHarness) -> None:
    answer = await site.get("/")
    assert (answer.status, answer.headers["Location"]) == (302, "/status")


async def test_without_a_session(site: HttpHarness) -> None:
    answer = await site.get("/status")
    assert answer.status == 200
    assert "No session has run yet" in answer.text()
    answer = await site.get("/status/junit.xml")
    assert (answer.status, answer.content_type) == (200, "application/xml")
    assert ElementTree.fromstring(answer.body).get("tests") == "0"


async def test_the_status_page_is_found_with_a_slash_too(site: HttpHarness) -> None:
    """The original's documentation names /status/."""
    answer = await site.get("/status/")
    assert (answer.status, answer.headers["Location"]) == (302, "/status")


async def test_junit_of_a_session_without_a_verdict_yet_has_skipped_cases_only(site: HttpHarness) -> None:
    """It was an error that nothing ran. In the file it stays one: the coordinator may be killed."""
    session = await site.start("await alice.perform('one')")
    root = ElementTree.fromstring((await site.get("/status/junit.xml")).body)
    assert (root.get("tests"), root.get("skipped"), root.get("errors")) == ("1", "1", "0")
    assert "nothing ran" in session.folder.junit.read_text()


async def test_why_a_case_waits_is_shown(site: HttpHarness) -> None:
    session = await site.start("await alice.perform('one')")
    (case,) = session.record.cases.values()
    told = asyncio.Event()
    site.lab.journal.subscribe(lambda event: told.set() if isinstance(event, CaseWaits) else None)
    if not case.reason:
        await asyncio.wait_for(told.wait(), 60)
    assert case.reason
    assert case.reason in (await site.get("/status")).text()


async def test_warnings_and_what_they_mean_for_a_strict_session(site: HttpHarness) -> None:
    path = site.folder / "plain_test.py"
    path.write_text("from trafficlight import Test\n\n\nclass Plain(Test):\n    async def run(self): ...\n")
    planned = plan([path], directory=site.folder)
    options = SessionOptions(warnings=("there is no test in x",), strict=True)
    session = await site.lab.engine.submit(await site.lab.new_folder(), planned, options)
    await session.ended.wait()
    for url in (f"/status/{session.id}", "/sessions"):
        assert "which a strict session must not have" in (await site.get(url)).text()
    assert "there is no test in x" in (await site.get(f"/status/{session.id}")).text()
    assert "there is no test in x" in (await site.get(f"/api/sessions/{session.id}")).text()


async def test_junit_is_the_file_of_the_folder(site: HttpHarness) -> None:
    """It had no testcase and was served as text/html."""
    session = await played(site)
    for path in ("/status/junit.xml", f"/status/{session.id}/junit.xml", "/status/latest/junit.xml"):
        answer = await site.get(path)
        assert (answer.status, answer.content_type) == (200, "application/xml")
        assert answer.body == session.writer.junit() == session.folder.junit.read_bytes()
    assert b"<testcase" in session.writer.junit()


async def test_the_status_page_shows_cases_and_adapters(site: HttpHarness) -> None:
    session = await played(site)
    waiting = ScriptedAdapter(site)
    await waiting.register({"type": "element-web", "version": "1.11.9", "seat": "lab-2", "token": "hush"})
    text = (await site.get("/status")).text()
    (case,) = session.record.cases.values()
    assert f"/status/{session.id}/case/{case_key(case.id)}" in text
    assert "success" in text
    for shown in ("element-web", "1.11.9", "lab-2", waiting.uuid, "free"):
        assert shown in text
    assert "hush" not in text


async def test_the_case_page_shows_what_happened(site: HttpHarness) -> None:
    session = await played(site, "await alice.perform('one')\nassert 1 == 2, 'sums are off'")
    (case,) = session.record.cases.values()
    answer = await site.get(f"/status/{session.id}/case/{case_key(case.id)}")
    text = answer.text()
    for shown in ("sums are off", "Traceback", "Timeline", "adapter leased", "nio", "shot.png", "Log"):
        assert shown in text, shown
    assert f'<img loading="lazy" src="{file_path(session, "shot.png")}"' in text
    assert f'<video controls preload="metadata" src="{file_path(session, "film.mp4")}"' in text
    assert f'src="{file_path(session, "cut.webm")}"' not in text
    assert re.search(r'cut\.webm">cut\.webm</a>.*empty</span>', text)


async def test_adapters_that_are_not_listed_are_counted(
    site: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 of 504 were shown, without a word about the others."""
    monkeypatch.setattr("trafficlight.http.pages.views._ADAPTERS", 2)
    for kind in ("web", "nio", "ios"):
        await ScriptedAdapter(site).register({"type": kind})
    await site.start("await alice.perform('one')", client_type="other")
    text = (await site.get("/status")).text()
    assert "and 1 more adapter;" in text
    assert text.index("<b>ios</b>") < text.index("<b>nio</b>")
    assert "0 of 1 ended" in text
    assert "<dt>python</dt>" in text, "what the session ran with"


async def test_files_that_are_not_listed_are_counted(
    site: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trafficlight.http.pages.views._FILES", 3)
    session = await played(site)
    (case,) = session.record.cases.values()
    page = (await site.get(f"/status/{session.id}/case/{case_key(case.id)}")).text()
    assert re.search(r"and \d more files in the folder of the attempt", page)


async def test_pages_say_what_keeps_the_lab_from_working(
    site: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "unready", lambda lab: ["the disk is <full>"])
    for path in ("/status", "/sessions"):
        assert "The lab cannot work: the disk is &lt;full&gt;" in (await site.get(path)).text()


async def test_pages_say_that_nothing_runs(monkeypatch: pytest.MonkeyPatch, opener: Opener) -> None:
    monkeypatch.setattr("trafficlight.coordinator.stalls._STALL_ALARM", 0.1)
    site = await opener()
    events: list[Event] = []
    site.lab.journal.subscribe(events.append)
    session = await site.start("pass")
    stalled = site.lab.engine.stalled
    async with asyncio.timeout(60):
        while not stalled.alarm:
            await asyncio.sleep(0.05)
    text = (await site.get(f"/status/{session.id}")).text()
    assert re.search(
        r"The lab cannot work: no case has run since \S+ \S+ UTC while 1 case waits: needs 1", text
    )
    (first, *_) = [event.message for event in events if isinstance(event, Log)]
    assert first.startswith("no case has run since"), "which pages wait for"


async def test_the_report_is_shown_in_place(site: HttpHarness) -> None:
    session = await played(site)
    report = await site.get(f"/status/{session.id}/files/report.html")
    assert report.content_type == "text/html"
    assert "Content-Disposition" not in report.headers
    policy = report.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


async def test_text_is_never_markup(site: HttpHarness) -> None:
    """A lone surrogate in an error message led to a 500."""
    session = await played(site, f"await alice.perform('one')\nraise AssertionError({NASTY!r})")
    (case,) = session.record.cases.values()
    for path in ("/status", f"/status/{session.id}/case/{case_key(case.id)}"):
        answer = await site.get(path)
        text = answer.text()
        assert answer.status == 200
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text
        assert "\x07" not in text
        assert "onload='x'" not in text


async def test_pages_hold_no_inline_script_or_style(site: HttpHarness) -> None:
    session = await played(site)
    (case,) = session.record.cases.values()
    for path in ("/status", f"/status/{session.id}/case/{case_key(case.id)}", "/openapi", "/nope"):
        answer = await site.get(path, headers=BROWSER)
        text = answer.text()
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)", text)
        assert not re.search(r"\s(style|on\w+)=", text)
        assert not re.search(r'(src|href)="(https?:)?//', text)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("asset", ["pages.css", "live.js", "log.js", "forms.js", "grid.js", "icon.svg"])
async def test_assets_come_from_here(site: HttpHarness, asset: str) -> None:
    answer = await site.get(f"/static/{asset}")
    assert answer.status == 200


async def test_an_unchanged_page_is_not_sent_again(site: HttpHarness) -> None:
    session = await played(site)
    (case,) = session.record.cases.values()
    path = f"/status/{session.id}/case/{case_key(case.id)}"
    tag = (await site.get(path)).headers["ETag"]
    answer = await site.get(path, headers={"If-None-Match": tag})
    assert (answer.status, answer.body) == (304, b"")


async def test_pages_are_compressed_and_files_are_not(site: HttpHarness) -> None:
    session = await played(site)
    accepting = {"Accept-Encoding": "gzip"}
    for path in (f"/status/{session.id}", "/openapi"):
        answer = await site.get(path, headers=accepting)
        assert answer.headers["Content-Encoding"] == "gzip"
        assert int(answer.headers["Content-Length"]) < len(answer.body) / 2
        assert "Accept-Encoding" in answer.headers["Vary"]
        known = {**accepting, "If-None-Match": answer.headers.get("ETag", "")}
        assert (await site.get(path, headers=known)).status == (304 if "ETag" in answer.headers else 200)
        assert "Content-Encoding" not in (await site.get(path, headers={"Accept-Encoding": "br"})).headers
    for path in (file_path(session, "page.html"), f"/api/sessions/{session.id}/events", "/static/pages.css"):
        assert "Content-Encoding" not in (await site.get(path, headers=accepting)).headers


async def test_causes_are_found_again_when_a_case_has_ended(
    site: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def counted(cases: Any, since: Any) -> Any:
        found.append(len(cases))
        return causes(cases, since)

    monkeypatch.setattr("trafficlight.http.pages.views.causes", counted)
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start("await alice.perform('one')\nassert False, 'sums are off'")
    message = await adapter.action()
    for _ in range(2):
        assert "Causes" not in (await site.get(f"/status/{session.id}")).text()
    assert len(found) == 1
    await adapter.respond({"id": message["id"]})
    await ended(session)
    for _ in range(2):
        assert "<h2>Causes</h2>" in (await site.get(f"/status/{session.id}")).text()
    assert len(found) in (2, 3), "what changed since earlier sessions may be known between the two"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", True),
        ("?state=success", True),
        ("?state=failure", False),
        ("?state=failure&state=success", True),
        ("?q=TALK+alice", True),
        ("?q=nothing-like-it", False),
        ("?q=alice:*+and+not+state:failure", True),
        ("?q=state:failure", False),
        ("?q=(alice", False),
        ("?page=999", True),
        ("?page=-1&state=%00&q=%ff", False),
        ("?page=x", True),
    ],
)
async def test_cases_are_found_by_state_and_words(site: HttpHarness, query: str, found: bool) -> None:
    session = await played(site)
    answer = await site.get(f"/status/{session.id}{query}")
    assert answer.status == 200
    assert ('class="line"' in answer.text()) is found


async def test_a_filter_that_means_nothing_says_so(site: HttpHarness) -> None:
    session = await played(site)
    for query, problem in (
        ("?q=seconds:>x", "column 10: expected a number"),
        ("?state=bogus", "there is no state"),
        ("?q=carol:Nio", "carol is no role or parameter of these cases"),
    ):
        assert problem in html.unescape((await site.get(f"/status/{session.id}{query}")).text())
    answer = await site.get(f"/api/sessions/{session.id}/cases?q=(")
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_query")
    answer = await site.get(f"/api/sessions/{session.id}/cases?q=alice:*")
    assert answer.json()["total"] == 1
    assert (await site.get(f"/api/sessions/{session.id}/causes")).json() == {"causes": []}


@pytest.mark.parametrize(
    "path",
    [
        "/status/2000-01-01--001",
        "/status/2000-01-01--001/junit.xml",
        "/status/2000-01-01--001/files/x",
        "/status/latest/case/0123456789abcdef",
        "/status/latest/case?id=nope",
        "/status/latest/case",
        "/status/latest/files/nope.txt",
        "/status/latest/files/cases",
        "/status/latest/files/../../../etc/passwd",
        "/status/latest/files/..%2f..%2f..%2fetc%2fpasswd",
        "/status/latest/files/%2fetc%2fpasswd",
        "/status/latest/files//etc/passwd",
        "/status/latest/files/x%00",
        "/status/latest/files/%ff",
        "/status/latest/files/.",
        "/status/latest/files/" + "x" * 5000,
        "/status/%2e%2e/files/x",
    ],
)
async def test_unknown_paths_are_404(site: HttpHarness, path: str) -> None:
    """A file of an unknown session led to a 500."""
    session = await played(site)
    assert session.folder.path.is_dir()
    answer = await site.get(path)
    assert answer.status == 404
    assert set(answer.json()["error"]) == {"code", "message"}
    answer = await site.get(path, headers=BROWSER)
    assert (answer.status, answer.content_type) == (404, "text/html")


async def test_links_do_not_leave_the_folder(site: HttpHarness) -> None:
    session = await played(site)
    (session.folder.path / "out").symlink_to("/etc/passwd")
    (session.folder.path / ".secret").write_text("x")
    assert (await site.get("/status/latest/files/out")).status == 404
    assert (await site.get("/status/latest/files/.secret")).status == 404


async def test_uploads_cannot_run(site: HttpHarness) -> None:
    """An uploaded page was served as a page of the same origin."""
    session = await played(site)
    answer = await site.get(file_path(session, "page.html"))
    assert answer.status == 200
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    answer = await site.get(file_path(session, "shot.png"))
    assert answer.content_type == "image/png"
    assert answer.headers["Content-Disposition"].startswith("inline")
    assert "sandbox" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("asked", "status", "first", "length"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=100-", 206, 100, 10140),
        ("bytes=-5", 206, 10235, 5),
        ("bytes=10-999999", 206, 10, 10230),
        ("bytes=-999999", 206, 0, 10240),
        ("bytes=0-0,5-6", 200, 0, 10240),
        ("lines=1-2", 200, 0, 10240),
        ("bytes=9-1", 200, 0, 10240),
        ("nonsense", 200, 0, 10240),
    ],
)
async def test_ranges(site: HttpHarness, asked: str, status: int, first: int, length: int) -> None:
    session = await played(site)
    path, content = file_path(session, "film.mp4"), bytes(range(256)) * 40
    answer = await site.get(path, headers={"Range": asked})
    assert answer.status == status
    assert answer.body == content[first : first + length]
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {first}-{first + length - 1}/10240"
    head = await site.ask("HEAD", path, headers={"Range": asked})
    assert (head.status, head.headers["Content-Length"]) == (status, str(length))


async def test_a_range_behind_the_end(site: HttpHarness) -> None:
    session = await played(site)
    answer = await site.get(file_path(session, "film.mp4"), headers={"Range": "bytes=10240-"})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */10240"
    assert answer.json()["error"]["code"] == "range_not_satisfiable"


async def test_a_file_that_is_known_or_has_changed(site: HttpHarness) -> None:
    session = await played(site)
    path = file_path(session, "film.mp4")
    tag = (await site.get(path)).headers["ETag"]
    assert (await site.get(path, headers={"If-None-Match": tag})).status == 304
    for known, status in ((tag, 206), ('"older"', 200)):
        answer = await site.get(path, headers={"Range": "bytes=0-1", "If-Range": known})
        assert answer.status == status


async def test_an_empty_file(site: HttpHarness) -> None:
    session = await played(site)
    (session.folder.path / "empty.txt").touch()
    answer = await site.get(f"/status/{session.id}/files/empty.txt")
    assert (answer.status, answer.body) == (200, b"")
