"""Adapters are listed, paused, resumed and drained over HTTP."""

import re

import pytest

from tests.integration.http.conftest import HttpHarness, Opener, ScriptedAdapter, ended
from trafficlight.results.events import State

PEOPLE = "secret-of-people"


async def test_adapters_are_listed(site: HttpHarness) -> None:
    waiting, busy = ScriptedAdapter(site, "waiting"), ScriptedAdapter(site, "busy")
    await busy.register({"type": "nio", "version": "1.0", "labels": ["rack-7"]})
    session = await site.start("await alice.perform('one')")
    await busy.action()
    await waiting.register({"type": "element"})
    body = (await site.get("/api/adapters")).json()
    assert (body["total"], body["drained"]) == (2, "")
    by_uuid = {one["uuid"]: one for one in body["adapters"]}
    assert by_uuid["busy"] | {"registered": "", "silent": 0, "doing": ""} == {
        "uuid": "busy",
        "program": "nio rack-7 at 127.0.0.1",
        "type": "nio",
        "version": "1.0",
        "instance": "",
        "labels": ["rack-7"],
        "address": "127.0.0.1",
        "endpoint": "",
        "state": "leased",
        "case": "talk_test.py::Talk[alice=Type]",
        "session": session.id,
        "role": "alice",
        "doing": "",
        "paused": "",
        "quarantined": False,
        "cases": 1,
        "registered": "",
        "silent": 0,
    }
    assert "one" in by_uuid["busy"]["doing"]
    assert (by_uuid["waiting"]["state"], by_uuid["waiting"]["case"]) == ("free", None)


async def test_a_paused_adapter_gets_no_case(site: HttpHarness) -> None:
    adapter = ScriptedAdapter(site, "one")
    await adapter.register()
    answer = await site.post("/api/adapters/one/pause", json={"reason": "its screen is broken"})
    assert (answer.status, answer.json()["paused"]) == (200, "its screen is broken")
    session = await site.start("pass")
    assert (await adapter.poll(0.2))["action"] == "idle"
    assert session.record.counts[State.WAITING] == 1
    assert "0 free, 1 registered" in session.reasons()[0]
    assert "its screen is broken" in (await site.get("/status")).text()
    assert (await site.post("/api/adapters/one/resume")).json()["paused"] == ""
    await ended(session)
    for path, body in (("pause", {"reason": "x"}), ("resume", None)):
        answer = await site.post(f"/api/adapters/nobody/{path}", json=body)
        assert (answer.status, answer.json()["error"]["code"]) == (404, "unknown_adapter")
        assert "`trafficlight adapters` lists them" in answer.text()


@pytest.mark.parametrize(
    "registration",
    [
        {"type": "nio", "instance": "phone 1/2"},
        {"type": "nio", "labels": ["rack-7"]},
        {"type": "nio", "labels": ["rack-7"], "reusable": True},
    ],
)
async def test_a_pause_sticks_to_the_program(site: HttpHarness, registration: dict[str, object]) -> None:
    """While it has a case, while it is away, and under every later uuid."""
    first = ScriptedAdapter(site, "first")
    await first.register(registration)
    session = await site.start("await alice.perform('one')")
    message = await first.action()
    assert (await site.post("/api/adapters/first/pause", json={"reason": "new battery"})).status == 200
    await first.respond({"id": message["id"]})
    await ended(session)
    if registration.get("reusable"):
        await first.respond({"id": (await first.action())["id"]})
    else:
        await first.error({"error": {"type": "adapter"}})
    second = ScriptedAdapter(site, "second")
    other = ScriptedAdapter(site, "other")
    await second.register(registration)
    await other.register({"type": "nio", "labels": ["rack-8"], "reusable": True})
    listed = {one["uuid"]: one for one in (await site.get("/api/adapters")).json()["adapters"]}
    assert listed["second"]["paused"] == "new battery"
    assert listed["other"]["paused"] == ""
    session = await site.start("pass", "other_test.py")
    await ended(session)
    assert session.record.counts[State.SUCCESS] == 1
    assert listed["second"]["cases"] == 0
    (adapters,) = session.record.cases["other_test.py::Talk[alice=Type]"].attempts[0].adapter_ids.values()
    assert adapters == "other"
    # By the name of the program, which may be away.
    await second.error({"error": {"type": "adapter"}})
    program = listed["second"]["program"]
    assert (await site.get("/api/adapters")).json()["paused"] == {program: "new battery"}
    page = (await site.get("/status")).text()
    if not registration.get("reusable"):
        assert f"Paused, and not here now: {program} (new battery)" in page
        (action,) = re.findall(r'Paused, and not here now.*\n?<form method="post" action="([^"]*)"', page)
        assert (await site.post(action)).status == 200
    else:
        assert (await site.post("/api/adapters/second/resume")).status == 200
    third = ScriptedAdapter(site, "third")
    await third.register(registration)
    body = (await site.get("/api/adapters")).json()
    assert body["paused"] == {}
    assert {one["uuid"]: one["paused"] for one in body["adapters"]}["third"] == ""


async def test_the_page_shows_where_an_adapter_is(site: HttpHarness) -> None:
    await ScriptedAdapter(site).register(
        {"type": "proxy", "instance": "p-1", "labels": ["rack-7"], "endpoint": "http://10.0.0.1:80"}
    )
    page = (await site.get("/status")).text()
    for text in ("rack-7 · 127.0.0.1", "p-1", "http://10.0.0.1:80"):
        assert text in page
    assert "[&#39;rack-7" not in page


async def test_drained_adapters_get_no_case_until_they_are_undrained(site: HttpHarness) -> None:
    """What runs continues; adapters that register in between wait as well."""
    first, second = ScriptedAdapter(site), ScriptedAdapter(site)
    await first.register()
    session = await site.start("await alice.perform('one')")
    message = await first.action()
    answer = await site.post("/api/adapters/drain", json={"reason": "new cables"})
    assert (answer.status, answer.json()["drained"]) == (200, "new cables")
    await first.respond({"id": message["id"]})
    await ended(session)
    await second.register()
    session = await site.start("pass", "other_test.py")
    assert (await second.poll(0.2))["action"] == "idle"
    assert session.record.counts[State.WAITING] == 1
    assert (await site.post("/api/adapters/undrain")).json()["drained"] == ""
    await ended(session)
    assert session.record.counts[State.SUCCESS] == 1


async def test_waiting_for_drained_adapters_is_not_in_vain(opener: Opener) -> None:
    site = await opener(queue_deadline=0.5)
    adapter = ScriptedAdapter(site)
    await adapter.register()
    await site.post("/api/adapters/drain", json={"reason": "lunch"})
    session = await site.start("pass")
    for _ in range(3):
        await adapter.poll(0.5)
    assert session.record.counts[State.WAITING] == 1
    await site.post("/api/adapters/undrain")
    await ended(session)
    assert session.record.counts[State.SUCCESS] == 1


async def test_a_quarantined_adapter_is_shown_with_its_reason(site: HttpHarness) -> None:
    for number in range(3):
        session = await site.start("await alice.perform('one')", f"n{number}_test.py")
        adapter = ScriptedAdapter(site)
        await adapter.register({"type": "nio", "instance": "shaky"})
        await adapter.action()
        await adapter.error({"error": {"type": "adapter", "details": "broken"}})
        await ended(session)
    await ScriptedAdapter(site, "next").register({"type": "nio", "instance": "shaky"})
    (shown,) = (await site.get("/api/adapters")).json()["adapters"]
    assert (shown["quarantined"], shown["paused"]) == (
        True,
        "quarantined: its program erred in 3 cases in a row",
    )
    assert (await site.post("/api/adapters/next/resume")).json()["quarantined"] is False


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": 7}, {"reason": "x" * 501}, []])
async def test_reasons_that_are_none(site: HttpHarness, body: object) -> None:
    await ScriptedAdapter(site, "one").register()
    for path in ("one/pause", "drain"):
        answer = await site.post(f"/api/adapters/{path}", json=body)
        assert answer.status == 400
    assert not site.lab.engine.pool.drained


@pytest.mark.parametrize("body", [b'{"reason": "x"}', b"other=x", b"reason=", b"a&" * 500, b"\xff=%ff"])
async def test_forms_that_are_none(site: HttpHarness, body: bytes) -> None:
    """A request without the JSON content type is refused with a clear message."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await site.post("/api/adapters/drain", data=body, headers=headers)
    assert answer.status == 400
    assert not site.lab.engine.pool.drained


async def test_a_page_leads_back(site: HttpHarness) -> None:
    await ScriptedAdapter(site, "one").register()
    headers = {"Origin": site.url, "Sec-Fetch-Site": "same-origin"}
    for path in ("one/pause", "one/resume", "drain", "undrain"):
        answer = await site.post(f"/api/adapters/{path}", data={"reason": "a & b"}, headers=headers)
        assert (answer.status, answer.headers["Location"]) == (303, "/status#adapters"), answer.text()
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    answer = await site.post("/api/adapters/drain", data={"reason": "x"}, headers=foreign)
    assert (answer.status, answer.json()["error"]["code"]) == (403, "cross_site")
    assert not site.lab.engine.pool.drained


async def test_people_show_their_token(opener: Opener) -> None:
    site = await opener(people_token=PEOPLE)
    for method, path in (("GET", ""), ("POST", "/x/pause"), ("POST", "/drain"), ("POST", "/undrain")):
        assert (await site.ask(method, f"/api/adapters{path}", json={"reason": "x"})).status == 401


async def test_the_page_has_buttons(site: HttpHarness) -> None:
    uuid = "one.of:them"
    await ScriptedAdapter(site, uuid).register()
    headers = {"Origin": site.url, "Sec-Fetch-Site": "same-origin"}
    for label in ("pause", "resume", "drain", "undrain"):
        text = (await site.get("/status")).text()
        (action,) = re.findall(rf'<form method="post" action="([^"]*/{label})"', text)
        answer = await site.post(action, data={}, headers=headers)
        assert answer.status == 303, answer.text()


async def test_a_case_that_waits_for_a_paused_adapter_says_so_and_is_not_given_up(opener: Opener) -> None:
    """Other cases continue, and a case that no adapter can ever play still times out."""
    site = await opener(queue_deadline=0.5)
    paused, other = ScriptedAdapter(site, "paused"), ScriptedAdapter(site, "other")
    await paused.register()
    await site.post("/api/adapters/paused/pause", json={"reason": "lunch"})
    waits = await site.start("pass", "waits_test.py")
    nobody = await site.start("pass", "nobody_test.py", client_type="none")
    await other.register({"type": "else"})
    goes_on = await site.start("pass", "else_test.py", client_type="else")
    await ended(goes_on)
    await ended(nobody)
    assert nobody.record.counts[State.ERROR] == goes_on.record.counts[State.SUCCESS] == 1
    assert waits.record.counts[State.WAITING] == 1
    assert waits.reasons() == ["needs 1 x Type (0 free, 1 registered)"]
