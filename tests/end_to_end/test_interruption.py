"""What is asked to stop ends soon, with complete results, and leaves nothing running."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import junitparser
import psutil
import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Running, Start


async def _in_the_middle(start: "Start", demo: Path, chat: Path, grace: str) -> "Running":
    """Return a session in which one case has ended, one never ends and one has not begun."""
    environment = {"TRAFFICLIGHT_GRACE": grace, "TRAFFICLIGHT_CASE_LIMIT": "1"}
    ends, never_ends, waits = (
        chat / "send_messages_test.py::SendMessages",
        demo / "never_ends_test.py",
        chat / "invited_before_message_test.py::JoinedAfterMessage",
    )
    running = await start("run", ends, never_ends, waits, environment=environment)
    await running.line("SendMessages", "success")
    await running.line("NeverEnds", "running")
    # Real adapters, and a homeserver, are there to be left behind.
    assert len(running.started()) > 4
    return running


def _expect_complete_results(running: "Running") -> None:
    junit, cases = running.junit(), running.cases()
    assert (junit.tests, junit.failures, junit.errors) == (4, 0, 2)
    by_name = {case_id.partition("[")[0].rpartition("::")[2]: case for case_id, case in cases.items()}
    assert not by_name["SendMessages"].result
    (cancelled,) = by_name["NeverEnds"].result
    assert type(cancelled) is junitparser.Error
    assert "cancelled while running" in str(cancelled.message)
    (not_run,) = by_name["JoinedAfterMessage"].result
    assert type(not_run) is junitparser.Skipped
    assert "interrupted" in str(not_run.message)
    files = {path.name for path in running.session().iterdir()}
    assert {"junit.xml", "report.html", "session.json"} <= files
    assert "interrupted" in running.output[-1]


@pytest.mark.parametrize("how", ["interrupt", "terminate"])
async def test_a_lab_whose_fork_server_is_stopped_still_ends(
    start: "Start", demo: Path, chat: Path, how: str
) -> None:
    running = await _in_the_middle(start, demo, chat, grace="0.5")
    programs = running.programs("synapse_fork_server.py")  # it, and the homeservers that it has forked
    children = set()
    for process in programs:
        with suppress(psutil.NoSuchProcess):  # a homeserver that ended meanwhile
            children.update(process.children())
    [fork_server] = [process for process in programs if process not in children]
    fork_server.suspend()

    getattr(running, how)()

    assert await running.ended(timeout=60) == 130, running.errors
    assert running.started() == []
    _expect_complete_results(running)


@pytest.mark.parametrize("how", ["interrupt", "terminate"])
async def test_a_session_that_is_stopped_ends_in_good_order(
    start: "Start", demo: Path, chat: Path, how: str
) -> None:
    running = await _in_the_middle(start, demo, chat, grace="0.5")

    getattr(running, how)()

    assert await running.ended() == 130, running.errors
    assert running.started() == []
    _expect_complete_results(running)


async def test_the_second_time_nothing_is_waited_for(start: "Start", demo: Path, chat: Path) -> None:
    running = await _in_the_middle(start, demo, chat, grace="200")

    running.interrupt()
    await running.line("a second signal")
    running.interrupt()

    assert await running.ended(timeout=100) == 130, "before the grace is over"
    assert running.started() == []
    _expect_complete_results(running)


async def test_nothing_outlives_a_coordinator_that_is_killed(start: "Start", demo: Path, chat: Path) -> None:
    running = await _in_the_middle(start, demo, chat, grace="10")
    processes = running.started()

    running.kill()

    await running.ended()
    await running.gone(processes)
