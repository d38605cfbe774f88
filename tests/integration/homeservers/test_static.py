"""Homeservers that run anyway: looked at before they are used, lent to one case at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.homeservers.static import StaticProvider
from trafficlight.server_types import Dendrite, ServerType, SynapseStable

Ask = Callable[..., ServerRequest]


class Answering:
    """What looks like a homeserver."""

    body = '{"versions": ["v1.1"]}'
    status = 200
    url = ""

    async def versions(self, request: web.Request) -> web.Response:
        return web.Response(text=self.body, status=self.status, content_type="application/json")

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"server": {"name": "Conduit", "version": "0.9"}})


@pytest_asyncio.fixture
async def answering() -> AsyncIterator[Answering]:
    found = Answering()
    app = web.Application()
    app.router.add_get("/_matrix/client/versions", found.versions)
    app.router.add_get("/_matrix/federation/v1/version", found.version)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    def make(role: str, kind: type[ServerType] = SynapseStable) -> ServerRequest:
        return ServerRequest(role, kind().homeservers()[0], tmp_path / f"{role}.log")

    return make


async def test_lends_what_is_configured(answering: Answering, ask: Ask) -> None:
    provider = StaticProvider(
        {"SynapseStable": {"server_name": "hs.example", "cs_api": f"{answering.url}//"}}
    )
    request = ask("server")
    await provider.prepare([request.spec])
    async with provider.deploy("case", [request]) as [server]:
        assert (server.role, server.server_name, server.cs_api) == ("server", "hs.example", answering.url)
        assert server.version == "Conduit 0.9"
        with pytest.raises(UnsupportedError, match=r"cannot restart hs\.example"):
            await server.operate("restart")
    assert request.log.read_text().startswith(f"hs.example at {answering.url} runs outside the lab")
    await provider.close()


async def test_the_next_case_waits(answering: Answering, ask: Ask) -> None:
    provider = StaticProvider({"SynapseStable": answering.url})
    assert provider.capacities == {"SynapseStable": 1}
    deployed: list[str] = []

    async def case(name: str) -> None:
        async with provider.deploy(name, [ask(name)]):
            deployed.append(name)

    async with provider.deploy("first", [ask("first")]):
        waiting = asyncio.create_task(case("second"))
        await asyncio.sleep(0.05)
        assert not deployed
    await waiting
    assert deployed == ["second"]


async def test_two_types_never_wait_for_each_other(answering: Answering, ask: Ask) -> None:
    provider = StaticProvider({"SynapseStable": answering.url, "Dendrite": answering.url})

    async def case(*kinds: type[ServerType]) -> None:
        async with provider.deploy("case", [ask(kind.__name__, kind) for kind in kinds]) as servers:
            assert [server.role for server in servers] == [kind.__name__ for kind in kinds]

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(case(SynapseStable, Dendrite))
            group.create_task(case(Dendrite, SynapseStable))


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (502, "bad gateway", "answers 502 bad gateway"),
        (200, "<html>", "does not answer as a homeserver: <html>"),
        (200, "[]", "does not answer as a homeserver"),
    ],
)
async def test_one_that_does_not_answer_rightly_is_named(
    answering: Answering, ask: Ask, status: int, body: str, reason: str
) -> None:
    answering.status, answering.body = status, body
    provider = StaticProvider({"SynapseStable": answering.url})
    with pytest.raises(DeployError, match=f"SERVER_OVERRIDES.SynapseStable: .*{reason}"):
        await provider.prepare([ask("server").spec])


async def test_one_that_is_not_there_is_named(ask: Ask) -> None:
    provider = StaticProvider({"SynapseStable": "http://127.0.0.1:1"})
    with pytest.raises(DeployError, match=r"SERVER_OVERRIDES\.SynapseStable: .* is not reachable"):
        await provider.prepare([ask("server").spec])
    with pytest.raises(DeployError, match="server: SERVER_OVERRIDES"):
        async with provider.deploy("case", [ask("server")]):
            pytest.fail("there is none")


async def test_what_is_not_configured_is_unsupported(ask: Ask) -> None:
    provider = StaticProvider({"SynapseStable": "http://127.0.0.1:1"})
    request = ask("server", Dendrite)
    assert (
        provider.unsupported(request.spec)
        == "Dendrite (dendrite): SERVER_OVERRIDES names no homeserver for it"
    )
    with pytest.raises(UnsupportedError, match="Dendrite"):
        async with provider.deploy("case", [request]):
            pytest.fail("there is none")
