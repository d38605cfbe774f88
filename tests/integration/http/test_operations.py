"""Is it up, is it ready, its numbers, and what its logs say of whom."""

import errno
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.http.conftest import HttpHarness, Opener, ScriptedAdapter, ended
from trafficlight.logs import JsonFormatter, LogContext
from trafficlight.results.events import Log

PEOPLE = "secret-of-people"


async def numbers(site: HttpHarness, **options: object) -> dict[str, float]:
    """Return the samples, by their name and labels as people write them."""
    answer = await site.get("/metrics", **options)
    assert answer.status == 200, answer.text()
    assert answer.content_type == "text/plain"
    found = {}
    for family in text_string_to_metric_families(answer.text()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_it_is_up_and_ready(opener: Opener) -> None:
    site = await opener(people_token=PEOPLE)
    assert (await site.get("/healthz")).json()["status"] == "ok"
    answer = await site.get("/readyz")
    assert (answer.status, answer.json()) == (200, {"ready": True, "reasons": []})


async def test_it_is_not_ready_while_it_ends(site: HttpHarness) -> None:
    await site.lab.engine.stop("enough")
    answer = await site.get("/readyz")
    assert (answer.status, answer.json()["ready"]) == (503, False)
    assert answer.json()["reasons"] == ["the coordinator is shutting down: enough"]
    assert (await site.get("/healthz")).status == 200


async def test_it_is_not_ready_while_events_cannot_be_written(
    site: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await site.start("await alice.perform('one')")

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(session.writer._log, "append", full)
        site.lab.journal.append(Log(session=session.id, message="lost"))
        answer = await site.get("/readyz")
        (reason,) = answer.json()["reasons"]
        assert reason == f"{session.folder.events} cannot be written: no space"
    site.lab.journal.append(Log(session=session.id, message="kept"))
    assert (await site.get("/readyz")).json() == {"ready": True, "reasons": []}


async def test_the_numbers_tell_what_is_and_what_was(site: HttpHarness) -> None:
    session = await site.start("await alice.perform('one')\nawait alice.perform('two')")
    before = await numbers(site)
    assert before["trafficlight_cases{state=waiting}"] == 1
    assert before["trafficlight_queues"] == 1
    assert before["trafficlight_queue_age_seconds{statistic=max}"] >= 0
    adapter = ScriptedAdapter(site)
    await adapter.register({"type": "nio"})
    message = await adapter.action()
    during = await numbers(site)
    assert during["trafficlight_cases{state=running}"] == 1
    assert during["trafficlight_adapters{state=leased,type=nio}"] == 1
    await adapter.respond({"id": message["id"]})
    await adapter.respond({"id": (await adapter.action())["id"], "response": "error"})
    await ended(session)
    after = await numbers(site)
    assert after["trafficlight_action_seconds_count{outcome=answered,type=nio}"] == 1
    assert after["trafficlight_action_seconds_count{outcome=failed,type=nio}"] == 1
    assert after["trafficlight_cases_ended_total{state=failure}"] == 1
    assert after["trafficlight_case_wait_seconds_count"] == 1
    assert after["trafficlight_events_total{kind=session_ended}"] == 1
    assert after["trafficlight_cases{state=waiting}"] == after["trafficlight_sessions"] == 0
    assert "trafficlight_adapters{state=leased,type=nio}" not in after
    assert after["trafficlight_standstill_seconds"] == 0


async def test_types_from_outside_make_no_more_series_than_a_few(site: HttpHarness) -> None:
    for number in range(120):
        await ScriptedAdapter(site).register({"type": f'kind "{number}"\n\\é' + "x" * 150})
    found = await numbers(site)
    registered = {name: value for name, value in found.items() if "adapters_registered_total" in name}
    assert len(registered) == 51
    assert registered["trafficlight_adapters_registered_total{type=other}"] == 70
    assert sum(value for name, value in found.items() if "trafficlight_adapters{" in name) == 120


async def test_the_numbers_ask_for_the_peoples_token(opener: Opener) -> None:
    site = await opener(people_token=PEOPLE)
    assert (await site.get("/metrics")).status == 401
    assert await numbers(site, headers={"Authorization": f"Bearer {PEOPLE}"})


class Lines(logging.Handler):
    """Keeps what is logged, as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


async def test_logs_say_what_they_are_about(site: HttpHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await site.start(
        "import logging\nlogging.getLogger('mine').error('in the test')\nawait alice.perform('one')"
    )
    adapter = ScriptedAdapter(site, "one")
    pool, seen = site.lab.engine.pool, site.lab.engine.pool.seen
    case = next(iter(session.record.cases))
    handler = Lines()
    logging.getLogger().addHandler(handler)

    def logged_seen(known: object) -> None:
        logging.getLogger("pool").error("seen")
        seen(known)  # type: ignore[arg-type]

    try:
        await adapter.register()
        await adapter.action()
        monkeypatch.setattr(pool, "seen", logged_seen)
        await adapter.poll(0)
    finally:
        logging.getLogger().removeHandler(handler)
    about = {"session": session.id, "case": case}
    told = {line["message"]: line for line in handler.lines}
    assert told["in the test"].items() >= about.items()
    assert told["seen"].items() >= {**about, "role": "alice", "adapter": "one"}.items()
    assert LogContext.current() == LogContext()
