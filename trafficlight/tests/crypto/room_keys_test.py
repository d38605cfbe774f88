from urllib.parse import quote

from trafficlight import HomeServer, MatrixClient
from trafficlight.tests.crypto.meeting import MEGOLM, ROOM, TwoUsers, request

EIGHT_DAYS = 8 * 24 * 3600 * 1000


class DeviceLoggedIn(TwoUsers):
    """The room key stays the same when a member logs a further device in, which gets it."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        before = await self.say(alice, "To one device", bob)

        phone = await self.phone(bob, there)

        after = await self.until_phone_reads(alice, phone)
        assert await self.key(after) == await self.key(before), "the room key was rotated"


class DeviceLoggedOut(TwoUsers):
    """The room key changes when a device of a member logs out."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        phone = await self.phone(bob, there)
        before = await self.until_phone_reads(alice, phone)

        await phone.client.logout()

        await self.until_rotated(alice, await self.key(before))


class RotatedByCount(TwoUsers):
    """The room key changes after as many messages as the room says."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there, rotation_period_msgs=3)

        sent = [await self.say(alice, reader=bob) for _ in range(7)]

        keys = [await self.key(event_id) for event_id in sent]
        assert max(map(keys.count, keys)) <= 3, f"the keys of seven messages were {keys}"
        assert keys[0] == keys[1], "a key was used only once"


class RotatedByTime(TwoUsers):
    """The room key changes when it is older than the default of a week."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        before = await self.say(alice, "Last week", bob)

        await alice.advance_clock(EIGHT_DAYS)

        after = await self.say(alice, "This week", bob)
        assert await self.key(after) != await self.key(before), "the room key was not rotated"


class Restarted(TwoUsers):
    """The room key stays the same when the client restarts."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        before = await self.say(alice, "Before the restart", bob)

        await alice.reload()
        await alice.open_room(ROOM)

        after = await self.say(alice, "After the restart", bob)
        assert await self.key(after) == await self.key(before), "the room key was rotated"


class DisplayNameChanged(TwoUsers):
    """The room key stays the same when a member changes their display name."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        before = await self.say(alice, "Hello bob", bob)

        await bob.set_display_name("Robert")

        async def renamed() -> bool:
            return (await alice.get_room())["members"][bob.user_id].get("display_name") == "Robert"

        await self.eventually(renamed, message="alice did not see bob's new name")
        after = await self.say(alice, "Hello Robert", bob)
        assert await self.key(after) == await self.key(before), "the room key was rotated"


class BlockedDevice(TwoUsers):
    """A device that the sender blocks gets no further key; the user's other device does."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        phone = await self.phone(bob, there)
        before = await self.until_phone_reads(alice, phone)

        await alice.block_device(bob.user_id, phone.client.device_id)

        after = await self.say(alice, "Not to the phone", bob)
        assert await self.key(after) != await self.key(before), "the room key was not rotated"
        assert not await self.phone_reads(phone, after), "the blocked device got the key"


class HistoryRestricted(TwoUsers):
    """The room key changes when the history becomes visible to fewer users."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        before = await self.say(alice, "For those who come later", bob)

        await alice.change_room_history_visibility("joined")

        after = await self.say(alice, "For those who are here", bob)
        assert await self.key(after) != await self.key(before), "the room key was not rotated"


class SettingsChanged(TwoUsers):
    """The room key changes when the room's encryption settings do."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        before = await self.say(alice, "As it was", bob)

        await self.state("m.room.encryption", {"algorithm": MEGOLM, "rotation_period_msgs": 50})

        # Less than 50, so that the new setting alone does not do it.
        await self.until_rotated(alice, await self.key(before))


class ForgedSender(TwoUsers):
    """What another member sends again as their own is not shown as a message that they wrote."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        mallory = await here.nio_client()
        await alice.invite_user(mallory.user_id)
        await request(mallory, "POST", f"/join/{self.room}", {})
        written = await self.say(alice, "I owe mallory a beer", bob)

        where = f"/rooms/{quote(self.room)}/send/m.room.encrypted/1"
        forged = (await request(mallory, "PUT", where, await self.raw(written)))["event_id"]

        await self.say(alice, "Or do I?", bob)
        shown = await self.entry(bob, forged)
        assert shown["user"] == mallory.user_id
        warned = shown.get("undecryptable") or shown.get("shield") != "none"
        assert warned, f"bob sees it as written by mallory, without a warning: {shown}"
