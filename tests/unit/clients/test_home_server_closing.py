"""What a test opened on its homeserver is closed with its case."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trafficlight.clients import HomeServer
from trafficlight.results.events import State
from trafficlight.suites.imports import load_module
from trafficlight.suites.planning import plan
from trafficlight.worker.assignment import Assignment, ServerInfo
from trafficlight.worker.execution import execute

if TYPE_CHECKING:
    from tests.unit.clients.conftest import Operations

_CASE = """
import asyncio
from trafficlight import HomeServer, Test
from trafficlight.server_types import SynapseStable

opened, reached = [], asyncio.Event()

class Opens(Test):
    servers = {"server": [SynapseStable]}

    async def run(self, server: HomeServer) -> None:
        opened.append(await server.nio_client("carol"))
        reached.set()
        %s

    async def teardown(self, server: HomeServer) -> None:
        assert opened[0].client_session is not None, "it is there for the tear-down, too"
        opened.append(await server.nio_client("dave"))
"""


def _assignment(server: HomeServer, folder: Path, ending: str) -> Assignment:
    path = folder / "opens_test.py"
    path.write_text(_CASE % ending)
    (case,) = plan([path], directory=folder).cases
    facts = ServerInfo(server.server_name, server.cs_api)
    return Assignment(case, 1, folder, servers={"server": facts}, case_deadline=1.0, teardown_deadline=1.0)


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ("pass", State.SUCCESS),
        ("assert False", State.FAILURE),
        ("1 / 0", State.ERROR),
        ("self.skip('enough')", State.SKIPPED),
        ("await asyncio.Event().wait()", State.ERROR),
        ("await server.pause()", State.SKIPPED),
    ],
)
async def test_clients_are_closed_with_the_case_however_it_ends(
    server: HomeServer, operations: "Operations", tmp_path: Path, ending: str, state: State
) -> None:
    assignment = _assignment(server, tmp_path, ending)

    verdict = await execute(assignment, operations)

    assert verdict.state is state, verdict
    opened = load_module(assignment.case.path).opened
    assert [client.client_session for client in opened] == [None, None]


async def test_clients_are_closed_when_the_case_is_called_off(
    server: HomeServer, operations: "Operations", tmp_path: Path
) -> None:
    assignment = _assignment(server, tmp_path, "await asyncio.Event().wait()")
    running = asyncio.create_task(execute(assignment, operations))
    module = load_module(assignment.case.path)
    await module.reached.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert [client.client_session for client in module.opened] == [None, None]
