from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import AnyMatrixClient
from trafficlight.server_types import AnyHomeServer


class SendMessages(Test):
    """Two users exchange encrypted messages, both ways."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)

        await alice.create_room("A room for two")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()

        await alice.send_message("Hello Bob")
        await bob.verify_message_in_timeline("Hello Bob")
        await bob.send_message("Hello Alice")
        await alice.verify_message_in_timeline("Hello Alice")


class ManyMessages(Test):
    """A burst of messages arrives complete and in order."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)
        await alice.create_room("A busy room")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()

        sent = [f"message {number}" for number in range(1, 11)]
        for text in sent:
            await alice.send_message(text)
        await bob.verify_message_in_timeline(sent[-1])

        seen = [event["message"] for event in await bob.get_timeline() if event["message"] in sent]
        assert seen == sent, f"bob sees {seen}, alice sent {sent}"
