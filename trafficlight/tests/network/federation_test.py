"""The network between homeservers that breaks: what was written is read once it is back."""

from trafficlight import HomeServer, MatrixClient
from trafficlight.server_types import AnyHomeServer
from trafficlight.tests.crypto.meeting import EncryptedRoom


class _TwoHomeservers(EncryptedRoom):
    servers = {"here": AnyHomeServer, "there": AnyHomeServer}
    breaks_federation = True


class OtherServerAway(_TwoHomeservers):
    """What is written while the other homeserver is away is read once it is back."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        await self.say(alice, "Can you read this?", bob)
        async with there.federation.offline():
            await alice.send_message("Are you there?")
            await bob.send_message("Is anyone there?")
        await bob.verify_message_in_timeline("Are you there?")
        await alice.verify_message_in_timeline("Is anyone there?")


class OwnServerAway(_TwoHomeservers):
    """What is written while the reader's own homeserver is away is read once it is back."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        await self.say(alice, "Only here", bob)
        await there.stop()
        await alice.send_message("Are you there?")
        await there.start()
        # Synapse sends what is left once it hears of the other homeserver.
        await self.say(bob, "I am back", alice)
        await bob.verify_message_in_timeline("Are you there?")


class NewUserOfServerAway(_TwoHomeservers):
    """A user whose keys could not be had reads what is written once they can be."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        async with here.federation.to(there).block("/user/*"):
            await self.meet(alice, bob, here, there)
            await self.say(alice)
        # Synapse asks and sends nothing more until it hears of the other homeserver.
        await bob.send_message("Here I am")
        await self.until_read(alice, bob)


class WrittenWithoutKeys(_TwoHomeservers):
    """A user whose keys could not be had reads what was written meanwhile, once they can be."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        async with here.federation.to(there).block("/user/*"):
            await self.meet(alice, bob, here, there)
            written = await self.say(alice)
        # Synapse asks and sends nothing more until it hears of the other homeserver.
        await bob.send_message("Here I am")
        await self.until_read(alice, bob)
        assert (await self.entry(bob, written))["message"] == "Message 1"


class NewDeviceNotAnnounced(_TwoHomeservers):
    """A new device gets keys although its homeserver could not announce it at first."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        await self.say(alice, "Only here", bob)
        async with there.federation.to(here).block("PUT", "/send/*", status=503) as refused:
            phone = await self.phone(bob, there)
            await refused.wait()
        await self.until_phone_reads(alice, phone)


class LateTransactions(_TwoHomeservers):
    """A room key that homeservers hand on slowly is there before, or after, its message."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        async with here.federation.delay(there, seconds=2):
            await self.say(alice, "Can you read this?", bob)


class KilledWhileAnnouncingADevice(_TwoHomeservers):
    """A new device gets keys although its homeserver was killed while it announced it."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        await self.say(alice, "Only here", bob)
        async with there.federation.to(here).hold("PUT", "/send/*") as transactions:
            phone = await self.phone(bob, there)
            transaction = await transactions.next()
            await there.kill()
            transaction.drop()
        await there.start()
        # Synapse sends what is left when it has more to send.
        await self.say(bob, "I have a new phone", alice)
        await self.until_phone_reads(alice, phone)


class KilledWhileHandingAKeyOn(_TwoHomeservers):
    """A room key is handed on although the homeserver was killed while it did that."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there, rotation_period_msgs=1)
        await self.say(alice, "By the first key", bob)
        async with here.federation.to(there).hold("PUT", "/send/*") as transactions:
            await alice.send_message("Can you read this?")
            transaction = await transactions.next()
            await here.kill()
            transaction.drop()
        await here.start()
        await self.say(alice, "And this?", bob)
        await bob.verify_message_in_timeline("Can you read this?")
