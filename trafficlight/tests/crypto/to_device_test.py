import asyncio

from trafficlight import HomeServer, MatrixClient
from trafficlight.tests.crypto.meeting import TwoUsers
from trafficlight.tests.crypto.olm import OlmDevice

# What complement-crypto asks for: homeservers get one request, not one for each device.
DEVICES = 100


class ManyDevices(TwoUsers):
    """A room key goes to a hundred devices in few requests: a hundred devices in each."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        limit = asyncio.Semaphore(8)

        async def add() -> None:
            async with limit:
                await OlmDevice(await there.nio_client(bob)).upload()

        await asyncio.gather(*(add() for _ in range(DEVICES)))
        phone = await self.phone(bob, there)
        # The last of the devices: alice knows all of them.
        before, said = await self.requests(here), self.said
        await self.until_phone_reads(alice, phone)

        sent, rounds = await self.requests(here) - before, self.said - said
        # One for each homeserver or user would do.
        assert sent <= 2 * rounds, (
            f"alice sent keys to {DEVICES} devices in {sent} requests for {rounds} keys"
        )

    async def requests(self, here: HomeServer) -> int:
        """Return how many requests with messages to devices have come; skip where no log says it."""
        log = await here.read_log()
        if "/_matrix/client/" not in log:
            self.skip("the homeserver's log shows no requests")
        return sum(
            "Processed request" in line and "/sendToDevice/m.room.encrypted/" in line
            for line in log.splitlines()
        )


class ManyKeysAtOnce(TwoUsers):
    """Room keys that arrive all at once, and with them their messages, are processed in their order."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there, rotation_period_msgs=1)
        await bob.suspend()
        # Less than what clients ask for in one sync: a gap in the timeline would be another test.
        sent = [f"key {number}" for number in range(1, 9)]
        for text in sent:
            await alice.send_message(text)

        await bob.resume()

        for text in (sent[-1], *sent):
            await bob.verify_message_in_timeline(text)
        seen = [entry["message"] for entry in await bob.get_timeline() if entry["message"] in sent]
        assert seen == sent, f"bob sees {seen}"
