"""Requests that fail or are late: a message gets through all the same."""

import asyncio

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import AnyMatrixClient
from trafficlight.errors import ActionError
from trafficlight.server_types import SynapseStable


class _OnABrokenLine(Test):
    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": SynapseStable}

    async def setup(self, alice: MatrixClient, bob: MatrixClient) -> None:
        """Put the network's proxy before both clients."""
        alice.network.use()
        bob.network.use()

    async def meet(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        """Register both, in one encrypted room."""
        await alice.register(server)
        await bob.register(server)
        await alice.create_room("A bad line")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()
        await bob.open_room("A bad line")

    async def send(self, client: MatrixClient, text: str) -> None:
        """Write, and once more if the client says that it could not, as its user does."""
        try:
            await client.send_message(text)
        except ActionError:
            await client.send_message(text)

    async def talk(self, alice: MatrixClient, bob: MatrixClient) -> None:
        """Write in both directions."""
        await self.send(alice, "Can you read this?")
        await bob.verify_message_in_timeline("Can you read this?")
        await bob.send_message("Every word.")
        await alice.verify_message_in_timeline("Every word.")


class RoomKeyNotSent(_OnABrokenLine):
    """A room key that cannot be sent at first is sent again."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        async with alice.network.block("PUT", "/sendToDevice/m.room.encrypted", times=1) as refused:
            await self.send(alice, "Can you read this?")
            await bob.verify_message_in_timeline("Can you read this?")
            assert refused.exchanges, "no room key was sent"


class OneTimeKeysNotClaimed(_OnABrokenLine):
    """A claim of one-time keys that fails is made again."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        async with alice.network.block("POST", "/keys/claim", times=1) as refused:
            await self.send(alice, "Can you read this?")
            await bob.verify_message_in_timeline("Can you read this?")
            assert refused.exchanges, "no one-time key was claimed"


class DeviceKeysNotFound(_OnABrokenLine):
    """A query of device keys that fails is made again."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)
        async with alice.network.block(
            "POST", "/keys/query", body={"device_keys": {bob.user_id: []}}, times=1
        ):
            await alice.create_room("A bad line")
            await alice.invite_user(bob.user_id)
            await bob.accept_invite()
            await bob.open_room("A bad line")
            await self.talk(alice, bob)


class KeysNotUploaded(_OnABrokenLine):
    """An upload of keys that fails is made again."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        async with bob.network.block("POST", "/keys/upload", times=1) as refused:
            await self.meet(alice, bob, server)
            await self.talk(alice, bob)
            assert refused.exchanges, "no keys were uploaded"


class LateAnswerToAJoin(_OnABrokenLine):
    """What is written after a join is decrypted, though its answer comes late."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)
        await alice.create_room("A bad line")
        await alice.invite_user(bob.user_id)
        async with bob.network.hold("POST", "/join", on="response") as joins:
            accepting = asyncio.create_task(bob.accept_invite())
            await joins.next()
            await alice.send_message("Can you read this?")
        await accepting
        await bob.open_room("A bad line")
        await bob.verify_message_in_timeline("Can you read this?")


class Offline(_OnABrokenLine):
    """What was written while a client had no network is there once it has."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await self.talk(alice, bob)
        async with bob.network.offline():
            await alice.send_message("Are you there?")
        await bob.verify_message_in_timeline("Are you there?")


class KilledBeforeASync(_OnABrokenLine):
    """A room key that was on its way to a client that is killed is there after its restart."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        async with bob.network.hold("GET", "/sync", on="response") as syncs:
            await alice.send_message("Can you read this?")
            held = await syncs.next()
            await bob.kill()
            held.drop()
        await bob.restart()
        await bob.open_room("A bad line")
        await bob.verify_message_in_timeline("Can you read this?")


class SenderNotFound(_OnABrokenLine):
    """A room key is not lost when the query of its sender's keys fails at that moment."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await self.talk(alice, bob)
        async with bob.network.block("POST", "/keys/query") as refused:
            await alice.logout()
            await alice.login(server)
            await alice.open_room("A bad line")
            await alice.send_message("From a new device")
            await refused.wait()
        await bob.verify_message_in_timeline("From a new device")
