"""What a guest from another homeserver sees of a room: the built-in chat suites, with bob elsewhere."""

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import Dendrite, Synapse, SynapseStable

HOMESERVERS = [SynapseStable(), Synapse("1.98.0"), Dendrite()]


class _Guest(Test):
    clients = {"alice": [Nio], "bob": [Nio]}
    servers = {"here": HOMESERVERS, "there": HOMESERVERS}

    async def setup(
        self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer
    ) -> None:
        await alice.register(here)
        await bob.register(there)
        await alice.create_room("A room with a guest")


class ManyMessages(_Guest):
    """A burst of messages arrives at another homeserver complete and in order."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()

        sent = [f"message {number}" for number in range(1, 11)]
        for text in sent:
            await alice.send_message(text)
        await bob.verify_message_in_timeline(sent[-1])

        seen = [event["message"] for event in await bob.get_timeline() if event["message"] in sent]
        assert seen == sent, f"bob sees {seen}, alice sent {sent}"


class InvitedBeforeMessage(_Guest):
    """A user invited from another homeserver before a message was sent can read it after joining."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await alice.change_room_history_visibility("invited")
        await alice.invite_user(bob.user_id)
        await alice.send_message("Sent before Bob joined")

        await bob.accept_invite()
        await bob.verify_message_in_timeline("Sent before Bob joined")


class JoinedAfterMessage(_Guest):
    """A user who joins from another homeserver cannot see older messages, if history begins at the join."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await alice.change_room_history_visibility("joined")
        await alice.send_message("Sent before Bob was invited")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()
        await alice.send_message("Sent after Bob joined")

        await bob.verify_message_in_timeline("Sent after Bob joined")
        seen = [event["message"] for event in await bob.get_timeline()]
        assert "Sent before Bob was invited" not in seen, f"bob sees what was written before him: {seen}"
