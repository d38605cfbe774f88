"""What the five endpoints hold, on a real connection: each test names what it would cost to lose it."""

import asyncio
import contextlib
import io
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.integration.http.conftest import HttpHarness, ScriptedAdapter, ended
from trafficlight.adapters import sdk
from trafficlight.config import Settings
from trafficlight.http import server
from trafficlight.http.wire.app import WireRequest
from trafficlight.results.case import CaseRecord
from trafficlight.results.events import AdapterLost, AdapterRegistered, State
from trafficlight.results.reports.timeline import steps

ASKS = "await alice.perform('one')"
ASKS_TWICE = """
    first = await alice.perform("one")
    second = await alice.perform("two")
    assert (first, second) == ({"answer": 1}, {"answer": 2}), (first, second)
"""


@pytest.fixture
def adapter(site: HttpHarness) -> ScriptedAdapter:
    return ScriptedAdapter(site)


def only_case(session: Any) -> CaseRecord:
    (case,) = session.record.cases.values()
    assert isinstance(case, CaseRecord)
    return case


async def test_registration_tells_what_an_adapter_needs(adapter: ScriptedAdapter) -> None:
    answer = await adapter.register()
    assert answer["uuid"] == adapter.uuid
    assert answer["poll_hold"] == 5.0
    assert set(answer["deadlines"]) == {"alive", "action"}
    assert "token" not in answer


async def test_a_poll_without_a_session_is_idle_with_a_number(adapter: ScriptedAdapter) -> None:
    await adapter.register()
    assert await adapter.poll(0) == {"action": "idle", "data": {"delay": 0}}


async def test_an_action_reaches_a_held_poll_at_once(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    await adapter.register()
    held = asyncio.create_task(adapter.poll())
    session = await site.start(ASKS)
    message = await held
    assert message["action"] == "one"
    assert message["data"] == {}
    await adapter.respond({"id": message["id"]})
    assert only_case(await ended(session)).state is State.SUCCESS


async def test_registering_again_changes_nothing_or_is_refused(adapter: ScriptedAdapter) -> None:
    """Defect 18: other data were answered 200 and ignored."""
    await adapter.register({"type": "nio", "version": "1"})
    await adapter.register({"type": "nio", "version": "1"})
    answer = await adapter.site.post(f"{adapter.path}/register", json={"type": "nio", "version": "2"})
    assert answer.status == 409
    assert answer.json()["error"]["code"] == "registration_conflict"
    await adapter.error({"error": {"type": "adapter"}})
    answer = await adapter.site.post(f"{adapter.path}/register", json={"type": "nio", "version": "1"})
    assert answer.status == 409


async def test_a_large_registration_is_refused(adapter: ScriptedAdapter) -> None:
    """Defect 18: 2 MB of it were kept and shown."""
    body = io.BytesIO(json.dumps({"type": "nio", "more": "x" * 2_000_000}).encode())
    answer = await adapter.site.post(f"{adapter.path}/register", data=body)
    assert answer.status == 413
    assert adapter.site.lab.engine.pool.known(adapter.uuid) is None


async def test_a_retried_answer_is_not_the_answer_to_the_next_action(
    site: HttpHarness, adapter: ScriptedAdapter
) -> None:
    """Defect 14."""
    await adapter.register()
    session = await site.start(ASKS_TWICE)
    first = await adapter.action()
    assert first["action"] == "one"
    receipts = []
    for _ in range(2):
        answer = await adapter.respond({"id": first["id"], "answer": 1})
        receipts.append((answer.status, answer.json()["receipt"]))
    assert receipts == [(200, "accepted"), (200, "repeated")]
    second = await adapter.action()
    assert second["action"] == "two"
    await adapter.respond({"id": first["id"], "answer": 1})
    await adapter.respond({"id": second["id"], "answer": 2})
    case = only_case(await ended(session))
    assert case.state is State.SUCCESS, case.message


async def test_a_response_may_have_an_id_of_its_own(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    await adapter.register()
    session = await site.start('assert (await alice.perform("one"))["id"] == "$event"')
    message = await adapter.action()
    stale = await site.post(f"{adapter.path}/respond?action=x", json={"id": message["id"]})
    assert stale.status == 409
    await site.post(f"{adapter.path}/respond?action={message['id']}", json={"id": "$event"})
    case = only_case(await ended(session))
    assert case.state is State.SUCCESS, case.message


async def test_simultaneous_answers_are_one_answer(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    """Defect 14: eight of them gave one 200 and seven 500s."""
    await adapter.register()
    session = await site.start(ASKS)
    message = await adapter.action()
    answers = await asyncio.gather(*(adapter.respond({"id": message["id"]}) for _ in range(8)))
    assert [answer.status for answer in answers] == [200] * 8
    receipts = [answer.json()["receipt"] for answer in answers]
    assert sorted(receipts) == ["accepted"] + ["repeated"] * 7
    assert only_case(await ended(session)).state is State.SUCCESS


async def test_an_answer_may_ask_for_what_to_do_next(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    await adapter.register()
    session = await site.start(ASKS_TWICE)
    first = await adapter.action()
    held = await site.post(f"{adapter.path}/respond?next=5", json={"id": first["id"], "answer": 1})
    second = held.json()["next"]
    assert (held.json()["receipt"], second["action"]) == ("accepted", "two")
    again = await site.post(f"{adapter.path}/respond?next=5", json={"id": first["id"], "answer": 1})
    assert again.json() == {"receipt": "repeated", "next": second}, "as if the first answer had been lost"
    refused = await site.post(f"{adapter.path}/respond?next=soon", json={"id": second["id"], "answer": 2})
    assert (refused.status, refused.json()["error"]["code"]) == (400, "invalid_wait")
    last = await site.post(f"{adapter.path}/respond?next=5", json={"id": second["id"], "answer": 2})
    assert last.json()["next"]["action"] == "exit", "the case has ended"
    stale = await site.post(f"{adapter.path}/respond?next=5", json={"id": "nobody-asked"})
    assert stale.status == 409
    case = only_case(await ended(session))
    assert case.state is State.SUCCESS, case.message


@pytest.mark.parametrize(("wait", "hold"), [(20.0, "5"), (2.0, "2"), (None, "5")])
async def test_the_sdk_sends_one_request_for_each_action(
    site: HttpHarness, monkeypatch: pytest.MonkeyPatch, wait: float | None, hold: str
) -> None:
    class Answering(sdk.Adapter):
        type = "nio"

        @sdk.action()
        async def one(self) -> None:
            pass

        @sdk.action()
        async def two(self) -> None:
            pass

    asked: list[tuple[str, str | None]] = []
    query = WireRequest.query

    def noted(request: WireRequest, name: str) -> str | None:
        value = query(request, name)
        if name in ("wait", "next"):
            asked.append((name, value))
        return value

    monkeypatch.setattr(WireRequest, "query", noted)
    session = await site.start('await alice.perform("one"); await alice.perform("two")')
    await sdk.run(Answering, site.url, once=True, options=sdk.Options(wait=wait))
    case = only_case(await ended(session))
    assert case.state is State.SUCCESS, case.message
    assert asked == [("wait", None if wait is None else f"{wait:g}"), ("next", hold), ("next", hold)]


async def test_a_stale_id_is_refused_and_harms_nothing(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    await adapter.register()
    session = await site.start(ASKS)
    message = await adapter.action()
    answer = await adapter.respond({"id": "nobody-asked", "answer": "wrong"})
    assert answer.status == 409
    assert answer.json()["error"]["code"] == "stale_action"
    await adapter.respond({"id": message["id"]})
    assert only_case(await ended(session)).state is State.SUCCESS


async def test_an_answer_of_error_is_a_failure(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    """Defect 15: it counted as success."""
    await adapter.register()
    session = await site.start(ASKS)
    await adapter.action()
    assert (await adapter.respond({"response": "error"})).status == 200
    case = only_case(await ended(session))
    assert case.state is State.FAILURE
    assert "alice: one" in case.message


async def test_an_error_while_nothing_is_asked_ends_the_case(
    site: HttpHarness, adapter: ScriptedAdapter
) -> None:
    """Defect 16: with no further action it ended as a success."""
    await adapter.register()
    session = await site.start("import asyncio\nawait alice.perform('one')\nawait asyncio.Event().wait()")
    message = await adapter.action()
    await adapter.respond({"id": message["id"]})
    await adapter.error({"error": {"type": "action", "path": "page.ts:3", "details": "the page crashed"}})
    case = only_case(await ended(session))
    assert case.state is State.FAILURE
    assert "the page crashed" in case.message


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"error": None},
        {"error": {}},
        {"error": {"type": None, "path": None, "details": None}},
        {"error": {"type": 7, "path": ["a"], "details": {"b": 1}}},
        {"error": "it broke"},
        {"error": ["it", "broke"]},
    ],
)
async def test_an_error_with_holes_still_ends_the_case(
    site: HttpHarness, adapter: ScriptedAdapter, body: dict[str, Any]
) -> None:
    """Defect 17: `error` without `type`, `path` or `details` was a 500."""
    await adapter.register()
    session = await site.start(ASKS)
    await adapter.action()
    assert (await adapter.error(body)).status == 200
    case = only_case(await ended(session))
    assert case.state is State.ERROR
    if isinstance(body.get("error"), str | list):
        assert "broke" in case.message


async def test_calls_after_the_end_are_welcome(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    """Any other status ends old adapters before they have uploaded their logs."""
    await adapter.register()
    session = await site.start(ASKS)
    await adapter.action()
    assert (await adapter.error({"error": {"type": "unknown", "details": "browser gone"}})).status == 200
    await ended(session)
    for late in (
        adapter.respond({"response": "late"}),
        adapter.error({"error": {"type": "unknown", "details": "again"}}),
        adapter.upload("out.txt", b"the log"),
    ):
        assert (await late).status == 200
    assert (await adapter.poll())["action"] == "exit"
    (log,) = session.folder.path.glob("cases/**/clients/alice/out.txt")
    assert log.read_bytes() == b"the log"


async def test_an_error_may_be_the_first_call(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    """Defects 5 and 29: that adapter was allocated, and what it said was not shown."""
    await adapter.register()
    assert (await adapter.error({"error": {"type": "unknown", "details": "no such display"}})).status == 200
    assert (await adapter.poll())["action"] == "exit"
    assert "no such display" in (await site.get("/status")).text()


async def test_an_early_answer_is_noted(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    """Defect 17: it was a 500."""
    await adapter.register()
    answer = await adapter.respond({"response": "early"})
    assert (answer.status, answer.json()) == (200, {"receipt": "unasked"})
    session = await site.start(ASKS_TWICE.replace("'answer': 2", "'answer': 2"))
    first = await adapter.action()
    await adapter.respond({"answer": 1})
    # The next action is not delivered yet, so this answers nothing.
    answer = await adapter.respond({"answer": "too soon"})
    assert (answer.status, answer.json()) == (200, {"receipt": "unasked"})
    assert (await adapter.action())["id"] != first["id"]
    await adapter.respond({"answer": 2})
    case = only_case(await ended(session))
    assert case.state is State.SUCCESS, case.message
    told = [step.what for step in steps(case.attempts[0])]
    assert any("no action was outstanding" in what and "too soon" in what for what in told), told


async def test_an_unknown_adapter_is_told_to_register(adapter: ScriptedAdapter) -> None:
    """Defect 17: an unknown uuid was a 500."""
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: adapter.respond({}),
        lambda: adapter.error({}),
        lambda: adapter.upload("a", b"b"),
    ]
    for call in calls:
        answer = await call()
        assert answer.status == 404
        assert answer.json()["error"]["code"] == "unknown_adapter"


async def test_a_poll_of_an_unknown_adapter_answers_exit(adapter: ScriptedAdapter) -> None:
    """It was a 404; the original answers `exit`, and adapters register again."""
    message = await adapter.poll()
    assert message == {
        "action": "exit",
        "data": {"reason": f"no adapter has registered as {adapter.uuid}: register first"},
    }


async def test_a_closed_poll_loses_no_action(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    await adapter.register()
    held = asyncio.create_task(adapter.poll())
    channel = site.lab.engine.pool.get(adapter.uuid).channel

    async def until(polling: bool) -> None:
        async with asyncio.timeout(60):
            while channel.polling is not polling:
                await asyncio.sleep(0.01)

    await until(polling=True)
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    await until(polling=False)
    session = await site.start(ASKS)
    message = await adapter.action()
    assert message["action"] == "one"
    await adapter.respond({"id": message["id"]})
    assert only_case(await ended(session)).state is State.SUCCESS


async def test_options_name_the_method(adapter: ScriptedAdapter) -> None:
    for endpoint, method in (("poll", "GET"), ("respond", "POST")):
        answer = await adapter.site.ask("OPTIONS", f"{adapter.path}/{endpoint}")
        assert (answer.status, answer.headers["Allow"]) == (200, f"{method}, OPTIONS")


async def test_a_repeated_action_is_held_so_that_nobody_spins(
    site: HttpHarness, adapter: ScriptedAdapter
) -> None:
    await adapter.register()
    session = await site.start(ASKS)
    first = await adapter.action()
    loop = asyncio.get_running_loop()
    began = loop.time()
    again = await adapter.poll()
    assert again == first
    assert loop.time() - began > 0.5
    await adapter.respond({"id": first["id"]})
    await ended(session)


async def test_a_newer_poll_supersedes(adapter: ScriptedAdapter) -> None:
    await adapter.register()
    older = asyncio.create_task(adapter.poll())
    while not adapter.site.lab.engine.pool.get(adapter.uuid).channel.polling:
        await asyncio.sleep(0)
    newer = asyncio.create_task(adapter.poll())
    assert (await older)["data"]["delay"] > 0
    assert not newer.done()
    newer.cancel()


def test_keep_alive_outlasts_the_hold() -> None:
    """Defect 19: adapters met closed connections."""
    rules = Settings.model_fields["poll_hold"].metadata
    longest = next(rule.lt for rule in rules if hasattr(rule, "lt"))
    assert longest < server.KEEP_ALIVE


async def test_answers_close_when_asked_to(site: HttpHarness) -> None:
    """Node reuses a connection that it asked to close if the answer does not confirm that."""
    answer = await site.get("/health", headers={"Connection": "close"})
    assert answer.headers["Connection"] == "close"


async def test_what_was_asked_is_in_the_journal_without_secrets(
    site: HttpHarness, adapter: ScriptedAdapter
) -> None:
    """Defect 31: passwords of test users were printed in logs and pages."""
    await adapter.register()
    session = await site.start("await alice.perform('login', username='u', password='hunter2hunter2')")
    message = await adapter.action()
    assert message["data"]["password"] == "hunter2hunter2"
    await adapter.respond({"id": message["id"]})
    await ended(session)
    page = (await site.get("/status")).text()
    assert "hunter2" not in page
    for path in session.folder.path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    assert json.loads(session.folder.events.read_text().splitlines()[0])["kind"] == "session_started"


async def test_an_answer_above_the_limit_ends_the_action(site: HttpHarness, adapter: ScriptedAdapter) -> None:
    await adapter.register()
    session = await site.start(ASKS)
    message = await adapter.action()
    body = io.BytesIO(json.dumps({"id": message["id"], "x": "y" * (17 << 20)}).encode())
    headers = {"Content-Type": "application/json"}
    with contextlib.suppress(aiohttp.ClientConnectionError):  # it is refused before it is read
        answer = await site.post(f"{adapter.path}/respond", data=body, headers=headers)
        assert answer.status == 413
    case = only_case(await ended(session))
    assert case.state is State.ERROR
    assert case.message.startswith("alice: one: its answer was refused: answer too large: 413 ")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ([1], "400 the body must be a JSON object"),
        ({"id": "other"}, "409 the action other is not waiting for an answer"),
    ],
)
async def test_why_an_answer_was_refused_is_in_the_verdict(opener: Any, body: Any, why: str) -> None:
    site = await opener(action_deadline=1)
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start(ASKS)
    await adapter.action()
    assert (await adapter.respond(body)).status in (400, 409)
    case = only_case(await ended(session))
    assert case.message.startswith(f"alice: did not answer one within 1 s; its answer was refused: {why}")


async def test_the_url_of_a_program_names_its_adapters(site: HttpHarness) -> None:
    answer = await site.post("/program/p1/client/a/register", json={"type": "nio"})
    assert answer.status == 200
    pool = site.lab.engine.pool
    assert (pool.get("a").program, pool.get("a").fields["instance"]) == ("p1", "p1")
    await site.post("/program/p1/client/b/register", json={"type": "nio", "instance": "mine"})
    assert (pool.get("b").program, pool.get("b").fields["instance"]) == ("p1", "mine")
    await site.post("/client/c/register", json={"type": "nio"})
    assert pool.get("c").program == "nio at 127.0.0.1"
    pool.own_programs["of_the_lab"] = "mine"
    refused = await site.post("/program/p1/client/d/register", json={"type": ""})
    assert (refused.status, pool.missing) == (400, [])  # a stranger's is not in the messages of cases
    refused = await site.post("/program/of_the_lab/client/d/register", json={"type": ""})
    assert refused.status == 400
    assert "a registration of the program was refused: 400" in pool.missing[-1].why


async def test_only_a_program_of_the_lab_registers_as_it(site: HttpHarness) -> None:
    """Three errors under its name quarantined it."""
    pool = site.lab.engine.pool
    pool.own_programs["of_the_lab"] = "p1"
    await site.post("/program/of_the_lab/client/a/register", json={"type": "nio"})
    assert (pool.get("a").program, pool.get("a").fields["instance"]) == ("p1", "p1")
    await site.post("/program/p1/client/b/register", json={"type": "nio"})
    await site.post("/client/c/register", json={"type": "nio", "instance": "p1"})
    assert {pool.get("b").program, pool.get("c").program} == {"p1 at 127.0.0.1"}
    assert pool.program_name("farm", "192.0.2.1") == "farm"
    assert pool.program_name("farm", "192.0.2.2") == "farm at 192.0.2.2"
    # Nor does a longer name help.
    assert pool.program_name("farm at 192.0.2.2", "192.0.2.1") == "farm at 192.0.2.2 at 192.0.2.1"


async def test_a_programs_secret_keeps_others_from_its_name(site: HttpHarness) -> None:
    """Three errors under the name quarantined the healthy program; the name is in events and reports."""

    async def register(uuid: str, **more: str) -> str:
        body = {"type": "nio", "instance": "farm-0", **more}
        answer = await site.post(f"/client/{uuid}/register", json=body)
        return site.lab.engine.pool.get(uuid).program if answer.status == 200 else str(answer.status)

    seen: list[AdapterRegistered] = []
    site.lab.journal.subscribe(seen.append, (AdapterRegistered,))
    assert await register("a", instance_secret="of the farm") == "farm-0"
    assert await register("b") == "farm-0 at 127.0.0.1"
    other = await register("c", instance_secret="guessed")
    assert re.fullmatch(r"farm-0 \([0-9a-f]{8}\)", other)
    assert await register("d", instance=other) == f"{other} at 127.0.0.1"
    assert await register("e", instance_secret="of the farm") == "farm-0"
    assert await register("a", instance_secret="guessed") == "409"
    assert "of the farm" not in str(seen)
    shown = await site.get("/api/adapters")
    assert "of the farm" not in shown.text()


async def test_a_program_may_be_called_like_one_without_a_name(site: HttpHarness) -> None:
    await site.post("/client/a/register", json={"type": "nio"})
    await site.post("/client/b/register", json={"type": "nio", "instance": "nio at 127.0.0.1"})
    pool = site.lab.engine.pool
    assert (pool.get("a").program, pool.get("b").program) == (
        "nio at 127.0.0.1",
        "nio at 127.0.0.1 at 127.0.0.1",
    )


async def test_a_large_answer_that_nothing_waits_for_is_not_read(site: HttpHarness) -> None:
    """A hundred of them took gigabytes."""
    adapter = ScriptedAdapter(site)
    await adapter.register()
    answer = await adapter.respond({"response": "x" * (900 << 10)})
    assert (answer.status, answer.json()["error"]["code"]) == (409, "stale_action")


async def test_error_reports_have_a_limit(site: HttpHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = ScriptedAdapter(site)
    await adapter.register()
    monkeypatch.setattr("trafficlight.http.wire.app._ERROR_LIMIT", 100)
    assert (await adapter.error({"error": {"details": "x" * 100}})).status == 413


async def test_a_large_registration_is_cut_in_events(site: HttpHarness) -> None:
    """Every running session has it in its events."""
    seen: list[AdapterRegistered] = []
    site.lab.journal.subscribe(seen.append, (AdapterRegistered,))
    await ScriptedAdapter(site, "a").register({"type": "nio", "more": "x" * 50_000})
    assert len(str(seen[0].registration)) < 5000
    assert len(site.lab.engine.pool.get("a").fields["more"]) == 50_000


async def test_a_large_error_outside_of_cases_is_cut(site: HttpHarness) -> None:
    """Ten thousand adapters that have ended are remembered, each with its reason."""
    seen: list[AdapterLost] = []
    site.lab.journal.subscribe(seen.append, (AdapterLost,))
    adapter = ScriptedAdapter(site, "a")
    await adapter.register()
    await adapter.error({"error": {"details": "x" * 900_000}})
    ended = site.lab.engine.pool.get("a")
    for text in (seen[0].reason, ended.reason, str(ended.channel.failure)):
        assert 4000 <= len(text) < 5000
