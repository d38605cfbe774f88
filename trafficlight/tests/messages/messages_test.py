import base64

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import AnyMatrixClient
from trafficlight.clients import TimelineEvent
from trafficlight.server_types import AnyHomeServer
from trafficlight.tests.members import MembersTest


class TwoInARoom(MembersTest):
    """The room that the other tests start from."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def meet(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        """Register both, and bring them together in an encrypted room."""
        await alice.register(server)
        await bob.register(server)
        await alice.create_room("The kitchen")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()

    async def shown(self, client: MatrixClient, event: TimelineEvent) -> TimelineEvent:
        """Return what a client shows of an event now."""
        timeline = await client.get_timeline()
        return next(entry for entry in timeline if entry["event_id"] == event["event_id"])


class SignedSender(TwoInARoom):
    """Identities have signed their devices, so that messages have no warning, though no user is verified."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        assert await bob.get_trust(alice.user_id) == "unverified"
        assert [device.get("verified") for device in await alice.get_devices()] == [True]

        await alice.send_message("It is me")

        await bob.verify_message_in_timeline("It is me")
        await bob.verify_last_message_is_trusted()
        assert (await bob.find_message("It is me")).get("shield") == "none"


class EditedMessage(TwoInARoom):
    """An edit replaces the text, for both; it is no message of its own."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.send_message("I like cofee")
        await bob.verify_message_in_timeline("I like cofee")
        sent = await alice.find_message("I like cofee")

        await alice.edit_message(sent["event_id"], "I like coffee")

        edited = await bob.find_message("I like coffee")
        assert edited["event_id"] == sent["event_id"]
        assert edited["edited"]
        texts = [entry["message"] for entry in await bob.get_timeline()]
        assert [text for text in texts if "like" in text] == ["I like coffee"]


class RedactedMessage(TwoInARoom):
    """A redacted message shows nothing of its text, for both."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.send_message("my password is 1234")
        await bob.verify_message_in_timeline("my password is 1234")
        sent = await alice.find_message("my password is 1234")

        await alice.redact_event(sent["event_id"], "not for you")

        for client in (alice, bob):

            async def redacted(client: MatrixClient = client) -> bool:
                return (await self.shown(client, sent))["redacted"]

            await self.eventually(redacted, message=f"{client.name} did not show the message as redacted")
            assert (await self.shown(client, sent))["message"] == ""


class Reactions(TwoInARoom):
    """Reactions are shown under the message, and disappear when they are redacted with it."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.send_message("Dinner at eight?")
        invitation = await bob.find_message("Dinner at eight?")

        # Emoji to which no client adds a variation selector.
        await bob.send_reaction(invitation["event_id"], "🥳")
        await alice.send_reaction(invitation["event_id"], "🍝")

        for client in (alice, bob):

            async def reactions(client: MatrixClient = client) -> bool:
                found = (await self.shown(client, invitation))["reactions"]
                return found == {"🥳": [bob.user_id], "🍝": [alice.user_id]}

            await self.eventually(reactions, message=f"{client.name} did not show both reactions")


class Reply(TwoInARoom):
    """A reply names the message that it is about."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.send_message("Tea or coffee?")
        question = await bob.find_message("Tea or coffee?")

        await bob.send_reply(question["event_id"], "Tea, please")

        answer = await alice.find_message("Tea, please")
        assert answer.get("reply_to") == question["event_id"]


class Thread(TwoInARoom):
    """A message of a thread names the thread's first message."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.send_message("The plan for Sunday")
        plan = await bob.find_message("The plan for Sunday")

        await bob.send_in_thread(plan["event_id"], "I bring the cake")

        cake = await alice.find_message("I bring the cake")
        assert cake.get("thread") == plan["event_id"]


class ReadReceipt(TwoInARoom):
    """The sender sees who has read the message."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.send_message("Have you seen this?")
        message = await bob.find_message("Have you seen this?")

        await bob.send_read_receipt(message["event_id"])

        async def read() -> bool:
            return bob.user_id in (await self.shown(alice, message))["read_by"]

        await self.eventually(read, message="alice did not see bob's read receipt")


class Typing(TwoInARoom):
    """The other side sees who is typing, and that they have stopped."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)

        async def typing() -> list[str]:
            return await alice.get_typing()

        async def stopped() -> bool:
            return await alice.get_typing() == []

        await bob.set_typing(True)
        assert await self.eventually(typing, message="alice did not see bob typing") == [bob.user_id]
        await bob.set_typing(False)
        await self.eventually(stopped, message="alice did not see that bob stopped typing")


class EncryptedFile(TwoInARoom):
    """A file arrives as it was sent, through the encryption."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        content = base64.b64encode(bytes(range(256)) * 40).decode()

        await alice.send_file("every-byte.bin", "application/octet-stream", content)

        message = await bob.find_message("every-byte.bin")
        assert message["kind"] == "file"
        received = await bob.get_file(message["event_id"])
        assert received == {
            "name": "every-byte.bin",
            "content_type": "application/octet-stream",
            "content": content,
        }


class UnencryptedRoom(Test):
    """A room without encryption is shown as one, and works."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)
        await alice.create_room("The market", encrypted=False)
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()
        assert not (await bob.get_room())["encrypted"]

        await alice.send_message("Apples!")
        assert not (await bob.find_message("Apples!"))["encrypted"]


class RemovedMember(TwoInARoom):
    """Who was removed from a room does not read what is written until they are back."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        # Otherwise the history is for those who are invited later too, and some clients share its keys.
        await alice.change_room_history_visibility("joined")
        await alice.send_message("Everybody knows this")
        await bob.verify_message_in_timeline("Everybody knows this")

        await alice.kick_user(bob.user_id, "private matters")
        await alice.send_message("Now between us")
        room = (await alice.get_room())["room_id"]
        assert (await alice.get_room())["members"][bob.user_id]["membership"] == "leave"

        # Invited again, bob reads on from there.
        await alice.invite_user(bob.user_id)
        await bob.accept_invite(room)
        await self.sees(alice, bob.user_id)
        await alice.send_message("Welcome back")
        await bob.verify_message_in_timeline("Welcome back")
        private = [entry for entry in await bob.get_timeline() if entry["message"] == "Now between us"]
        assert private == []
