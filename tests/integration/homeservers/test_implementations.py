"""Other implementations and other versions, alone and federated with Synapse as it is now."""

from collections.abc import Awaitable, Callable

import nio  # type: ignore[import-untyped,unused-ignore]
import pytest
import pytest_asyncio

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.server_types import Dendrite, ServerType, Synapse, SynapsePostgres, SynapseWorkers

# The first use installs a Synapse and builds Dendrite.
pytestmark = [pytest.mark.network, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

Ask = Callable[..., ServerRequest]
SignUp = Callable[[RunningServer, str], Awaitable[nio.AsyncClient]]
Talk = Callable[[nio.AsyncClient, nio.AsyncClient], Awaitable[str]]


@pytest_asyncio.fixture(
    params=[Synapse("1.98.0"), SynapsePostgres(), SynapseWorkers(), Dendrite()],
    ids=repr,
    loop_scope="session",
)
async def other(request: pytest.FixtureRequest, local: LocalProvider) -> ServerType:
    """Everything but the stable Synapse; skipped if it cannot be installed here."""
    server_type: ServerType = request.param
    spec = server_type.homeservers()[0]
    if (reason := local.unsupported(spec)) is not None:
        pytest.skip(reason)
    try:
        await local.prepare([spec])
    except DeployError as error:
        pytest.skip(error.message)
    return server_type


async def test_federates_with_its_own_kind(
    local: LocalProvider, other: ServerType, ask: Ask, sign_up: SignUp, talk: Talk
) -> None:
    async with local.deploy("own kind", [ask("red", other), ask("blue", other)]) as [red, blue]:
        await talk(await sign_up(red, "alice"), await sign_up(blue, "bob"))


async def test_federates_with_the_stable_synapse_when_it_makes_the_room(
    local: LocalProvider, other: ServerType, ask: Ask, sign_up: SignUp, talk: Talk
) -> None:
    async with local.deploy("mixed", [ask("other", other), ask("synapse")]) as [theirs, synapse]:
        await talk(await sign_up(theirs, "alice"), await sign_up(synapse, "bob"))


async def test_joins_a_room_of_the_stable_synapse_in_a_version_that_both_know(
    local: LocalProvider, other: ServerType, ask: Ask, sign_up: SignUp
) -> None:
    async with local.deploy("mixed", [ask("other", other), ask("synapse")]) as [theirs, synapse]:
        alice, bob = await sign_up(synapse, "alice"), await sign_up(theirs, "bob")
        created = await alice.room_create(room_version="10", invite=[bob.user_id])
        assert isinstance(created, nio.RoomCreateResponse), created
        while created.room_id not in bob.invited_rooms:
            await bob.sync(timeout=5000)
        joined = await bob.join(created.room_id)
        assert isinstance(joined, nio.JoinResponse), joined


async def test_survives_a_restart_under_its_own_identity(
    local: LocalProvider, other: ServerType, ask: Ask, sign_up: SignUp, talk: Talk
) -> None:
    async with local.deploy("restart", [ask("other", other), ask("synapse")]) as [theirs, synapse]:
        alice, bob = await sign_up(theirs, "alice"), await sign_up(synapse, "bob")
        await talk(alice, bob)
        await theirs.operate("restart")
        await talk(alice, bob)


async def test_its_log_is_kept(local: LocalProvider, other: ServerType, ask: Ask, sign_up: SignUp) -> None:
    request = ask("server", other)
    async with local.deploy("log", [request]) as [server]:
        await sign_up(server, "alice")
        assert server.version.split()[0] in ("Dendrite", "Synapse")
    assert "/_matrix/client/v3/register" in request.log.read_text()
