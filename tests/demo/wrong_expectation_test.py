from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable


class WrongExpectation(Test):
    """Fails on purpose: it expects another message than the one that was sent."""

    clients = {"alice": [Nio], "bob": [Nio]}
    servers = {"server": [SynapseStable]}

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)
        await alice.create_room("A room of misunderstandings")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()

        await alice.send_message("See you at noon")
        await bob.verify_message_in_timeline("See you at noon")

        last = (await bob.get_timeline())[-1]["message"]
        assert last == "See you at midnight", f"bob reads {last!r}"
