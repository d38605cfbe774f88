import itertools

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable


class _Chat(Test):
    clients = {"alice": [Nio]}
    servers = {"server": [SynapseStable]}

    async def setup(self, alice: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await alice.create_room("A room that does not last")


class HomeserverKilledByTheTest(_Chat):
    """Fails on purpose: it kills its homeserver and goes on as if nothing had happened."""

    async def run(self, alice: MatrixClient, server: HomeServer) -> None:
        await server.kill()
        await alice.send_message("Is anybody there?")


class HomeserverKilledFromOutside(_Chat):
    """Runs until its homeserver is killed."""

    async def run(self, alice: MatrixClient, server: HomeServer) -> None:
        for number in itertools.count():
            await alice.send_message(f"message {number}")


class HomeserverKilledUnderAnOwnClient(Test):
    """Ends in an error on purpose: it asks a homeserver that it has killed."""

    servers = {"server": [SynapseStable]}

    async def run(self, server: HomeServer) -> None:
        await server.register("alice", "a password")
        await server.kill()
        await server.register("bob", "a password")
