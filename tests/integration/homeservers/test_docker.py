"""The provider docker on a real engine: limits, logs, ends of all kinds, and what dead labs left."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.homeservers.engine import engine_url
from trafficlight.clients.home_server import register_account
from trafficlight.config import DockerHost
from trafficlight.errors import DeployError
from trafficlight.homeservers.docker.api import LABEL, Owner
from trafficlight.homeservers.docker.provider import DockerProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import SynapseStable

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="session")]

Ask = Callable[..., ServerRequest]
IMAGE = SynapseStable.image


def _filters(provider: DockerProvider) -> str:
    return json.dumps({"label": [f"{LABEL}={provider.engine.owner.id}"]})


async def _containers(provider: DockerProvider) -> list[Any]:
    engine = provider.engine
    found: list[Any] = await engine.docker.containers.list(all=1, filters=_filters(provider))
    return found


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_labels_limits_and_ports(docker: DockerProvider, ask: Ask) -> None:
    async with docker.deploy("suite::Case[x=1]", [ask("server")]) as [server]:
        [container] = await _containers(docker)
        shown = await container.show()
        assert shown["Config"]["Labels"]["trafficlight.case"] == "suite::Case[x=1]"
        assert shown["Config"]["Labels"]["trafficlight.role"] == "server"
        assert shown["HostConfig"]["Memory"] == 2**30
        [published] = shown["NetworkSettings"]["Ports"]["8008/tcp"]
        assert server.cs_api == f"http://{published['HostIp']}:{published['HostPort']}"
        assert published["HostIp"] == "127.0.0.1"
    assert await _containers(docker) == []


async def test_the_log_comes_while_it_runs_and_goes_on_after_a_restart(
    docker: DockerProvider, ask: Ask
) -> None:
    request = ask("server")
    async with docker.deploy("log", [request]) as [server]:

        async def registered() -> bool:
            return "/_matrix/client/v3/register" in request.log.read_text()

        await register_account(server.cs_api, "alice", "a password")
        await _until(registered)
        cs_api = server.cs_api
        await server.operate("restart")
        assert server.cs_api == cs_api
        await register_account(server.cs_api, "bob", "a password")
    log = request.log.read_text()
    assert log.count('v3/register HTTP/1.1"') == 2
    lines = log.splitlines()
    assert len(lines) == len(set(lines)), "the log before the restart was copied twice"


async def test_one_that_is_killed_from_outside_says_so(docker: DockerProvider, ask: Ask) -> None:
    async with docker.deploy("killed", [ask("server")]) as [server]:
        [container] = await _containers(docker)
        await container.kill()

        async def reported() -> bool:
            return getattr(server, "exited", None) == "exit code 137"

        await _until(reported)
        await server.operate("start")
        assert getattr(server, "exited", "") is None
        await server.operate("kill")
        assert getattr(server, "exited", "") == "exit code 137, requested by the test"


async def test_one_that_does_not_come_up_shows_its_log(ask: Ask) -> None:
    starved = DockerProvider(DockerHost(url=engine_url()), memory_bytes=24 * 2**20)
    await starved.prepare(SynapseStable().homeservers())
    try:
        with pytest.raises(DeployError, match=r"server: exited while starting, exit code \d+"):
            async with starved.deploy("starved", [ask("server")]):
                pytest.fail("it was deployed")
        assert await _containers(starved) == []
    finally:
        await starved.close()


async def test_a_case_that_is_called_off_while_they_start_leaves_nothing(
    docker: DockerProvider, ask: Ask
) -> None:
    for seconds in (0.0, 0.05, 0.2, 0.6):

        async def case() -> None:
            async with docker.deploy("cancelled", [ask("red"), ask("blue")]):
                pytest.fail("it was deployed too soon")

        task = asyncio.create_task(case())
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        await asyncio.wait([task])
        assert await _containers(docker) == []
        engine = docker.engine
        filters = {"label": [f"{LABEL}={engine.owner.id}"]}
        assert await engine.docker.networks.list(filters=filters) == []


async def test_a_port_that_another_program_took_is_replaced(
    docker: DockerProvider, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [(taken.getsockname()[1], 31_991)]
        pick = docker._pick_ports
        monkeypatch.setattr(docker, "_pick_ports", lambda: ports.pop() if ports else pick())
        async with docker.deploy("taken", [ask("server")]) as [server]:
            await register_account(server.cs_api, "alice", "a password")
        assert not ports


async def test_it_tells_how_many_it_carries(docker: DockerProvider) -> None:
    engine = docker.engine
    assert docker.capacities == {"docker homeservers": engine.capacity}
    narrow = DockerProvider(DockerHost(url=engine_url(), capacity=1))
    await narrow.prepare(SynapseStable().homeservers())
    assert narrow.capacities == {"docker homeservers": 1}
    await narrow.close()


async def test_what_a_dead_lab_left_is_removed_and_what_a_living_one_has_is_not(
    docker: DockerProvider,
) -> None:
    engine = docker.engine
    living = Owner().labels("living")
    place, _, started, token = living[LABEL].split("/")
    dead = living | {LABEL: f"{place}/999999999/{started}/{token}"}
    made = {}
    for name, labels in (("dead", dead), ("living", living)):
        made[name] = await engine.docker.containers.create({"Image": IMAGE, "Labels": labels})
    network = await engine.docker.networks.create({"Name": "trafficlight-test-dead", "Labels": dead})
    other = DockerProvider(DockerHost(url=engine_url()))
    try:
        await other.prepare(SynapseStable().homeservers())
        kept = {container.id for container in await engine.docker.containers.list(all=1)}
        assert made["dead"].id not in kept
        assert made["living"].id in kept
        assert network.id not in {found["Id"] for found in await engine.docker.networks.list()}
    finally:
        await made["living"].delete(force=True)
        await other.close()


async def test_an_image_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    provider = DockerProvider(
        DockerHost(url=engine_url()), images={"SynapseStable": "127.0.0.1:1/nonesuch:1"}
    )
    try:
        with pytest.raises(DeployError, match=r"has no image 127\.0\.0\.1:1/nonesuch:1 and cannot pull it"):
            await provider.prepare(SynapseStable().homeservers())
        request = ServerRequest("server", SynapseStable().homeservers()[0], tmp_path / "log")
        with pytest.raises(DeployError, match="nonesuch"):
            async with provider.deploy("missing", [request]):
                pytest.fail("it was deployed")
    finally:
        await provider.close()
