import asyncio

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable


class NeverEnds(Test):
    """Waits for ever on purpose, with clients and a homeserver that are there to be given back."""

    clients = {"alice": [Nio], "bob": [Nio]}
    servers = {"server": [SynapseStable]}

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        self.logger.info("waiting for ever")
        await asyncio.Event().wait()
