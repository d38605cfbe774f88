"""Homeservers that die, restart and freeze in the middle of a case, and many of them in a row."""

import asyncio
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import junitparser
import psutil
import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Running, Start

_INTEROP = Path(__file__).parent.parent / "interop"
# Seconds that a client waits for a homeserver that is dead.
_IMPATIENT = {"TRAFFICLIGHT_ACTION_DEADLINE": "5"}


@pytest.mark.parametrize("workers", ["1", "0"])
async def test_a_chat_goes_on_when_its_homeserver_was_away(start: "Start", workers: str) -> None:
    running = await start(
        "run", _INTEROP / "faults_test.py", "--server", "SynapseStable", "--workers", workers
    )

    assert await running.ended(timeout=200) == 0, running.output + running.errors
    assert len(running.cases()) == 4
    assert not any(case.result for case in running.cases().values())
    assert running.started() == []


@pytest.mark.parametrize("workers", ["1", "0"])
async def test_a_test_uses_its_homeserver_itself(start: "Start", workers: str) -> None:
    running = await start(
        "run", _INTEROP / "home_server_test.py", "--server", "SynapseStable", "--workers", workers
    )

    assert await running.ended() == 0, running.output + running.errors
    assert len(running.cases()) == 4
    assert not any(case.result for case in running.cases().values())


async def test_a_homeserver_that_the_test_kills_ends_the_case_with_its_log(
    start: "Start", demo: Path
) -> None:
    running = await start(
        "run", demo / "homeserver_killed_test.py", "-k", "not FromOutside", environment=_IMPATIENT
    )

    assert await running.ended() == 1, running.output + running.errors
    with_client = _expect_death(running, "HomeserverKilledByTheTest", junitparser.Failure)
    assert "signal 9, requested by the test" in with_client
    without = _expect_death(running, "HomeserverKilledUnderAnOwnClient", junitparser.Error)
    assert "registering bob" in without


async def test_a_homeserver_that_is_killed_from_outside_ends_the_case_with_its_log(
    start: "Start", demo: Path
) -> None:
    path = demo / "homeserver_killed_test.py::HomeserverKilledFromOutside"
    running = await start("run", path, environment=_IMPATIENT)
    await running.line("HomeserverKilledFromOutside", "running")
    port = await _port_once_there_are_messages(running)
    (homeserver,) = (process for process in running.started() if _listens(process, port))

    homeserver.kill()

    assert await running.ended() == 3, running.output + running.errors
    message = _expect_death(running, "HomeserverKilledFromOutside", junitparser.Error)
    assert "signal 9" in message
    assert "requested by the test" not in message
    assert running.started() == []


async def test_a_hundred_cases_leave_nothing_behind(start: "Start", tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    path = _INTEROP / "home_server_test.py::Registers"

    running = await start(
        *("run", path, "--server", "SynapseStable", "--repeat", "100"),
        environment={"TMPDIR": str(temporary)},
    )

    assert await running.ended(timeout=280) == 0, running.output[-20:] + running.errors
    assert running.output[-1].startswith("100 success · 0 failure · 0 error")
    assert running.started() == []
    events = (running.session() / "events.jsonl").read_text()
    ports = {int(port) for port in re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", events)}
    assert len(ports) == 200
    assert [port for port in ports if not _is_free(port)] == []
    assert list(temporary.iterdir()) == []
    assert _folders_in_memory(running) == []


def _expect_death(running: "Running", name: str, kind: type[junitparser.junitparser.FinalResult]) -> str:
    """Expect a case to have ended with what became of its homeserver, its log at hand; return the message."""
    (case,) = (case for case_id, case in running.cases().items() if f"::{name}[" in case_id)
    (result,) = case.result
    assert type(result) is kind
    assert "the homeserver server exited" in str(result.message)
    (log,) = (running.session() / "cases").glob(f"**/{name}/**/homeserver.log")
    assert "/_matrix/client/v3/register" in log.read_text()
    report = (running.session() / "report.html").read_text()
    assert re.search(rf'<a href="[^"]*/{name}/[^"]*/homeserver\.log"', report)
    return str(result.message)


async def _port_once_there_are_messages(running: "Running") -> int:
    """Return the port of the client-server API of the only case, once its client has sent something."""
    events = running.directory / "results" / "current" / "events.jsonl"
    while not re.search(r'"kind":"action_answered".*"action":"send_message"', text := events.read_text()):
        await asyncio.sleep(0.05)  # a file does not tell when it grows
    found = re.search(r'"cs_api":"http://127\.0\.0\.1:(\d+)"', text)
    assert found is not None
    return int(found[1])


def _listens(process: psutil.Process, port: int) -> bool:
    connections = process.net_connections(kind="tcp4")
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def _folders_in_memory(running: "Running") -> list[Path]:
    return list(Path("/dev/shm").glob(f"trafficlight-servers-{running.pid}-*"))


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
