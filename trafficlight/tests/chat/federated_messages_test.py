from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import AnyMatrixClient
from trafficlight.server_types import AnyHomeServer, TwoSynapseFederation


class FederatedMessages(Test):
    """Two users on two federated homeservers exchange encrypted messages, both ways."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {("here", "there"): [TwoSynapseFederation]}

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await alice.register(here)
        await bob.register(there)
        assert here.server_name != there.server_name

        await alice.create_room("A room across servers")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()

        await alice.send_message("Hello over there")
        await bob.verify_message_in_timeline("Hello over there")
        await bob.send_message("Hello back")
        await alice.verify_message_in_timeline("Hello back")


class ThreeUsersTwoServers(Test):
    """In a room of three users on two homeservers, everyone can read every message."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient, "carol": AnyMatrixClient}
    servers = {"here": AnyHomeServer, "there": AnyHomeServer}
    interchangeable = ("bob", "carol")

    async def run(
        self, alice: MatrixClient, bob: MatrixClient, carol: MatrixClient, here: HomeServer, there: HomeServer
    ) -> None:
        await alice.register(here)
        await bob.register(there)
        await carol.register(here)

        await alice.create_room("A room for three")
        for guest in (bob, carol):
            await alice.invite_user(guest.user_id)
            await guest.accept_invite()

        for writer, readers in ((alice, (bob, carol)), (bob, (alice, carol)), (carol, (alice, bob))):
            text = f"{writer.name} says hello"
            await writer.send_message(text)
            for reader in readers:
                await reader.verify_message_in_timeline(text)
