"""What a homeserver offers to a test in addition to the clients under test."""

from collections.abc import Awaitable, Callable

import nio  # type: ignore[import-untyped,unused-ignore]

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import Dendrite, Synapse, SynapseStable

HOMESERVERS = [SynapseStable(), Synapse("1.98.0"), Dendrite()]


class Registers(Test):
    """The smallest case that there is: one user is registered."""

    servers = {"server": HOMESERVERS}

    async def run(self, server: HomeServer) -> None:
        assert await server.register("alice", "a password") == f"@alice:{server.server_name}"


class OwnClient(Test):
    """A user of the test's own meets a client under test, and may be there on several devices."""

    clients = {"alice": [Nio]}
    servers = {"server": HOMESERVERS}

    async def run(self, alice: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        carol = await server.nio_client("carol")
        created = await carol.room_create(name="Carol's room", invite=[alice.user_id])
        assert isinstance(created, nio.RoomCreateResponse), created
        await alice.accept_invite()
        await alice.send_message("Hello Carol")
        await self.eventually(_reads(carol, "Hello Carol"))

        again = await server.nio_client("carol")
        assert again.user_id == carol.user_id
        assert again.device_id != carol.device_id
        alices = await server.nio_client(alice)
        assert alices.user_id == alice.user_id
        await self.eventually(_reads(alices, "Hello Carol"))


class OwnEncryptedClient(Test):
    """A user of the test's own that has a store can read what is encrypted."""

    clients = {"alice": [Nio]}
    servers = {"server": HOMESERVERS}

    async def run(self, alice: MatrixClient, server: HomeServer) -> None:
        store = self.case.folder / "carol"
        store.mkdir()
        carol = await server.nio_client("carol", store=store)
        await carol.sync()
        await carol.keys_upload()

        await alice.register(server)
        await alice.create_room("A secret room")
        await alice.invite_user(carol.user_id)
        await carol.sync()
        joined = await carol.join(next(iter(carol.invited_rooms)))
        assert isinstance(joined, nio.JoinResponse), joined
        await alice.send_message("Only for you")
        await self.eventually(_reads(carol, "Only for you"))


class ReadsLog(Test):
    """A test can read what its homeserver has logged, while it runs."""

    servers = {"server": HOMESERVERS}

    async def run(self, server: HomeServer) -> None:
        await server.register("alice", "a password")

        async def logged() -> bool:
            return "/_matrix/client/v3/register" in await server.read_log()

        await self.eventually(logged)
        assert server.log is not None
        assert server.version.split()[0] in ("Synapse", "Dendrite")


def _reads(client: nio.AsyncClient, text: str) -> Callable[[], Awaitable[bool]]:
    """Return a condition that holds once a sync has brought a text."""
    seen: list[str] = []

    async def reads() -> bool:
        synced = await client.sync(timeout=2000)
        assert isinstance(synced, nio.SyncResponse), synced
        for room in synced.rooms.join.values():
            seen.extend(getattr(event, "body", type(event).__name__) for event in room.timeline.events)
        assert text in seen, f"{client.user_id} sees {seen}"
        return True

    return reads
