"""A Docker engine that stops answering, or answers wrongly: every wait for it times out."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.integration.homeservers.engine_double import EngineDouble
from trafficlight.config import DockerHost
from trafficlight.errors import DeployError
from trafficlight.homeservers.docker.engine import pauses
from trafficlight.homeservers.docker.provider import DockerProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import SynapseStable

pytest.importorskip("aiodocker", reason="the extra docker is not installed")

Ask = Callable[..., ServerRequest]
SPECS = SynapseStable().homeservers()
INFO, EVENTS = "GET /info", "GET /events"
INSPECT, PULL = f"GET /images/{SynapseStable.image}/json", "POST /images/create"
MODULES = "trafficlight.homeservers"


@pytest_asyncio.fixture
async def double() -> AsyncIterator[EngineDouble]:
    async with EngineDouble().listening() as double:
        yield double


@pytest_asyncio.fixture
async def provider(double: EngineDouble) -> AsyncIterator[DockerProvider]:
    provider = DockerProvider(DockerHost(url=double.url))
    yield provider
    await provider.close()


async def _ended(work: "asyncio.Task[Any]", double: EngineDouble) -> None:
    """Wait for a task to end while the engine is silent; ends it in every case."""
    await asyncio.wait([work], timeout=10)
    ended = work.done()
    double.speak()
    work.cancel()
    await asyncio.wait([work])
    assert ended, "it waits for a silent engine"


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def _deploy(provider: DockerProvider, request: ServerRequest) -> None:
    async with provider.deploy("case", [request]):
        pytest.fail("it was deployed")


class TestCreate:
    """An engine that does not answer creates."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("docker.provider", "docker.server"):
            monkeypatch.setattr(f"{MODULES}.{module}.CREATE_SECONDS", 0.3)

    @pytest.mark.parametrize(
        ("what", "why"),
        [
            ("POST /networks/create", r"{url} cannot create a network: no answer in time"),
            ("POST /containers/create", r"server: {url}: no answer in time"),
        ],
    )
    async def test_the_case_ends_with_the_reason(
        self, double: EngineDouble, provider: DockerProvider, ask: Ask, what: str, why: str
    ) -> None:
        await provider.prepare(SPECS)
        double.silent = {what}
        case = asyncio.create_task(_deploy(provider, ask("server")))
        await _ended(case, double)
        with pytest.raises(DeployError, match=why.format(url=double.url)):
            await case

    async def test_a_case_that_is_called_off_meanwhile_ends(
        self, double: EngineDouble, provider: DockerProvider, ask: Ask
    ) -> None:
        await provider.prepare(SPECS)
        double.silent = {"POST /containers/create"}
        case = asyncio.create_task(_deploy(provider, ask("server")))
        await double.until_asked("POST /containers/create")
        case.cancel()
        await _ended(case, double)
        assert case.cancelled()

    async def test_what_it_makes_in_the_end_is_removed_when_it_is_asked_again(
        self, double: EngineDouble, provider: DockerProvider, ask: Ask
    ) -> None:
        await provider.prepare(SPECS)
        double.silent = {"POST /networks/create"}
        with pytest.raises(DeployError, match="cannot create a network"):
            await _deploy(provider, ask("server"))
        double.speak()
        await _until(lambda: bool(double.networks))
        double.say(None)
        await _until(lambda: not double.networks)


class TestPrepare:
    """What an engine does while a session begins."""

    async def test_an_engine_that_does_not_tell_of_an_image_is_named(
        self, double: EngineDouble, provider: DockerProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(f"{MODULES}.docker.engine._ANSWER_SECONDS", 0.3)
        double.silent = {INSPECT}
        preparing = asyncio.create_task(provider.prepare(SPECS))
        await _ended(preparing, double)
        with pytest.raises(DeployError, match=f"does not report whether it has {SynapseStable.image}"):
            await preparing

    async def test_a_pull_without_progress_ends(
        self, double: EngineDouble, provider: DockerProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(f"{MODULES}.docker.engine._PULL_SILENCE_SECONDS", 0.3)
        double.images.clear()
        preparing = asyncio.create_task(provider.prepare(SPECS))
        await _ended(preparing, double)
        with pytest.raises(DeployError, match=f"reports no progress of pulling {SynapseStable.image}"):
            await preparing
        double.pull = [0]
        await provider.prepare(SPECS)
        assert double.images == {SynapseStable.image}

    async def test_a_pull_may_take_long_while_it_goes_on(
        self, double: EngineDouble, provider: DockerProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(f"{MODULES}.docker.engine._PULL_SILENCE_SECONDS", 2)
        double.images.clear()
        double.pull = [0.25] * 10
        await provider.prepare(SPECS)
        assert double.images == {SynapseStable.image}

    async def test_one_that_refuses_is_named(self, double: EngineDouble, provider: DockerProvider) -> None:
        double.images.clear()
        double.nonsense = {PULL: {"error": "no such image"}}
        with pytest.raises(DeployError, match=f"{double.url} has no image .*: .*no such image"):
            await provider.prepare(SPECS)

    async def test_an_image_that_is_gone_after_a_reconnect_is_pulled_for_the_next_case(
        self, double: EngineDouble, provider: DockerProvider, ask: Ask
    ) -> None:
        await provider.prepare(SPECS)
        double.images.clear()
        double.pull = [0.05]
        double.nonsense = {"POST /networks/create": []}
        with contextlib.suppress(Exception):
            async with provider.deploy("case", [ask("server")]):
                pass
        assert double.images == {SynapseStable.image}


class TestConnections:
    """Every connection but that of the events is free after a request, also one that failed."""

    @staticmethod
    def _in_use(provider: DockerProvider) -> int:
        return len(provider.engine.docker.session.connector._acquired) - 1

    async def _prepared(self, double: EngineDouble, provider: DockerProvider) -> Any:
        await provider.prepare(SPECS)
        await _until(lambda: bool(double.listeners))
        return provider.engine.docker

    async def test_a_log_that_breaks(self, double: EngineDouble, provider: DockerProvider) -> None:
        docker = await self._prepared(double, provider)
        lines = docker.containers.container("broken").log(stdout=True, follow=True)
        with pytest.raises(aiohttp.ClientPayloadError) as _kept:  # keeps the response from being collected
            async for _ in lines:
                pass
        assert self._in_use(provider) == 0

    async def test_a_log_that_is_left(self, double: EngineDouble, provider: DockerProvider) -> None:
        docker = await self._prepared(double, provider)
        async with contextlib.aclosing(
            docker.containers.container("one").log(stdout=True, follow=True)
        ) as lines:
            assert await anext(lines) == "line\n"
            assert self._in_use(provider) == 1
        assert self._in_use(provider) == 0

    async def test_a_pull_that_times_out(
        self, double: EngineDouble, provider: DockerProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self._prepared(double, provider)
        monkeypatch.setattr(f"{MODULES}.docker.engine._PULL_SILENCE_SECONDS", 0.1)
        double.images.clear()
        with pytest.raises(DeployError, match="reports no progress") as _kept:
            await provider.prepare(SPECS)
        assert self._in_use(provider) == 0

    async def test_events_that_end(self, double: EngineDouble, provider: DockerProvider) -> None:
        await self._prepared(double, provider)
        double.say("[1]")
        await double.until_asked(EVENTS, 2)
        await _until(lambda: bool(double.listeners))
        assert self._in_use(provider) == 0


class TestKeeper:
    """The lab reconnects to an engine, whatever it sends."""

    @pytest.mark.parametrize("line", ["[1]", '"text"', '{"Actor": "nobody", "Action": "die"}'])
    async def test_events_that_make_no_sense(
        self, double: EngineDouble, provider: DockerProvider, line: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await provider.prepare(SPECS)
        await double.until_asked(EVENTS)
        await _until(lambda: bool(double.listeners))
        double.say(line)
        await double.until_asked(EVENTS, 2)
        assert f"{double.url}: cannot process its events" in caplog.text
        await _until(lambda: provider.engine.up)

    @pytest.mark.parametrize(
        "nonsense",
        [{"GET /containers/json": [{}]}, {"GET /networks": [{}]}, {"GET /containers/json": "text"}],
    )
    async def test_answers_that_make_no_sense(
        self, double: EngineDouble, provider: DockerProvider, nonsense: dict[str, Any]
    ) -> None:
        await provider.prepare(SPECS)
        engine = provider.engine
        await _until(lambda: bool(double.listeners))
        double.nonsense = nonsense
        double.say(None)
        await _until(lambda: "does not answer as one does" in engine.failure)
        assert not provider.engine.up
        double.nonsense = {}
        await _until(lambda: provider.engine.up)

    async def test_one_that_is_no_engine_at_first(
        self, double: EngineDouble, provider: DockerProvider
    ) -> None:
        double.nonsense = {INFO: {}}
        with pytest.raises(DeployError, match=f"{double.url} does not answer as one does: KeyError"):
            await provider.prepare(SPECS)
        double.nonsense = {}
        await _until(lambda: provider.engine.up)

    async def test_one_that_always_ends_its_event_stream_is_not_polled(
        self, double: EngineDouble, provider: DockerProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(f"{MODULES}.docker.engine._FIRST_PAUSE", 0.02)
        monkeypatch.setattr(f"{MODULES}.docker.engine._LONGEST_PAUSE", 0.08)
        double.nonsense = {EVENTS: {"Action": "start"}}  # one event, and the end
        await provider.prepare(SPECS)
        await double.until_asked(INFO, 6)
        gaps = [after - before for before, after in itertools.pairwise(double.moments)]
        for gap, pause in zip(gaps, [0.02, 0.04, 0.08, 0.08, 0.08], strict=False):
            assert gap >= pause


def test_the_pause_before_a_reconnect_doubles_up_to_half_a_minute() -> None:
    assert list(itertools.islice(pauses(), 9)) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
