"""History over HTTP: what changed, how a case ended before, two sessions side by side."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.http.conftest import HttpHarness, open_site
from tests.integration.http.sessions import ASKS, played, submitted_and_played
from trafficlight.http.pages.views import case_key
from trafficlight.results.history.index import FILE


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    """A lab that starts sessions over HTTP."""
    async with open_site(tmp_path, resumable=True) as site:
        yield site


async def _run(site: HttpHarness, body: str = ASKS) -> tuple[str, str]:
    """Run a session of one case; return its id and that of the case."""
    session = await submitted_and_played(site, body)
    (case,) = session.record.cases
    return session.id, case


async def test_changes_and_history_of_a_case(lab: HttpHarness) -> None:
    first, _ = await _run(lab)
    second, case = await _run(lab, f"{ASKS}; assert 1 == 2, 'sums are off'")

    changes = (await lab.get(f"/api/sessions/{second}/changes")).json()
    assert changes["against"] == "1 earlier session"
    (change,) = changes["cases"]
    assert (change["kind"], change["case"], change["before"]) == ("new", case, "success")
    between = (await lab.get(f"/api/sessions/{first}/changes?since={second}")).json()
    assert [one["kind"] for one in between["cases"]] == ["fixed"]
    none = await lab.get(f"/api/sessions/{first}/changes")
    assert (none.status, none.json()["error"]["code"]) == (404, "no_changes")

    history = (await lab.get(f"/api/history?case={quote(case)}")).json()
    assert [one["outcome"] for one in history["verdicts"]] == ["failure", "success"]
    assert (history["failing_since"], history["last_good"]) == (second, first)
    for limit in ("many", "0", "1001", "0000000011", "9" * 5000):
        refused = await lab.get(f"/api/history?limit={limit}")
        assert (refused.status, refused.json()["error"]["code"]) == (400, "invalid_query")

    page = (await lab.get(f"/status/{second}/case/{case_key(case)}")).text()
    assert f"Fails since <b>{second}</b>" in page
    assert f'href="/s/{first}...{second}">compare</a>' in page
    assert 'aria-label="2 sessions, oldest first: 1 success, 1 failure"' in page
    # Heat maps count earlier sessions, and say so if there are none.
    alone = "This session only: its cases have no earlier verdicts."
    for measure, said in (
        ("flaky", "0 flakes in 2 verdicts: with a confidence of 95 %, 0 to 66 %"),
        ("p95", "with earlier sessions median"),
        ("changed", "1 new"),
    ):
        maps = [(await lab.get(f"/status/{one}?map={measure}")).text() for one in (first, second)]
        assert [alone in text for text in maps] == [True, False]
        assert [said in text for text in maps] == [False, True]
    # The page of an earlier session does not change with later ones.
    assert second not in (await lab.get(f"/status/{first}/case/{case_key(case)}")).text()
    shown = (await lab.get(f"/status/{second}")).text()
    assert "1 new failure" in shown
    assert f'href="/s/{first}...{second}">Compare with {first}</a>' in shown
    assert "Compare with" not in (await lab.get(f"/status/{first}")).text()
    assert "sums are off, success before" in (await lab.get(f"/s/{first}...latest")).text()
    assert (await lab.get(f"/s/{first}...2026-01-01--001")).status == 404


async def test_a_history_that_cannot_be_used_is_said(lab: HttpHarness) -> None:
    session, case = await _run(lab)
    path = lab.lab.root / FILE
    await asyncio.to_thread(path.unlink)
    await asyncio.to_thread(path.mkdir)

    page = await lab.get(f"/status/{session}/case/{case_key(case)}")

    assert page.status == 200
    assert "history.sqlite cannot be used: unable to open database file" in page.text()
    heat_map = (await lab.get(f"/status/{session}?map=flaky")).text()
    assert "This session only: the history in" in heat_map
    refused = await lab.get(f"/api/history?case={quote(case)}")
    assert (refused.status, refused.json()["error"]["code"]) == (503, "no_history")


async def test_results_that_are_not_kept_are_removed(tmp_path: Path) -> None:
    async with open_site(tmp_path, keep_results={"sessions": 1}) as site:
        first, second = await played(site), await played(site)
        assert (await site.get(f"/status/{second.id}")).status == 200

    assert not first.folder.path.exists()
    assert second.folder.path.exists()
    assert not list((tmp_path / "results").glob(".removing-*"))
