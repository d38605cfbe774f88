from trafficlight import HomeServer, MatrixClient
from trafficlight.tests.crypto.meeting import ROOM, TwoUsers, request


class BeforeTheJoin(TwoUsers):
    """Who is invited can read, after joining, what was written since the invite, and what follows."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.create(alice, here)
        await bob.register(there)
        await alice.invite_user(bob.user_id)
        before = await self.say(alice, "Since the invite")

        await bob.accept_invite(self.room)
        await self.sees(alice, bob.user_id)

        await self.say(alice, "Since the join", bob)
        assert (await self.entry(bob, before))["message"] == "Since the invite"


class SharedHistory(TwoUsers):
    """Who joins a public room sees that something was written before, and cannot read it."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.create(alice, here, public=True)
        await bob.register(there)
        before = await self.say(alice, "Before bob came")

        await self.join(bob, there)
        await self.sees(alice, bob.user_id)

        await self.say(alice, "Since bob came", bob)
        assert (await self.entry(bob, before)).get("undecryptable")


class SharedOnInvite(TwoUsers):
    """Who is invited to a room with shared history gets the keys of what was written before (MSC4268)."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.create(alice, here)
        await bob.register(there)
        before = await self.say(alice, "Before the invite")

        await alice.invite_user(bob.user_id)
        await bob.accept_invite(self.room)
        await self.sees(alice, bob.user_id)

        await self.say(alice, "Since the join", bob)
        assert (await self.entry(bob, before))["message"] == "Before the invite"


class AwayAndBack(TwoUsers):
    """The room key changes when a membership ends: what is written then cannot be read after a return."""

    async def remove(self, alice: MatrixClient, bob: MatrixClient) -> None:
        """End bob's membership."""
        raise NotImplementedError

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there, public=True)
        before = await self.say(alice, "For everyone", bob)

        await self.remove(alice, bob)
        await self.left(alice, bob)
        away = await self.say(alice, "While bob is away")
        assert await self.key(away) != await self.key(before), "the room key was not rotated"

        await self.back(bob, there)
        await self.sees(alice, bob.user_id)
        await self.say(alice, "Welcome back", bob)
        # His homeserver may learn of it only when all clients have gone on.
        await self.unreadable(bob, away)

    async def left(self, alice: MatrixClient, bob: MatrixClient) -> None:
        """Wait until alice sees bob's membership end."""
        await self.sees(alice, bob.user_id, "leave")

    async def back(self, bob: MatrixClient, there: HomeServer) -> None:
        """Let bob join again."""
        await self.join(bob, there)


class LeftAndBack(AwayAndBack):
    """A member who left does not read on until they are back."""

    async def remove(self, alice: MatrixClient, bob: MatrixClient) -> None:
        await bob.leave_room()


class KickedAndBack(AwayAndBack):
    """A member who was kicked does not read on until they are back."""

    async def remove(self, alice: MatrixClient, bob: MatrixClient) -> None:
        await alice.kick_user(bob.user_id, "cool down")


class BannedAndBack(AwayAndBack):
    """A member who was banned does not read on until they are back."""

    async def remove(self, alice: MatrixClient, bob: MatrixClient) -> None:
        await alice.ban_user(bob.user_id, "not here")

    async def left(self, alice: MatrixClient, bob: MatrixClient) -> None:
        await self.sees(alice, bob.user_id, "ban")

    async def back(self, bob: MatrixClient, there: HomeServer) -> None:
        await request(self.owner, "POST", f"/rooms/{self.room}/unban", {"user_id": bob.user_id})
        await self.join(bob, there)


class SecondDevice(TwoUsers):
    """A new device cannot read what was written before its login, nor between logout and the next login."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.create(alice, here, public=True)
        phone = await self.phone(bob, there, first=True)
        await self.enter(phone.client)
        await self.sees(alice, phone.client.user_id)
        before = await self.until_phone_reads(alice, phone)

        await bob.login(there)
        await bob.open_room(ROOM)
        await self.until_read(alice, bob)
        await self.unreadable(bob, before)

        await bob.logout()
        between = await self.say(alice, "Between logout and login")
        await bob.login(there)
        await bob.open_room(ROOM)
        await self.until_read(alice, bob)
        await self.unreadable(bob, between)


class DeviceChangedBeforeTheJoin(TwoUsers):
    """Who joins with another device than they had at the invite can read what was written since."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.create(alice, here)
        phone = await self.phone(bob, there, first=True)
        await alice.invite_user(phone.client.user_id)
        before = await self.say(alice, "To the old device")

        await phone.client.logout()
        await bob.login(there)
        await bob.accept_invite(self.room)
        await self.sees(alice, bob.user_id)
        await self.until_read(alice, bob)
        assert (await self.entry(bob, before))["message"] == "To the old device"


class UpgradedRoom(TwoUsers):
    """The room that replaces an encrypted one is encrypted, and both can write in it."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        await self.say(alice, "In the old room", bob)

        await alice.upgrade_room((await alice.get_room())["version"])

        self.room = (await alice.get_room())["successor"]
        await self.state("m.room.name", {"name": "The new vault"})
        await alice.open_room("The new vault")
        assert (await alice.get_room())["encrypted"]
        await alice.invite_user(bob.user_id)
        await bob.accept_invite(self.room)
        await self.sees(alice, bob.user_id)
        await self.key(await self.say(alice, "In the new room", bob))
        await self.key(await self.say(bob, "I am here too", alice))
