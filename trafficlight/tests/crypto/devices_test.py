import asyncio
from typing import Any

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.adapters.nio.identity import Identity
from trafficlight.client_types import AnyMatrixClient
from trafficlight.errors import ActionError
from trafficlight.network.control import Exchange
from trafficlight.server_types import AnyHomeServer
from trafficlight.tests.crypto.meeting import TwoUsers, request


class OwnDevices(Test):
    """What the tests of a user with two devices start from."""

    clients = {"alice": AnyMatrixClient, "later": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def verify(self, alice: MatrixClient, later: MatrixClient, server: HomeServer) -> None:
        """Log in on a second device, and verify it by emoji, which the first one shows afterwards."""
        await alice.register(server)
        later.localpart, later.password = alice.localpart, alice.password
        await later.login(server)

        # The new one asks: the old one learns of it only in time.
        await later.start_crosssign()
        await alice.accept_crosssign()
        assert await alice.get_emoji() == await later.get_emoji()
        await asyncio.gather(alice.verify_crosssign(), later.verify_crosssign())

        async def verified() -> bool:
            devices = await alice.get_devices()
            return len(devices) == 2 and all(device.get("verified") for device in devices)

        await self.eventually(verified, message="alice's client did not show both of her devices as verified")


class OwnDeviceByEmoji(OwnDevices):
    """Two devices of one user compare emoji; the older one shows the newer one as verified afterwards."""

    async def run(self, alice: MatrixClient, later: MatrixClient, server: HomeServer) -> None:
        await self.verify(alice, later, server)


class StartBeforeReady(OwnDevices):
    """A verification ends well although its start arrives before what the same device sent first."""

    async def run(self, alice: MatrixClient, later: MatrixClient, server: HomeServer) -> None:
        later.network.use()
        late: list[Any] = []
        overtaken: list[Any] = []

        def swap(exchange: Exchange) -> None:
            events = (sync := exchange.json).get("to_device", {}).get("events", [])
            late.extend(one for one in events if one["type"] == "m.key.verification.ready")
            if late:
                events[:] = [one for one in events if one["type"] != "m.key.verification.ready"]
                if any(one["type"] == "m.key.verification.start" for one in events):
                    events += late
                    overtaken.extend(late)
                    late.clear()
                exchange.json = sync

        async with later.network.intercept("GET", "/sync", on_response=swap):
            await self.verify(alice, later, server)
        assert overtaken, "alice's device did not send that it is ready"


class VerifiedUsers(TwoUsers):
    """What the tests of verified users start from."""

    async def verify(
        self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer
    ) -> None:
        """Bring both together in a direct chat, and have them verify each other."""
        await asyncio.gather(alice.register(here), bob.register(there))
        await alice.create_dm(bob.user_id)
        self.room = (await alice.get_room())["room_id"]
        await bob.accept_invite(self.room)
        await self.sees(alice, bob.user_id)
        await alice.start_crosssign(bob.user_id)
        await bob.accept_crosssign()
        assert await alice.get_emoji() == await bob.get_emoji()


class NewDeviceOfVerifiedUser(VerifiedUsers):
    """Messages of a verified user's device have no warning; those of a new, unsigned device have one."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.verify(alice, bob, here, there)
        await asyncio.gather(alice.verify_crosssign(), bob.verify_crosssign())
        signed = await self.say(bob, "From the device that you verified", alice)
        phone = await self.phone(bob, there)

        text = {"msgtype": "m.text", "body": "From somewhere else"}
        unsigned = await phone.send(self.room, text)

        await alice.verify_message_in_timeline("From somewhere else")
        assert (await self.entry(alice, signed)).get("shield") == "none"
        assert (await self.entry(alice, unsigned)).get("shield") != "none"


class IdentityReplacedMeanwhile(VerifiedUsers):
    """An identity that someone with the password puts in the place of bob's meanwhile is not verified."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.verify(alice, bob, here, there)

        attacker = await there.nio_client(bob)
        user = {"type": "m.id.user", "user": bob.user_id}
        auth = {"type": "m.login.password", "identifier": user, "password": bob.password}
        keys = {**Identity(bob.user_id).public_keys(), "auth": auth}
        await request(attacker, "POST", "/keys/device_signing/upload", keys)

        # One of them may notice, and end it.
        ends = await asyncio.gather(alice.verify_crosssign(), bob.verify_crosssign(), return_exceptions=True)
        for error in ends:
            if isinstance(error, BaseException) and not isinstance(error, ActionError):
                raise error
        trust = await alice.get_trust(bob.user_id)
        assert trust != "verified", "alice trusts an identity that bob's device does not know"


class UnsignedDeviceExcluded(TwoUsers):
    """A client that excludes insecure devices (MSC4153) gives no keys to an unsigned device."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        phone = await self.phone(bob, there)
        await self.until_phone_reads(alice, phone)

        await alice.exclude_insecure_devices()

        after = await self.say(alice, "Not to the phone", bob)
        assert not await self.phone_reads(phone, after), "the unsigned device got the key"
