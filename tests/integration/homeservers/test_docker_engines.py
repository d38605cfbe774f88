"""Several Docker engines as one capacity: one remote behind TLS, and one that fails."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.homeservers.engine import engine_url
from tests.integration.homeservers.far_engine import FarEngine
from trafficlight.clients.home_server import register_account
from trafficlight.config import DockerHost, Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.errors import DeployError
from trafficlight.homeservers.docker.owner import LABEL, Owner
from trafficlight.homeservers.docker.provider import DockerProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.results.events import CaseEnded, Event, ServerReady, State
from trafficlight.server_types import SynapseStable
from trafficlight.suites.selection import SessionRequest

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="session")]

Ask = Callable[..., ServerRequest]
SPECS = SynapseStable().homeservers()


async def _until(condition: Callable[[], bool], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def _ours(provider: DockerProvider, engine: Any) -> list[Any]:
    filters = json.dumps({"label": [f"{LABEL}={provider.engines[0].owner.id}"]})
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
        provider = DockerProvider([far.host(certificates=certificates)])
        try:
            with pytest.raises(DeployError, match=rf"the Docker engine {far.url} does not answer: {why}"):
                await provider.prepare(SPECS)
        finally:
            await provider.close()

    async def test_an_engine_that_wants_tls_says_so(
        self, far: FarEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
        provider = DockerProvider([far.url])
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
        provider = DockerProvider([engine_url(), far.url])
        try:
            await provider.prepare(SPECS)
            assert set(provider.hosts) == {engine_url(), far.url}
        finally:
            await provider.close()


async def test_each_case_is_where_there_is_room_for_it(far: FarEngine, ask: Ask) -> None:
    provider = DockerProvider([engine_url(), far.host()])
    try:
        await provider.prepare(SPECS)
        for url, address in ((engine_url(), "127.0.0.1"), (far.url, far.address)):
            request = ask("server")
            request = ServerRequest(request.role, request.spec, request.log, host=url)
            async with provider.deploy("where", [request]) as [server]:
                assert server.cs_api.startswith(f"http://{address}:")
                await register_account(server.cs_api, "alice", "a password")
    finally:
        await provider.close()


async def test_what_a_dead_lab_left_elsewhere_is_removed(far: FarEngine, far_docker: DockerProvider) -> None:
    [engine] = far_docker.engines
    living = Owner().labels("living")
    place, _, started, token = living[LABEL].split("/")
    dead = living | {LABEL: f"{place}/999999999/{started}/{token}"}
    container = await engine.docker.containers.create({"Image": SynapseStable.image, "Labels": dead})
    network = await engine.docker.networks.create({"Name": "trafficlight-test-dead", "Labels": dead})
    other = DockerProvider([far.host()])
    try:
        await other.prepare(SPECS)
        assert container.id not in {one.id for one in await engine.docker.containers.list(all=1)}
        assert network.id not in {one["Id"] for one in await engine.docker.networks.list()}
    finally:
        await other.close()


async def test_an_engine_that_dies_and_comes_back(far: FarEngine, ask: Ask) -> None:
    provider = DockerProvider([far.host()])
    try:
        await provider.prepare(SPECS)
        [engine] = provider.engines
        async with provider.deploy("lost", [ask("server")]) as [server]:
            await far.kill()
            await _until(lambda: not provider.hosts)
            await _until(lambda: getattr(server, "exited", None) is not None)
            assert f"the Docker engine {far.url} does not answer" in str(server.exited)
            with pytest.raises(DeployError, match="cannot restart: "):
                await server.operate("restart")
        assert not engine.wanted
        with pytest.raises(DeployError, match=f"the Docker engine {far.url} does not answer"):
            async with provider.deploy("nowhere", [ask("other")]):
                pytest.fail("it was deployed")
        await far.start()
        await _until(lambda: far.url in provider.hosts)
        assert await _ours(provider, engine) == [], "not removed after the reconnect"
        async with provider.deploy("back", [ask("server")]) as [server]:
            await register_account(server.cs_api, "alice", "a password")
    finally:
        await provider.close()


async def test_an_engine_that_falls_silent(far: FarEngine, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network is cut: nothing is refused, and no connection is closed."""
    monkeypatch.setattr("trafficlight.homeservers.docker.events._SILENCE_SECONDS", 0.5)
    for module in ("docker.events", "docker.engine"):
        monkeypatch.setattr(f"trafficlight.homeservers.{module}._ANSWER_SECONDS", 1.0)
    provider = DockerProvider([far.host()])
    try:
        await provider.prepare(SPECS)
        [engine] = provider.engines
        async with provider.deploy("silent", [ask("server")]) as [server]:
            await far.unplug()
            try:
                await _until(lambda: getattr(server, "exited", None) is not None)
                assert not provider.hosts
            except BaseException:
                await far.plug_in_again()
                raise
        await far.plug_in_again()
        await _until(lambda: far.url in provider.hosts)
        assert await _ours(provider, engine) == []
    finally:
        await provider.close()


SUITE = """
import asyncio
from pathlib import Path
from trafficlight import Test
from trafficlight.server_types import SynapseStable

RELEASE = Path({release!r})

class Holds(Test):
    servers = {{"server": SynapseStable}}

    async def run(self, server):
        while not RELEASE.exists():
            await asyncio.sleep(0.05)

"""


class _Watched:
    """The cases in the journal of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.addresses: dict[str, str] = {}
        self.ended: dict[str, Event] = {}
        lab.journal.subscribe(self._take)

    def _take(self, event: Event) -> None:
        case = event.case or ""
        if isinstance(event, ServerReady):
            self.addresses[case] = event.cs_api.split("/")[2].partition(":")[0]
        elif isinstance(event, CaseEnded):
            self.ended[case] = event

    def on(self, address: str) -> set[str]:
        return {case for case, where in self.addresses.items() if where == address}


async def test_two_engines_are_one_capacity_and_one_of_them_fails(far: FarEngine, tmp_path: Path) -> None:
    release = tmp_path / "release"
    suite = SUITE.format(release=str(release))
    (tmp_path / "holds_test.py").write_text(
        suite + "".join(f"class Holds{n}(Holds):\n    pass\n\n" for n in range(6))
    )
    engines = [DockerHost(url=engine_url(), capacity=2), far.host(capacity=2)]
    settings = Settings(
        docker_engines=engines,
        server_providers={"*": "docker"},
        results_folder=tmp_path / "results",
        workers=0,
    )
    async with Lab.open(settings) as lab:
        watched = _Watched(lab)
        session = await lab.start(SessionRequest(targets=[str(tmp_path / "holds_test.py")]))
        await _until(lambda: len(watched.addresses) == 4, 90)
        lost, kept = watched.on(far.address), watched.on("127.0.0.1")
        assert (len(lost), len(kept)) == (2, 2)
        waiting = set(session.record.cases) - lost - kept
        assert len(waiting) == 2
        assert session.reasons() == ["waiting for a docker homeserver (4 of 4 in use)"]
        await far.kill()
        try:
            await _until(lambda: lost <= set(watched.ended))
            for case in lost:
                record = session.record.cases[case]
                assert record.state is State.ERROR
                assert f"exited (the Docker engine {far.url} does not answer" in record.message
            release.touch()
            async with asyncio.timeout(90):
                await session.ended.wait()
        finally:
            await far.start()
        assert all(session.record.cases[case].state is State.SUCCESS for case in kept | waiting)
        assert watched.on("127.0.0.1") == kept | waiting
