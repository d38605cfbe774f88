"""The history of several labs in one PostgreSQL, of Debian's package."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trafficlight.homeservers.recipes import postgres
from trafficlight.results.events import (
    CaseEnded,
    CasePlanned,
    CaseState,
    Event,
    Measurement,
    SessionEnded,
    SessionStarted,
    State,
)
from trafficlight.results.history.changes import changes_in
from trafficlight.results.history.database import HistoryError, opened
from trafficlight.results.history.index import History
from trafficlight.results.record import SessionRecord

_CASES = [f"chat_test.py::Chat[n={number}]" for number in range(50)]


def _session(day: int, failed: Iterable[int]) -> SessionRecord:
    started = datetime(2026, 11, day, tzinfo=UTC)
    events: list[Event] = [SessionStarted(versions={}, configuration={}, command="", host="lab", cases=50)]
    bad = set(failed)
    for number, case in enumerate(_CASES):
        state = State.FAILURE if number in bad else State.SUCCESS
        message = f"\0 {number} \ud800" if number in bad else ""
        planned: dict[str, Any] = {
            "line": 1,
            "class_name": "Chat",
            "method": "run",
            "skip": None,
            "clients": {},
            "servers": {},
            "parameters": {},
        }
        events += [
            CasePlanned(case=case, suite="chat_test.py::Chat", file="chat_test.py", **planned),
            CaseState(case=case, attempt=1, state=State.RUNNING),
            Measurement(case=case, attempt=1, name="sync", value=1.0, unit="s"),
            CaseEnded(case=case, attempt=1, state=state, message=message, seconds=1.5),
        ]
    events.append(SessionEnded(exit_code=0, interrupted=False))
    record = SessionRecord.replay(
        replace(event, sequence=number, time=started + timedelta(seconds=number))
        for number, event in enumerate(events, 1)
    )
    record.id = f"2026-11-{day:02d}--001"
    return record


async def test_two_labs_share_a_history(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed: scripts-dev/setup.sh dev")
    if (reason := await asyncio.to_thread(postgres.missing)) is not None:
        pytest.skip(f"the test {reason}")

    async def use(cluster: Path) -> None:
        url = f"postgresql:///postgres?host={cluster}&user=synapse"
        here, there = (History(tmp_path / name, url) for name in ("here", "there"))
        # At once, so that both find no tables.
        await asyncio.gather(
            asyncio.to_thread(here.take_in, _session(1, [])),
            asyncio.to_thread(there.take_in, _session(2, [3])),
        )

        third = _session(3, [3, 4])
        changes = changes_in(third, await asyncio.to_thread(here.take_in, third))

        assert changes is not None
        assert changes.sentence == "against 2 earlier sessions: 1 new failure · 1 known · 0 fixed"
        assert [(one.kind, one.case, one.since) for one in changes.cases] == [
            ("new", _CASES[4], ""),
            ("known", _CASES[3], "2026-11-02--001"),
        ]
        history = await asyncio.to_thread(there.of_case, _CASES[3])
        assert [(one.lab, one.verdict.outcome) for one in history.past] == [
            (here.lab, "failure"),
            (there.lab, "failure"),
            (here.lab, "success"),
        ]
        assert [one.p95 for past in history.past for one in past.verdict.measurements] == [1.0] * 3
        # The same session again: its verdicts are replaced. Another lab that uses the tables holds nobody up.
        with opened(tmp_path, url):
            await asyncio.to_thread(here.take_in, _session(3, []))
        assert (await asyncio.to_thread(here.of_case, _CASES[4])).first_bad is None
        # A merged session counts in place of its shards, wherever these ran.
        whole = _session(4, [3])
        shards = _session(1, []), _session(2, [3])
        whole.merged = tuple((one.id, one.started) for one in shards if one.started)
        await asyncio.to_thread(there.take_in, whole)
        merged = await asyncio.to_thread(here.of_case, _CASES[3])
        assert [one.session for one in merged.past] == ["2026-11-04--001", "2026-11-03--001"]

    await postgres.create(tmp_path / "template", use)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://kim:sec%72et@[::1/history",  # no bracket: psycopg quotes the URL
        "postgresql://kim:sec%72et@host/history?application_name=%zz",
        "postgresql://kim@host/history?password=secret&port=secret",
    ],
)
def test_errors_do_not_quote_the_password(tmp_path: Path, url: str) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed: scripts-dev/setup.sh dev")

    with pytest.raises(HistoryError, match="cannot be used") as caught:
        History(tmp_path, url).of_case("x")

    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value)
    assert "sec%72et" not in str(caught.value)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed: scripts-dev/setup.sh dev")
    url = f"postgresql://kim:secret@/history?host={tmp_path}"

    with pytest.raises(
        HistoryError, match=r"^the history in postgresql://\*\*\*@/history cannot be used"
    ) as caught:
        History(tmp_path, url).of_case("x")

    assert "secret" not in str(caught.value)
