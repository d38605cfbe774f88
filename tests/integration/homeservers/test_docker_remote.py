"""A remote Docker engine behind TLS, which fails and comes back."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.homeservers.far_engine import FarEngine
from trafficlight.clients.home_server import register_account
from trafficlight.config import DockerHost
from trafficlight.errors import DeployError
from trafficlight.homeservers.docker.api import LABEL, Owner
from trafficlight.homeservers.docker.nodes import container_nodes
from trafficlight.homeservers.docker.provider import DockerProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.parameters import NodeRequest
from trafficlight.server_types import SynapseStable
from trafficlight.services.account import Account

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="session")]

Ask = Callable[..., ServerRequest]
SPECS = SynapseStable().homeservers()


async def _until(condition: Callable[[], bool], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def _ours(provider: DockerProvider, engine: Any) -> list[Any]:
    filters = json.dumps({"label": [f"{LABEL}={provider.engine.owner.id}"]})
    found: list[Any] = await engine.docker.containers.list(all=1, filters=filters)
    return found


class TestTls:
    @pytest.mark.parametrize(
        ("certificates", "why"),
        [
            ("other", r"its certificate is not trusted, see ca.pem in \S+/other: "),
            ("stranger", r"it does not accept our certificate, see cert.pem in \S+/stranger: "),
        ],
    )
    async def test_wrong_certificates_are_named(self, far: FarEngine, certificates: str, why: str) -> None:
        provider = DockerProvider(far.host(certificates=certificates))
        try:
            with pytest.raises(DeployError, match=rf"the Docker engine {far.url} does not answer: {why}"):
                await provider.prepare(SPECS)
        finally:
            await provider.close()

    async def test_an_engine_that_wants_tls_says_so(
        self, far: FarEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
        provider = DockerProvider(DockerHost(url=far.url))
        try:
            with pytest.raises(DeployError, match="it requires TLS: name its certificates"):
                await provider.prepare(SPECS)
        finally:
            await provider.close()

    async def test_the_settings_of_the_docker_command_do_too(
        self, far: FarEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(far.host().certificates))
        provider = DockerProvider(DockerHost(url=far.url))
        try:
            await provider.prepare(SPECS)
            assert provider.engine.up
        finally:
            await provider.close()

    async def test_nodes_are_reached_with_the_same_certificates(
        self, far: FarEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))  # meant for another engine
        async with (
            container_nodes(far.host(), SynapseStable.image) as cluster,
            cluster.lease(NodeRequest(1), [], "a mark", tmp_path) as [node],
        ):
            account = Account(node, "/tmp/case", "a mark")
            assert (await account.run("echo reached")).stdout == "reached\n"
            await account.close()


async def test_homeservers_are_published_at_its_address(far: FarEngine, ask: Ask) -> None:
    provider = DockerProvider(far.host())
    try:
        async with provider.deploy("where", [ask("server")]) as [server]:
            assert server.cs_api.startswith(f"http://{far.address}:")
            await register_account(server.cs_api, "alice", "a password")
    finally:
        await provider.close()


async def test_what_a_dead_lab_left_elsewhere_is_removed(far: FarEngine, far_docker: DockerProvider) -> None:
    engine = far_docker.engine
    living = Owner().labels("living")
    place, _, started, token = living[LABEL].split("/")
    dead = living | {LABEL: f"{place}/999999999/{started}/{token}"}
    container = await engine.docker.containers.create({"Image": SynapseStable.image, "Labels": dead})
    network = await engine.docker.networks.create({"Name": "trafficlight-test-dead", "Labels": dead})
    other = DockerProvider(far.host())
    try:
        await other.prepare(SPECS)
        assert container.id not in {one.id for one in await engine.docker.containers.list(all=1)}
        assert network.id not in {one["Id"] for one in await engine.docker.networks.list()}
    finally:
        await other.close()


async def test_an_engine_that_dies_and_comes_back(far: FarEngine, ask: Ask) -> None:
    provider = DockerProvider(far.host())
    try:
        await provider.prepare(SPECS)
        engine = provider.engine
        async with provider.deploy("lost", [ask("server")]) as [server]:
            await far.kill()
            await _until(lambda: not engine.up)
            await _until(lambda: getattr(server, "exited", None) is not None)
            assert f"the Docker engine {far.url} does not answer" in str(server.exited)
            with pytest.raises(DeployError, match="cannot restart: "):
                await server.operate("restart")
        assert not engine.wanted
        with pytest.raises(DeployError, match=f"the Docker engine {far.url} does not answer"):
            async with provider.deploy("nowhere", [ask("other")]):
                pytest.fail("it was deployed")
        await far.start()
        await _until(lambda: engine.up)
        assert await _ours(provider, engine) == [], "not removed after the reconnect"
        async with provider.deploy("back", [ask("server")]) as [server]:
            await register_account(server.cs_api, "alice", "a password")
    finally:
        await provider.close()


async def test_an_engine_that_falls_silent(far: FarEngine, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network is cut: nothing is refused, and no connection is closed."""
    monkeypatch.setattr("trafficlight.homeservers.docker.api._SILENCE_SECONDS", 0.5)
    for module in ("docker.api", "docker.engine"):
        monkeypatch.setattr(f"trafficlight.homeservers.{module}._ANSWER_SECONDS", 1.0)
    provider = DockerProvider(far.host())
    try:
        await provider.prepare(SPECS)
        engine = provider.engine
        async with provider.deploy("silent", [ask("server")]) as [server]:
            await far.unplug()
            try:
                await _until(lambda: getattr(server, "exited", None) is not None)
                assert not engine.up
            except BaseException:
                await far.plug_in_again()
                raise
        await far.plug_in_again()
        await _until(lambda: engine.up)
        assert await _ours(provider, engine) == []
    finally:
        await provider.close()
