"""A homeserver of several processes, with a database."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from trafficlight.clients.home_server import register_account
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.local.server import LocalServer
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import ServerType, SynapsePostgres, SynapseWorkers

# The first use installs the drivers of the databases.
pytestmark = [pytest.mark.network, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

Ask = Callable[..., ServerRequest]


async def test_every_process_has_its_part_and_the_end_of_one_is_reported(
    local: LocalProvider, ask: Ask, descendants: Callable[[], set[int]]
) -> None:
    request = ask("server", await _prepared(local, SynapseWorkers(config={"presence": {"enabled": True}})))
    before, segments = descendants(), _shared_memory()
    async with local.deploy("workers", [request]) as [server]:
        assert isinstance(server, LocalServer)
        await register_account(server.cs_api, "alice", "a password")
        log = request.log.read_text()
        assert " reader INFO synapse.access" in log
        for name in ("sender", "writer"):
            assert f" {name} WARNING synapse.config.logger - main - ***** STARTING SERVER" in log
        (redis,) = (process for command, process in server._services if command.name == "redis")
        redis.signal(signal.SIGKILL)
        await redis.wait()
        assert server.exited == "redis: signal 9"
    assert descendants() == before
    assert _shared_memory() == segments


async def test_its_data_survive_a_kill(local: LocalProvider, ask: Ask) -> None:
    async with local.deploy("kill", [ask("server", await _prepared(local, SynapsePostgres()))]) as [server]:
        await register_account(server.cs_api, "alice", "a password")
        await server.operate("kill")
        assert server.exited == "signal 9, requested by the test"
        await server.operate("start")
        with pytest.raises(Exception, match="M_USER_IN_USE"):
            await register_account(server.cs_api, "alice", "a password")


async def _prepared(local: LocalProvider, server_type: ServerType) -> ServerType:
    spec = server_type.homeservers()[0]
    if (reason := local.unsupported(spec)) is not None:
        pytest.skip(reason)
    await local.prepare([spec])
    return server_type


def _shared_memory() -> int:
    """Return how many segments of shared memory there are that no process has."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return sum(line.split()[6] == "0" for line in lines)
