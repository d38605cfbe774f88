"""A Docker engine that falls silent in the middle of something holds up nobody for ever."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.homeservers.silent_engine import SilentEngine
from trafficlight.config import DockerHost
from trafficlight.errors import DeployError
from trafficlight.homeservers.docker import DockerProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import SynapseStable

pytest.importorskip("aiodocker", reason="pip install 'trafficlight[docker]'")

SPECS = SynapseStable().homeservers()


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[SilentEngine]:
    async with SilentEngine().listening() as engine:
        yield engine


@pytest_asyncio.fixture
async def provider(engine: SilentEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DockerProvider]:
    for name in ("docker", "docker_server"):
        monkeypatch.setattr(f"trafficlight.homeservers.{name}.CREATE_SECONDS", 0.3)
    monkeypatch.setattr("trafficlight.homeservers.docker_engine._ANSWER_SECONDS", 0.3)
    provider = DockerProvider([engine.url])
    async with asyncio.timeout(20):
        yield provider
        await provider.close()


@pytest.mark.parametrize("kind", ["network", "container"])
async def test_a_case_does_not_wait_for_what_is_never_made(
    engine: SilentEngine, provider: DockerProvider, tmp_path: Path, kind: str
) -> None:
    await provider.prepare(SPECS)
    engine.silent = {f"{kind}s/create"}
    with pytest.raises(DeployError, match="no answer in time"):
        async with provider.deploy("case", [ServerRequest("server", SPECS[0], tmp_path / "log")]):
            pytest.fail("it came up")
    assert provider.engines.all[0].wanted == set()


async def test_one_that_does_not_tell_of_an_image_is_named(
    engine: SilentEngine, provider: DockerProvider
) -> None:
    engine.silent = {f"images/{SPECS[0].image}/json"}
    with pytest.raises(DeployError, match=f"the Docker engine {engine.url} does not tell of"):
        await provider.prepare(SPECS)


async def test_others_do_without_one_that_does_not_tell_of_an_image(
    engine: SilentEngine, provider: DockerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    engine.silent = {f"images/{SPECS[0].image}/json"}
    async with SilentEngine().listening() as other:
        both = DockerProvider([DockerHost(url=engine.url), DockerHost(url=other.url)])
        with caplog.at_level(logging.WARNING):
            await both.prepare(SPECS)
        await both.close()
    assert f"the Docker engine {engine.url} does not tell of" in caplog.text


async def test_sessions_that_prepare_while_it_is_asked_do_not_wait_for_it(
    engine: SilentEngine, provider: DockerProvider
) -> None:
    engine.silent = {"info"}
    with pytest.raises(DeployError, match="does not answer"):
        await provider.prepare(SPECS)
    [asked] = provider.engines.all
    asked._again = 0.0  # time for the next try
    first = asyncio.create_task(provider.prepare(SPECS))
    await _until(lambda: asked._connecting.locked())
    with pytest.raises(DeployError, match="does not answer"):
        await provider.prepare(SPECS)
    assert not first.done()
    with pytest.raises(DeployError, match="does not answer"):
        await first


@pytest.mark.parametrize("event", [b'"a word"', b"[]", b'{"Actor": 3}', b"{]", b'{"timeNano": "x"}'])
async def test_what_it_sends_does_not_keep_it_from_being_asked_again(
    engine: SilentEngine, provider: DockerProvider, event: bytes
) -> None:
    engine.events = [event]
    await provider.prepare(SPECS)
    await _until(lambda: engine.asked.count("events") >= 2 and engine.url in provider.hosts)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)
