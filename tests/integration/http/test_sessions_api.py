"""Sessions over HTTP: asked for, followed, cancelled, and run again."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.http.conftest import (
    HttpHarness,
    Opener,
    ScriptedAdapter,
    ended,
    open_site,
    over,
)
from tests.integration.http.sessions import TWO, a_test_file, lines, stood, submitted
from trafficlight.http.api import streams
from trafficlight.results.events import Log

PEOPLE = "secret-of-people"


async def test_a_session_is_asked_for_and_runs(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path)])
    assert (body["state"], body["cases"], body["exit_code"]) == ("running", 1, None)
    assert body["outcomes"] == {"waiting": 1}
    await ScriptedAdapter(site).register()
    await over(site, body["id"])
    body = await stood(site, body["id"])
    assert (body["state"], body["exit_code"], body["counts"]["success"]) == ("ended", 0, 1)
    assert body["outcomes"] == {"success": 1}
    assert body == (await site.get("/api/sessions/latest")).json()
    listed = (await site.get("/api/sessions")).json()
    assert (listed["total"], listed["sessions"]) == (1, [body])
    for path in body["urls"].values():
        assert (await site.get(path)).status == 200


async def test_a_session_says_why_its_cases_wait(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path)])
    await asyncio.sleep(0)
    body = await stood(site, body["id"])
    assert "1 x Type" in body["waiting"][0]
    site.lab.engine.pool.drain("new cables")
    body = await stood(site, body["id"])
    assert body["waiting"][0] == "no adapter gets a new case: new cables"


@pytest.mark.parametrize(
    ("request_body", "words"),
    [
        ({"targets": ["nowhere_test.py"]}, "there is no nowhere_test.py"),
        ({"targets": ["\x00"]}, "there is no"),
        ({"targets": ["x" * 10_000]}, "there is no"),
        ({"targets": "x"}, "targets"),
        ({"target": []}, "target"),
        ({"keyword": "("}, "the query"),
        ({"keyword": "(" * 5000}, "the query"),
        ({"keyword": "\x00"}, "nothing to run"),
        ({"shard": [3, 2]}, "shard"),
        ({"shard": [1]}, "shard"),
        ({"repeat": 10**9}, "repeat"),
        ({"only": ["nobody"]}, "there is no case nobody"),
        ({"clients": ["Nobody"]}, "Nobody"),
        ({"deflake": -1}, "deflake"),
        ({"sample": 0}, "sample"),
    ],
)
async def test_requests_that_mean_nothing(
    opener: Opener, tmp_path: Path, request_body: dict[str, Any], words: str
) -> None:
    site = await opener(tests=[a_test_file(tmp_path)])
    answer = await site.post("/api/sessions", json=request_body)
    assert answer.status == 400, answer.text()
    assert words in answer.json()["error"]["message"]
    assert not site.lab.engine.sessions


async def test_a_coordinator_that_ends_takes_none(site: HttpHarness) -> None:
    await site.lab.engine.stop("enough")
    for path in ("/api/sessions", "/api/sessions/x/rerun-failed"):
        answer = await site.post(path, json={})
        assert (answer.status, answer.json()["error"]["code"]) == (503, "stopping")


async def test_cases_are_listed(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path, more=TWO)], repeat=3)
    path = f"/api/sessions/{body['id']}/cases"
    every = (await site.get(path)).json()
    assert (every["total"], len(every["cases"])) == (6, 6)
    assert every["cases"][0]["clients"] == {"alice": "Type"}
    part = (await site.get(f"{path}?state=waiting&limit=2&offset=1")).json()
    assert (part["total"], part["cases"]) == (6, every["cases"][1:3])
    assert (await site.get(f"{path}?state=success")).json() == {"cases": [], "total": 0}
    for query in ("state=good", "limit=-1", "offset=x", f"offset={'9' * 40}", "limit=²"):
        answer = await site.get(f"{path}?{query}")
        assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_query")
    assert (await site.get(every["cases"][0]["url"])).status == 200


async def test_whatever_a_test_says_is_listed(site: HttpHarness, tmp_path: Path) -> None:
    says = "raise AssertionError(chr(0xD800) + chr(0) + '<b>' + 'h' * 1_000_000)"
    body = await submitted(site, targets=[a_test_file(tmp_path, says)])
    await ScriptedAdapter(site).register()
    await over(site, body["id"])
    answer = await site.get(f"/api/sessions/{body['id']}/cases")
    (case,) = answer.json()["cases"]
    assert case["state"] == "failure"
    assert len(case["message"]) < 11_000
    assert (await site.get(case["url"])).status == 200
    assert len((await site.get(f"/api/sessions/{body['id']}/events")).text()) < 300_000


async def test_a_case_and_a_session_are_cancelled(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path, more=TWO)])
    path = f"/api/sessions/{body['id']}"
    case = (await site.get(f"{path}/cases")).json()["cases"][0]["id"]
    assert (await site.post(f"{path}/cases/cancel", json={"case": case})).json()["counts"]["skipped"] == 1
    for name, status, code in ((case, 409, "case_ended"), ("x", 404, "unknown_case")):
        answer = await site.post(f"{path}/cases/cancel", json={"case": name})
        assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert (await site.post(f"{path}/cancel")).json()["state"] == "ending"
    await over(site, body["id"])
    body = (await site.post(f"{path}/cancel")).json()
    assert (body["state"], body["interrupted"], body["exit_code"]) == ("ended", True, 130)


async def test_a_running_case_is_cancelled(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path, "await alice.perform('one')")])
    adapter = ScriptedAdapter(site)
    await adapter.register()
    await adapter.action()
    session = site.lab.engine.sessions[body["id"]]
    case = next(iter(session.record.cases))
    answer = await site.post(f"/api/sessions/{body['id']}/cases/cancel", json={"case": case})
    assert answer.status == 200
    await ended(session)
    assert "cancelled over the API" in session.record.cases[case].message
    answer = await site.post(f"/api/sessions/{body['id']}/cancel")
    assert (answer.status, answer.json()["error"]["code"]) == (409, "session_ended")


async def test_only_what_failed_runs_again(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path, more=TWO)], repeat=2, deflake=1)
    for _ in range(6):
        await ScriptedAdapter(site).register()
    await over(site, body["id"])
    answer = await site.post(f"/api/sessions/{body['id']}/rerun-failed")
    assert answer.status == 201, answer.text()
    again = answer.json()
    listed = (await site.get(again["urls"]["cases"])).json()["cases"]
    assert ["::Fails" in case["id"] for case in listed] == [True]
    request = await site.lab.request_of(again["id"])
    assert request is not None
    assert (request.deflake, request.only) == (
        1,
        [f"talk_test.py::Fails[alice=Type]{n}" for n in ("", "#2")],
    )
    answer = await site.post(f"/api/sessions/{again['id']}/rerun-failed")
    assert (answer.status, answer.json()["error"]["code"]) == (409, "nothing_failed")


async def test_events_come_without_gap_or_duplicate(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path, "await alice.perform('one')", more=TWO)])
    path = body["urls"]["events"]
    readers = [asyncio.create_task(site.get(path)) for _ in range(3)]
    now = lines((await site.get(f"{path}?follow=0")).body)
    assert [one["kind"] for one in now].count("case_planned") == 2
    late = asyncio.create_task(site.get(f"{path}?after={now[-1]['sequence']}"))
    first, second = ScriptedAdapter(site), ScriptedAdapter(site)
    await first.register()
    message = await first.action()
    await second.register()
    await first.respond({"id": message["id"]})
    async with asyncio.timeout(60):
        whole = [lines((await reader).body) for reader in readers]
        rest = lines((await late).body)
    log = (tmp_path / "results" / body["id"] / "events.jsonl").read_bytes()
    assert all(one == lines(log) for one in whole)
    assert now + rest == lines(log)
    assert log.splitlines()[-1].count(b"session_ended") == 1
    assert (await site.get(f"{path}?after={10**15}")).body == b""


async def test_streams_share_their_reads_and_have_a_limit(
    site: HttpHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each follower took a turn of a thread for every event: a thousand stopped the lab."""
    body = await submitted(site, targets=[a_test_file(tmp_path)])
    path = body["urls"]["events"]
    reads = 0

    def counted(path: Path, offset: int) -> Any:
        nonlocal reads
        reads += 1
        return lines_at(path, offset)

    lines_at = streams._lines_at
    monkeypatch.setattr(streams, "_lines_at", counted)
    folder = tmp_path / "results" / body["id"]
    followers = [streams.event_lines(folder, 0, site.lab, follow=True) for _ in range(20)]
    first = await asyncio.gather(*(anext(follower) for follower in followers))
    assert (len(set(first)), reads) == (1, 1)
    monkeypatch.setattr(streams, "MOST", 20)
    refused = await site.get(path)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    await asyncio.gather(*(follower.aclose() for follower in followers))
    assert (await site.get(f"{path}?follow=0")).status == 200


async def test_what_is_no_event_is_left_out(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path)])
    log = tmp_path / "results" / body["id"] / "events.jsonl"
    known = lines(log.read_bytes())
    with log.open("ab") as file:
        file.write(b'{"sequence":7,"ki\n[]\n\n{"sequence": "x", "kind": 1}\n{"sequence":')
    answer = await site.get(f"{body['urls']['events']}?follow=0")
    assert lines(answer.body) == known
    assert answer.content_type == "application/x-ndjson"


async def test_a_reader_that_leaves_costs_nothing(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path)])
    readers = len(site.lab.journal._subscriptions)
    async with site.client.get(site.url + body["urls"]["events"]) as answer:
        await answer.content.readline()
        assert len(site.lab.journal._subscriptions) == readers + 1
    async with asyncio.timeout(60):
        while len(site.lab.journal._subscriptions) > readers:
            await asyncio.sleep(0.01)


async def test_a_slow_reader_holds_nobody_up(site: HttpHarness, tmp_path: Path) -> None:
    """What it has not read stays on the disk."""
    body = await submitted(site, targets=[a_test_file(tmp_path)])
    async with site.client.get(site.url + body["urls"]["events"]) as answer:
        await answer.content.readline()
        for _ in range(300):
            site.lab.journal.append(Log(session=body["id"], message="x" * 100_000))
            await asyncio.sleep(0)
        await ScriptedAdapter(site).register()
        await over(site, body["id"])
        read = b"".join([piece async for piece in answer.content.iter_any()])
    assert len(read) > 25_000_000
    assert lines(read)[-1]["kind"] == "session_ended"


async def test_sessions_of_an_earlier_coordinator_are_known(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        body = await submitted(site, targets=[a_test_file(tmp_path)])
        await ScriptedAdapter(site).register()
        await over(site, body["id"])
        before = await stood(site, body["id"])
        events = (await site.get(body["urls"]["events"])).body
    async with open_site(tmp_path) as site:
        assert (await stood(site, body["id"])) | {"ended": before["ended"]} == before
        assert (await site.get(body["urls"]["events"])).body == events
        listed = (await site.get("/api/sessions")).json()
        assert (listed["total"], [one["id"] for one in listed["sessions"]]) == (1, [body["id"]])


@pytest.mark.parametrize("name", ["x", "2026-01-01--001", "..", "%2e%2e", "latest", "a b", "%00", "²"])
async def test_sessions_that_are_none(site: HttpHarness, name: str) -> None:
    for method, rest in (("GET", ""), ("GET", "/cases"), ("GET", "/events"), ("POST", "/cancel")):
        answer = await site.ask(method, f"/api/sessions/{name}{rest}")
        assert answer.status == 404, answer.text()
        assert set(answer.json()["error"]) == {"code", "message"}


async def test_people_show_their_token(opener: Opener) -> None:
    site = await opener(people_token=PEOPLE)
    for method, path in (
        ("POST", ""),
        ("GET", ""),
        ("GET", "/x"),
        ("GET", "/x/events"),
        ("POST", "/x/cancel"),
        ("POST", "/x/rerun-failed"),
    ):
        assert (await site.ask(method, f"/api/sessions{path}", json={})).status == 401
    headers = {"Authorization": f"Bearer {PEOPLE}"}
    assert (await site.get("/api/sessions", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://proxy.example"}, 404),
        ({"Sec-Fetch-Site": "none"}, 404),
        ({}, 404),
    ],
)
async def test_another_sites_page_cannot_act(site: HttpHarness, headers: dict[str, str], status: int) -> None:
    answer = await site.post("/api/sessions/x/cancel", headers=headers)
    assert answer.status == status
    own = await site.post("/api/sessions/x/cancel", headers={"Origin": site.url})
    assert own.status == 404


async def test_a_head_follows_nothing(site: HttpHarness, tmp_path: Path) -> None:
    body = await submitted(site, targets=[a_test_file(tmp_path)])
    answer = await site.ask("HEAD", body["urls"]["events"], timeout=aiohttp.ClientTimeout(total=5))
    assert (answer.status, answer.body) == (200, b"")
