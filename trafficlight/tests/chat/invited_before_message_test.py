from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import AnyMatrixClient
from trafficlight.server_types import AnyHomeServer
from trafficlight.tests.members import MembersTest


class InvitedBeforeMessage(Test):
    """A user invited before a message was sent can read it after joining."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)

        await alice.create_room("A room with a past")
        await alice.change_room_history_visibility("invited")
        await alice.invite_user(bob.user_id)
        await alice.send_message("Sent before Bob joined")

        await bob.accept_invite()
        await bob.verify_message_in_timeline("Sent before Bob joined")


class JoinedAfterMessage(MembersTest):
    """A user who joins a room whose history begins at the join cannot see messages from before the invite."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)

        await alice.create_room("A room with a secret")
        await alice.change_room_history_visibility("joined")
        await alice.send_message("Sent before Bob was invited")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()
        await self.sees(alice, bob.user_id)
        await alice.send_message("Sent after Bob joined")

        await bob.verify_message_in_timeline("Sent after Bob joined")
        seen = [event["message"] for event in await bob.get_timeline()]
        assert "Sent before Bob was invited" not in seen, f"bob sees what was written before him: {seen}"
