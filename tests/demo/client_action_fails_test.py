from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable


class ClientActionFails(Test):
    """Fails on purpose: the client cannot do what it is asked to, as there is no such account."""

    clients = {"alice": [Nio]}
    servers = {"server": [SynapseStable]}

    async def run(self, alice: MatrixClient, server: HomeServer) -> None:
        await alice.login(server)
