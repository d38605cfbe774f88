from typing import Any

import nio  # type: ignore[import-untyped,unused-ignore]

from trafficlight import HomeServer, MatrixClient
from trafficlight.tests.crypto.meeting import FEDERATED, ROOM, TwoUsers
from trafficlight.tests.crypto.olm import OlmDevice, claim, device_of, use_up


class KeysOfBob(TwoUsers):
    """Carol is a third user, whose keys the tests handle themselves."""

    async def carol_meets(
        self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer
    ) -> tuple[nio.AsyncClient, OlmDevice, dict[str, Any]]:
        """Bring the three together; return carol's session and device, and bob's device."""
        await self.meet(alice, bob, here, there, public=True)
        carol = await here.nio_client()
        device = OlmDevice(carol)
        await device.upload()
        await self.enter(carol)
        await self.sees(bob, carol.user_id)
        return carol, device, await device_of(carol, bob.user_id)

    async def until_uploaded(self, carol: nio.AsyncClient, of_bob: dict[str, Any]) -> str:
        """Wait until bob has uploaded one-time keys; claim one, and return its id."""

        async def uploaded() -> str | None:
            claimed = await claim(carol, of_bob)
            return None if claimed is None or claimed[1].get("fallback") else claimed[0]

        key = await self.eventually(uploaded, timeout=FEDERATED, message="bob uploaded no one-time keys")
        assert key is not None
        return key


class FallbackKey(KeysOfBob):
    """Without one-time keys the fallback key serves, for several senders, and the messages can be read."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        carol, device, of_bob = await self.carol_meets(alice, bob, here, there)
        # Otherwise bob uploads more.
        await bob.suspend()
        _, fallback = await use_up(carol, of_bob)
        assert fallback is not None, "bob has no fallback key"

        await alice.send_message("By the fallback key")
        await device.say(self.room, "By the same key", of_bob, device.session(of_bob, fallback[1]))

        await bob.resume()
        await bob.verify_message_in_timeline("By the fallback key")
        await bob.verify_message_in_timeline("By the same key")


class FallbackKeyReplaced(KeysOfBob):
    """A fallback key is replaced once its owner learns that it was used."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        carol, _, of_bob = await self.carol_meets(alice, bob, here, there)
        await bob.suspend()
        _, used = await use_up(carol, of_bob)
        assert used is not None, "bob has no fallback key"
        await alice.send_message("By the fallback key")
        await bob.resume()
        await bob.verify_message_in_timeline("By the fallback key")

        # Bob has learned that his keys are used up, when there are new ones.
        await self.until_uploaded(carol, of_bob)
        await bob.suspend()
        _, fallback = await use_up(carol, of_bob)
        await bob.resume()
        assert fallback is not None
        assert fallback[0] != used[0], "the fallback key is still the one that was used"


class OneTimeKeyUsedTwice(KeysOfBob):
    """A second session with the same one-time key is refused; what comes by the first one goes on."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        carol, device, of_bob = await self.carol_meets(alice, bob, here, there)
        claimed = await claim(carol, of_bob)
        assert claimed is not None
        first, second = (device.session(of_bob, claimed[1]) for _ in range(2))

        await device.say(self.room, "The first use", of_bob, first)
        await bob.verify_message_in_timeline("The first use")
        again = await device.say(self.room, "The second use", of_bob, second)
        await device.say(self.room, "The first session goes on", of_bob, first)

        await bob.verify_message_in_timeline("The first session goes on")
        await self.unreadable(bob, again)


class DamagedFirstMessage(KeysOfBob):
    """A damaged first message does not cost the one-time key: the next one can be read."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        carol, device, of_bob = await self.carol_meets(alice, bob, here, there)
        claimed = await claim(carol, of_bob)
        assert claimed is not None
        session = device.session(of_bob, claimed[1])

        damaged = await device.say(self.room, "Damaged", of_bob, session, broken=True)
        await device.say(self.room, "Undamaged", of_bob, session)

        await bob.verify_message_in_timeline("Undamaged")
        await self.unreadable(bob, damaged)


class NoKeyTwice(KeysOfBob):
    """A client that restarts uploads further one-time keys, none under an id that it has used before."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        carol, _, of_bob = await self.carol_meets(alice, bob, here, there)
        await bob.suspend()
        before, _ = await use_up(carol, of_bob)
        await bob.resume()
        await bob.reload()
        await bob.open_room(ROOM)
        # Wakes his sync, which says how many keys are left.
        await self.state("m.room.topic", {"topic": "News"})
        first = await self.until_uploaded(carol, of_bob)
        await bob.suspend()
        further, _ = await use_up(carol, of_bob)
        again = before.keys() & {first, *further}
        assert not again, f"keys were uploaded under ids that were used before: {again}"
