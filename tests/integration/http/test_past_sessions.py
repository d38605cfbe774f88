"""Sessions that are not in memory: everything that the live ones have, out of their folders."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yarl

from tests.integration.http.conftest import HttpHarness, Opener, ScriptedAdapter, ended, open_site, over
from tests.integration.http.sessions import (
    ASKS,
    TWO,
    a_test_file,
    lines,
    played,
    stood,
    submitted,
    submitted_and_played,
)
from trafficlight.coordinator.session import Session
from trafficlight.http.pages.views import case_key
from trafficlight.results.events import CaseEnded, Log, SessionEnded
from trafficlight.results.journal import EventLog, read_events


async def page_of(site: HttpHarness, path: str) -> str:
    """Return a page as far as it speaks of the session: adapters come and go."""
    answer = await site.get(path)
    assert answer.status == 200, answer.text()
    return re.sub(r'<section class="block" id="adapters".*?</section>', "", answer.text(), flags=re.DOTALL)


def asked_of(session: Session) -> list[str]:
    """Return every path where a session can be seen."""
    (case,) = session.record.cases
    page, api = f"/status/{session.id}", f"/api/sessions/{session.id}"
    return [
        page,
        f"{page}?state=failure&q=talk",
        f"{page}/case/{case_key(case)}",
        f"{page}/junit.xml",
        f"{page}/files/report.json",
        api,
        f"{api}/cases",
        f"{api}/cases?state=success",
        f"{api}/events",
        f"{api}/events?after=3",
        "/sessions",
        "/api/sessions",
    ]


async def dropped(site: HttpHarness, session: Session) -> None:
    """Check that a session has left the memory."""
    assert session.id not in site.lab.engine.sessions


@asynccontextmanager
async def abandoned(folder: Path) -> AsyncIterator[tuple[HttpHarness, str]]:
    """Open a lab on the results of a killed coordinator: one case had ended, one was running."""
    async with open_site(folder, resumable=True) as site:
        body = await submitted(site, targets=[a_test_file(folder, ASKS, more=TWO)])
        first, second = ScriptedAdapter(site), ScriptedAdapter(site)
        await first.register()
        await first.action()
        failed = asyncio.Event()
        site.lab.journal.subscribe(lambda event: failed.set() if isinstance(event, CaseEnded) else None)
        await second.register()
        await asyncio.wait_for(failed.wait(), 60)
        path = folder / "results" / body["id"]
        await asyncio.to_thread(site.lab.engine.sessions[body["id"]].writer.junit)
        async with asyncio.timeout(60):  # the writer's thread rests between two writings
            while sum(json.loads((path / "session.json").read_bytes())["counts"].values()) < 2:
                await asyncio.sleep(0.01)
        left = {name: (path / name).read_bytes() for name in ("events.jsonl", "session.json", "junit.xml")}
    for name, content in left.items():
        (path / name).write_bytes(content)
    async with open_site(folder, resumable=True) as site:
        yield site, body["id"]


async def test_measurements_are_compared_with_the_last_session_of_the_case(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        first = await submitted_and_played(site, f"{ASKS}\nself.record('latency', 0.038, 's')")
        await submitted_and_played(site, ASKS)  # that measures nothing
        body = f"{ASKS}\nfor n in range(2000): self.record('latency', n / 1000, 's')\nreturn {{'sent': 2000}}"
        last = await submitted_and_played(site, body)
    async with open_site(tmp_path) as site:
        (case,) = last.record.cases
        text = (await site.get(f"/status/{last.id}/case/{case_key(case)}")).text()
        link = f'<a href="/status/{first.id}/case/{case_key(case)}">{first.id}</a>'
        assert f"p50 1 s, was 0.038 s in {link}" in text
        assert '<path class="band"' in text
        assert len(text) < 40_000
        (body_of_case,) = (await site.get(f"/api/sessions/{last.id}/cases")).json()["cases"]
        assert body_of_case["returned"] == {"sent": 2000}
        assert "was 0.038 s" in (await site.get(f"/status/{last.id}/files/report.html")).text()


async def test_all_that_can_be_seen_is_the_same_after_a_restart(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        session = await played(site, f"{ASKS}\nassert 1 == 2, 'sums are off'")
        before = {path: await page_of(site, path) for path in asked_of(session)}
    async with open_site(tmp_path) as site:
        assert not site.lab.engine.sessions
        for path, text in before.items():
            assert await page_of(site, path) == text, path
        for path in ("/status", "/status/latest", "/status/junit.xml", "/api/sessions/latest"):
            wanted = (
                before[
                    path.replace("latest", session.id).replace("/status/junit", f"/status/{session.id}/junit")
                ]
                if path != "/status"
                else before[f"/status/{session.id}"]
            )
            assert await page_of(site, path) == wanted, path
        (case,) = session.record.cases
        found = await site.get(f"/status/latest/case?id={case}")
        assert found.headers["Location"] == f"/status/{session.id}/case/{case_key(case)}"


async def test_ended_sessions_leave_the_memory_and_nothing_else(opener: Opener) -> None:
    site = await opener()
    first = await played(site)
    before = {path: await page_of(site, path) for path in asked_of(first)[:-2]}
    waits = await site.start(ASKS, "waits_test.py", client_type="nobody")
    second = await played(site)
    await dropped(site, first)
    await dropped(site, second)
    assert list(site.lab.engine.sessions) == [waits.id]
    listed = {path: text for path, text in before.items() if not path.startswith(f"/status/{first.id}?")}
    for path, text in listed.items():
        if path != f"/status/{first.id}":  # it lists all sessions
            assert await page_of(site, path) == text, path
    body = (await site.get("/api/sessions")).json()
    assert [one["id"] for one in body["sessions"]] == [second.id, waits.id, first.id]
    assert [one["state"] for one in body["sessions"]] == ["ended", "running", "ended"]


async def test_without_a_cache_everything_is_read_again(opener: Opener) -> None:
    site = await opener(keep_sessions=0)
    session = await played(site)
    await dropped(site, session)
    for path in asked_of(session):
        assert (await site.get(path)).status == 200, path
    assert (await stood(site, session.id))["exit_code"] == 0
    answer = await site.post(f"/api/sessions/{session.id}/cancel")
    assert (answer.status, answer.json()["error"]["code"]) == (409, "session_ended")


async def test_what_failed_runs_again_after_a_restart(tmp_path: Path) -> None:
    async with open_site(tmp_path, resumable=True) as site:
        body = await submitted(site, targets=[a_test_file(tmp_path, more=TWO)], deflake=1)
        for _ in range(3):
            await ScriptedAdapter(site).register()
        await over(site, body["id"])
    async with open_site(tmp_path, resumable=True) as site:
        answer = await site.post(f"/api/sessions/{body['id']}/rerun-failed")
        assert answer.status == 201, answer.text()
        request = await site.lab.request_of(answer.json()["id"])
        assert request is not None
        assert (request.only, request.deflake) == (["talk_test.py::Fails[alice=Type]"], 1)


async def test_a_request_that_nobody_knows(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        session = await played(site, f"{ASKS}\nassert False")
    async with open_site(tmp_path) as site:
        answer = await site.post(f"/api/sessions/{session.id}/rerun-failed")
        assert (answer.status, answer.json()["error"]["code"]) == (409, "unknown_request")


async def test_what_was_abandoned_says_so(tmp_path: Path) -> None:
    async with abandoned(tmp_path) as (site, id):
        body = await stood(site, id)
        assert (body["state"], body["ended"], body["exit_code"]) == ("abandoned", None, None)
        assert (body["counts"]["failure"], body["counts"]["running"]) == (1, 1)
        (listed,) = (await site.get("/api/sessions")).json()["sessions"]
        assert (listed["state"], listed["cases"]) == ("abandoned", 2)
        page = await page_of(site, f"/status/{id}")
        assert "Abandoned: the coordinator ended" in page
        assert "1 not run" in re.sub(r"<[^>]+>", "", page)
        assert "abandoned" in await page_of(site, "/sessions")
        events = lines((await site.get(f"/api/sessions/{id}/events")).body)
        assert [one["kind"] for one in events].count("case_ended") == 1
        answer = await site.post(f"/api/sessions/{id}/cancel")
        assert answer.status == 409
        again = await site.post(f"/api/sessions/{id}/rerun-failed")
        assert (again.status, again.json()["cases"]) == (201, 2)


async def test_a_session_that_another_process_writes_is_running(tmp_path: Path) -> None:
    async with abandoned(tmp_path) as (site, id):
        log = EventLog(tmp_path / "results" / id / "events.jsonl")
        assert (await stood(site, id))["state"] == "running"
        log.close()
        assert (await stood(site, id))["state"] == "abandoned"


@pytest.mark.parametrize("finished", [True, False])
async def test_a_session_that_another_process_runs_is_followed(tmp_path: Path, finished: bool) -> None:
    async with abandoned(tmp_path) as (site, id):
        path = tmp_path / "results" / id / "events.jsonl"
        known = list(read_events(path))
        log = EventLog(path)
        async with site.client.get(f"{site.url}/api/sessions/{id}/events?after=2") as answer:
            for event in known[2:]:
                assert json.loads(await answer.content.readline())["sequence"] == event.sequence
            more = Log(sequence=known[-1].sequence + 1, session=id, message="more")
            log.append(more)
            assert json.loads(await answer.content.readline())["sequence"] == more.sequence
            if finished:
                log.append(SessionEnded(sequence=more.sequence + 1, session=id, exit_code=0))
                assert json.loads(await answer.content.readline())["kind"] == "session_ended"
            log.close()
            assert await answer.content.read() == b""


async def test_whoever_follows_a_session_of_another_keeps_no_lab_from_ending(tmp_path: Path) -> None:
    async with abandoned(tmp_path) as (site, id):
        log = EventLog(tmp_path / "results" / id / "events.jsonl")
        url = yarl.URL(site.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"GET /api/sessions/{id}/events HTTP/1.1\r\nHost: {url.authority}\r\n\r\n".encode())
        await reader.readuntil(b"session_started")
    async with asyncio.timeout(60):
        await reader.read()
    writer.close()
    await writer.wait_closed()
    log.close()


async def test_an_upload_after_the_end_is_filed(site: HttpHarness) -> None:
    """It is on the case's page, in the events, and in the reports."""
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start(ASKS)
    message = await adapter.action()
    await adapter.respond({"id": message["id"]})
    await ended(session)
    await dropped(site, session)
    assert (await adapter.upload("late log.txt", b"the end")).status == 200
    (case,) = session.record.cases
    text = await page_of(site, f"/status/{session.id}/case/{case_key(case)}")
    assert "late log.txt" in text
    last = list(read_events(session.folder.events))[-2:]
    assert [event.kind for event in last] == ["session_ended", "upload"]
    events = lines((await site.get(f"/api/sessions/{session.id}/events")).body)
    assert events[-1]["data"]["name"] == "late log.txt"
    report = session.folder.path / "report.json"
    async with asyncio.timeout(60):
        while "late log.txt" not in report.read_text():
            await asyncio.sleep(0.01)
    assert "late log.txt" in (await site.get(f"/status/{session.id}/junit.xml")).text()
    async with open_site(session.folder.path.parent.parent) as later:
        text = await page_of(later, f"/status/{session.id}/case/{case_key(case)}")
        assert "late log.txt" in text


def a_folder(root: Path, number: int) -> Path:
    """Make the folder of a session as it looks when it has ended with one success."""
    id = f"2026-01-01--{number:03d}"
    folder = root / "results" / id
    folder.mkdir(parents=True)
    case = {"session": id, "case": "a_test.py::A"}
    planned = {"suite": "a_test.py::A", "clients": {}, "servers": {}}
    events: list[dict[str, Any]] = [
        {"kind": "session_started", "session": id, "data": {"command": "x"}},
        {"kind": "case_planned", **case, "data": planned},
        {"kind": "case_ended", **case, "attempt": 1, "data": {"state": "success"}},
        {"kind": "session_ended", "session": id, "data": {"exit_code": 0}},
    ]
    with (folder / "events.jsonl").open("w") as file:
        for sequence, event in enumerate(events, 1):
            file.write(
                json.dumps({"sequence": sequence, "time": "2026-01-01T12:00:00+00:00", **event}) + "\n"
            )
    known = {
        "started": "2026-01-01T12:00:00+00:00",
        "ended": "2026-01-01T12:00:00+00:00",
        "exit_code": 0,
        "interrupted": False,
        "counts": {"success": 1},
        "outcomes": {"success": 1},
        "command": "x",
    }
    (folder / "session.json").write_text(json.dumps(known))
    return folder


async def test_many_sessions_are_listed_page_by_page(site: HttpHarness, tmp_path: Path) -> None:
    for number in range(1, 121):
        a_folder(tmp_path, number)
    (tmp_path / "results" / "2026-01-01--1000").mkdir()  # left nothing
    (tmp_path / "results" / "2026-01-01--004" / "session.json").write_text("{")
    body = (await site.get("/api/sessions?limit=2&offset=1")).json()
    assert body["total"] == 121
    assert [one["id"] for one in body["sessions"]] == ["2026-01-01--120", "2026-01-01--119"]
    assert len((await site.get("/api/sessions")).json()["sessions"]) == 99
    assert (await stood(site, "latest"))["id"] == "2026-01-01--120"
    assert (await stood(site, "2026-01-01--004"))["counts"]["success"] == 1
    found = [
        re.findall(r'class="entry" href="/status/([^"]+)"', (await site.get(path)).text())
        for path in ("/sessions", "/sessions?page=2", "/sessions?page=99", "/status")
    ]
    assert [len(ids) for ids in found] == [49, 50, 20, 19]
    assert found[1][0] == "2026-01-01--071"
    assert found[2][-1] == "2026-01-01--001"


async def test_whoever_asks_for_all_of_them_fills_no_memory(site: HttpHarness, tmp_path: Path) -> None:
    ids = [a_folder(tmp_path, number).name for number in range(1, 61)]
    catalog = site.lab.catalog
    catalog._cache_bytes = 2000
    answers = await asyncio.gather(*(site.get(f"/status/{id}") for id in ids for _ in range(2)))
    assert {answer.status for answer in answers} == {200}
    assert len(catalog._cached) < 10


async def test_a_session_that_changes_is_read_anew(site: HttpHarness, tmp_path: Path) -> None:
    folder = a_folder(tmp_path, 1)
    assert "The case succeeded" in await page_of(site, f"/status/{folder.name}")
    log = folder / "events.jsonl"
    log.write_text(log.read_text().replace('"success"', '"failure"'))
    assert "1 of 1 case failed" in await page_of(site, f"/status/{folder.name}")


async def test_the_event_stream_leaves_out_torn_lines(site: HttpHarness, tmp_path: Path) -> None:
    log = a_folder(tmp_path, 1) / "events.jsonl"
    whole = log.read_bytes()
    first, rest = whole.split(b"\n", 1)
    log.write_bytes(b"\n".join((first, first[:-9], rest)))
    answer = await site.get(f"/api/sessions/{log.parent.name}/events")
    assert answer.body == whole


@pytest.mark.parametrize("name", ["2026-01-01--999", "%2e%2e", "adapters", "2026-01-01--001%2f..", "current"])
async def test_what_is_no_session_is_not_found(site: HttpHarness, tmp_path: Path, name: str) -> None:
    a_folder(tmp_path, 1)
    for path in ("", "/junit.xml", "/files/session.json", "/case/0123456789abcdef"):
        assert (await site.get(f"/status/{name}{path}")).status == 404
    for path in ("", "/cases", "/events"):
        assert (await site.get(f"/api/sessions/{name}{path}")).status == 404
