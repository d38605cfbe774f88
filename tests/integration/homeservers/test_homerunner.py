"""The known faults of homerunner, and their effect on a case."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.integration.homeservers.homerunner_double import Double, Faults
from trafficlight.errors import ConfigError, DeployError, UnsupportedError
from trafficlight.homeservers.homerunner.provider import HomerunnerProvider
from trafficlight.homeservers.provider import ServerRequest, capacity_of_this_machine
from trafficlight.server_types import Dendrite, HomeServerSpec, SynapseStable

Requests = Callable[[int], list[ServerRequest]]


@pytest_asyncio.fixture
async def double() -> AsyncIterator[Double]:
    """A homerunner; at the end of every test nothing runs there any more."""
    async with Double().listening() as double:
        yield double
        await double.settled()
        assert not double.live


@pytest_asyncio.fixture
async def provider(double: Double) -> AsyncIterator[HomerunnerProvider]:
    provider = HomerunnerProvider([f"{double.url}/"], ready_timeout=2, settle=5)
    yield provider
    await provider.close()


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    spec = SynapseStable().homeservers()[0]
    return lambda count: [
        ServerRequest(f"role{number}", spec, tmp_path / f"{number}.log") for number in range(count)
    ]


async def test_deploys_and_destroys(double: Double, provider: HomerunnerProvider, requests: Requests) -> None:
    async with provider.deploy("case", requests(2)) as [one, two]:
        assert (one.role, one.server_name) == ("role0", "hs1")
        assert (two.role, two.server_name) == ("role1", "hs2")
        assert one.cs_api != two.cs_api
        assert one.version == "Synapse 1.0"
        assert one.image == SynapseStable().homeservers()[0].image
        [name] = double.live
    assert double.destroyed == [name]


async def test_asks_for_the_image_of_each_and_for_no_users(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    async with provider.deploy("case", requests(1)):
        pass
    [body] = double.created
    assert body["base_image_uri"] == "complement-synapse:stable"
    assert body["blueprint"]["Homeservers"] == [{"Name": "hs1", "BaseImageURI": "complement-synapse:stable"}]


async def test_an_image_can_be_configured(double: Double, requests: Requests) -> None:
    double.images = {"mine:1"}
    provider = HomerunnerProvider([double.url], images={"SynapseStable": "mine:1"})
    async with provider.deploy("case", requests(1)):
        pass
    await provider.close()


async def test_creates_one_at_a_time_under_names_never_used(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.faults.delay = 0.02

    async def case() -> None:
        async with provider.deploy("case", requests(1)):
            pass

    await asyncio.gather(*(case() for _ in range(6)))
    assert double.most_at_once == 1
    assert len({body["blueprint"]["Name"] for body in double.created}) == 6


async def test_several_share_the_work(double: Double, requests: Requests) -> None:
    async with Double().listening() as other:
        double.faults.delay = other.faults.delay = 0.05
        provider = HomerunnerProvider([double.url, other.url])

        async def case() -> None:
            async with provider.deploy("case", requests(1)):
                pass

        await asyncio.gather(*(case() for _ in range(4)))
        await provider.close()
        assert [len(double.created), len(other.created)] == [2, 2]


async def test_a_refused_create_is_tried_again_under_a_new_name(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.faults.refuse = 2
    async with provider.deploy("case", requests(1)):
        names = [body["blueprint"]["Name"] for body in double.created]
        assert len(set(names)) == 3
        assert double.live == {names[-1]}


async def test_the_error_says_what_homerunner_said(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.faults.no_docker = True
    with pytest.raises(DeployError, match=r"role0: http.*400 .*Cannot connect to the Docker daemon"):
        async with provider.deploy("case", requests(1)):
            pytest.fail("it was deployed")
    assert len(double.created) == 3


async def test_a_missing_image_is_not_tried_again(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.images = set()
    with pytest.raises(DeployError, match="No such image: complement-synapse:stable"):
        async with provider.deploy("case", requests(1)):
            pytest.fail("it was deployed")
    assert len(double.created) == 1


async def test_a_200_is_not_believed(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.faults.mute = 1
    async with provider.deploy("case", requests(1)):
        names = [body["blueprint"]["Name"] for body in double.created]
        assert double.destroyed == names[:1]
        assert double.live == {names[1]}


async def test_a_200_without_the_servers_is_destroyed(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.faults.incomplete = True
    with pytest.raises(DeployError, match="answers 200 without the homeservers"):
        async with provider.deploy("case", requests(1)):
            pytest.fail("it was deployed")
    assert len(double.destroyed) == 3


async def test_destroyed_when_the_case_is_cancelled(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    deployed = asyncio.Event()

    async def case() -> None:
        async with provider.deploy("case", requests(1)):
            deployed.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(case())
    await deployed.wait()
    task.cancel()
    await asyncio.wait([task])
    assert not double.live


async def test_an_abandoned_create_is_destroyed(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.faults.delay = 0.2
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), provider.deploy("case", requests(1)):
            pytest.fail("it was deployed")
    async with provider.deploy("next", requests(1)):  # not in parallel with the one that goes on
        assert double.most_at_once == 1
        assert len(double.destroyed) + len(double.live) == 2
    await provider.close()
    assert not double.live


async def test_a_create_is_destroyed_after_its_connection_broke(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.faults.delay = 0.2
    double.faults.cut = 1
    with pytest.raises(DeployError, match="closed the connection"):
        async with provider.deploy("case", requests(1)):
            pytest.fail("it was deployed")
    await double.settled()
    assert len(double.destroyed) == 1


async def test_another_one_takes_over_when_one_crashes(double: Double, requests: Requests) -> None:
    async with Double(Faults(crash=True)).listening() as dying:
        provider = HomerunnerProvider([dying.url, double.url])
        async with provider.deploy("case", requests(1)):
            assert len(double.live) == 1
        assert len(dying.created) == 1
        assert provider.capacities == {"homerunner homeservers": capacity_of_this_machine()}
        async with provider.deploy("case", requests(1)):
            assert len(double.live) == 1
        await provider.close()


async def test_the_one_with_the_fewest_deployments_is_used(double: Double, requests: Requests) -> None:
    async with Double().listening() as other:
        provider = HomerunnerProvider([double.url, other.url])
        async with provider.deploy("first", requests(1)):
            async with provider.deploy("second", requests(1)):
                assert (len(double.live), len(other.live)) == (1, 1)
            async with provider.deploy("third", requests(1)):
                assert (len(double.live), len(other.live)) == (1, 1)
        await provider.close()


async def test_when_none_is_there_each_is_named(requests: Requests) -> None:
    async with Double().listening() as double:
        url = double.url
    provider = HomerunnerProvider([url])
    with pytest.raises(DeployError, match=rf"HOMERUNNER_URL: {url} is not reachable"):
        await provider.prepare([])
    with pytest.raises(DeployError, match=f"{url} is not reachable"):
        async with provider.deploy("case", requests(1)):
            pytest.fail("it was deployed")
    await provider.close()


async def test_prepares_when_one_of_several_is_there(
    double: Double, caplog: pytest.LogCaptureFixture
) -> None:
    provider = HomerunnerProvider([double.url, "http://127.0.0.1:1"])
    with caplog.at_level(logging.WARNING):
        await provider.prepare([])
    assert "http://127.0.0.1:1 is not reachable" in caplog.text
    assert (await provider.health())[double.url] is None
    await provider.close()


@pytest.mark.parametrize("digits", [0, 1, 6, 9])
async def test_its_servers_say_when_their_time_is_over(
    double: Double, requests: Requests, digits: int
) -> None:
    class Turned:
        ahead = 0.0

        def monotonic(self) -> float:
            return asyncio.get_running_loop().time() + self.ahead

    clock = Turned()
    double.faults.digits = digits
    provider = HomerunnerProvider([double.url], clock=clock)  # type: ignore[arg-type]
    async with provider.deploy("case", requests(1)) as [server]:
        assert getattr(server, "exited") is None  # noqa: B009 - not part of the protocol
        clock.ahead = 29 * 60
        assert getattr(server, "exited") is None  # noqa: B009
        clock.ahead = 31 * 60
        assert "HOMERUNNER_LIFETIME_MINS" in getattr(server, "exited")  # noqa: B009
    await provider.close()


async def test_a_lifetime_that_no_case_could_use_is_refused(
    double: Double, provider: HomerunnerProvider, requests: Requests
) -> None:
    double.faults.lifetime = 0.5
    with pytest.raises(DeployError, match="raise HOMERUNNER_LIFETIME_MINS"):
        async with provider.deploy("case", requests(1)):
            pytest.fail("it was deployed")
    assert not double.live


async def test_a_deployment_that_expired_is_not_an_error(
    double: Double, provider: HomerunnerProvider, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    async with provider.deploy("case", requests(1)):
        [name] = double.live
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{double.url}/destroy", json={"blueprint_name": name}) as answer,
        ):
            assert answer.status == 200
    assert caplog.text == ""


async def test_it_cannot_operate(provider: HomerunnerProvider, requests: Requests) -> None:
    async with provider.deploy("case", requests(1)) as [server]:
        with pytest.raises(UnsupportedError, match="homerunner cannot restart"):
            await server.operate("restart")


async def test_the_log_names_the_container(provider: HomerunnerProvider, requests: Requests) -> None:
    [request] = requests(1)
    async with provider.deploy("case", [request]):
        pass
    assert "is container 0123456789abcdef of trafficlight_" in request.log.read_text()


def test_a_type_without_image_is_unsupported() -> None:
    provider = HomerunnerProvider(["http://127.0.0.1:1"])
    assert provider.unsupported(Dendrite().homeservers()[0]) is None
    reason = provider.unsupported(HomeServerSpec("Odd", "odd", "stable", ""))
    assert reason == "Odd (odd): no image is named for it, see IMAGES"


@pytest.mark.parametrize("urls", [[], ["localhost:54321"], ["http://"]])
def test_a_wrong_url_is_named(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match="HOMERUNNER_URL"):
        HomerunnerProvider(urls)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/health", None, 200, ""),
        ("GET", "/create", None, 405, "405"),
        ("POST", "/nowhere", b"{}", 404, "404"),
        ("POST", "/create", b"{", 400, "request body not JSON"),
        ("POST", "/create", b"{}", 400, "missing base image uri"),
        ("POST", "/create", b'{"base_image_uri": "x"}', 400, "must be specified"),
        ("POST", "/destroy", b"{}", 400, "missing blueprint name"),
        ("POST", "/destroy", b'{"blueprint_name": "x"}', 500, "no deployment with name 'x' exists"),
    ],
)
async def test_the_double_answers_as_the_real_one(
    double: Double, method: str, path: str, body: bytes | None, status: int, text: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, double.url + path, data=body) as answer,
    ):
        assert answer.status == status
        assert text in await answer.text()
