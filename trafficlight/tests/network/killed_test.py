"""Clients that are killed in the middle of a request: after their restart nothing is lost."""

import asyncio
import re
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from trafficlight import HomeServer, MatrixClient
from trafficlight.errors import ActionError
from trafficlight.network.control import Exchange, Rule
from trafficlight.server_types import AnyHomeServer
from trafficlight.tests.crypto.meeting import ROOM, EncryptedRoom
from trafficlight.tests.crypto.olm import device_of, use_up


class _Killed(EncryptedRoom):
    servers = {"server": AnyHomeServer}

    async def kill_at(
        self, rule: Rule, client: MatrixClient, *doing: Coroutine[Any, Any, object], room: str = ROOM
    ) -> None:
        """Kill a client when a request of it is held, which is lost, and start it again.

        :param doing: what asks for that, and is cut short.
        """
        actions = [asyncio.ensure_future(one) for one in doing]
        asked = asyncio.ensure_future(rule.next())
        try:
            while not asked.done():
                left = {one for one in actions if not one.done()}
                done, _ = await asyncio.wait({asked, *left}, return_when=asyncio.FIRST_COMPLETED)
                for one in done - {asked}:
                    await one  # otherwise a client that cannot do it waits for a request that never comes
        finally:
            asked.cancel()
        held = asked.result()
        await client.kill()
        held.drop()
        for action in actions:
            with suppress(ActionError):
                await action
        await client.restart()
        if room:
            await client.open_room(room)


class WhileSendingAKey(_Killed):
    """Killed before a room key is sent: those for whom it was read what is written next."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        alice.network.use()
        await self.meet(alice, bob, server, server)
        async with alice.network.hold("PUT", "/sendToDevice/m.room.encrypted", times=1) as keys:
            await self.kill_at(keys, alice, alice.send_message("Can you read this?"))
        await self.say(alice, "Once more", bob)


class WhileHandingOutAKey(_Killed):
    """Killed before the answer to a room key for many devices: all of them read what is written next."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        alice.network.use()
        await self.meet(alice, bob, server, server)
        phone = await self.phone(bob, server)
        keys = alice.network.hold("PUT", "/sendToDevice/m.room.encrypted", times=1, on="response")
        async with keys as held:
            await self.kill_at(held, alice, alice.send_message("Can you read this?"))
        await self.until_phone_reads(alice, phone)
        await bob.verify_message_in_timeline(f"Message {self.said}")


class WhileUploadingDeviceKeys(_Killed):
    """Killed before the answer to the upload of a new device's keys: it gets messages after the restart."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        bob.network.use()
        keys = bob.network.hold("POST", "/keys/upload", body={"device_keys": {}}, times=1, on="response")
        async with keys as held:
            await self.kill_at(held, bob, bob.register(server), room="")
        await self.create(alice, server)
        await alice.invite_user(bob.user_id)
        await bob.accept_invite(self.room)
        await self.sees(alice, bob.user_id)
        await self.say(alice, "Can you read this?", bob)


class WhileUploadingAnIdentity(_Killed):
    """Killed before the answer to the upload of an identity: the next one replaces it."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        alice.network.use()
        await self.meet(alice, bob, server, server)
        keys = alice.network.hold(
            "POST", "/keys/device_signing/upload", body={"auth": {}}, times=1, on="response"
        )
        async with keys as held:
            await self.kill_at(held, alice, alice.reset_identity())
        await alice.reset_identity()
        await self.say(alice, "Can you read this?", bob)


class WhileUploadingOneTimeKeys(_Killed):
    """Killed before the answer to an upload of one-time keys: no other keys are uploaded under their ids."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        bob.network.use()
        await self.meet(alice, bob, server, server)
        uploaded: dict[str, Any] = {}

        def same(exchange: Exchange) -> None:
            for id, key in exchange.json.get("one_time_keys", {}).items():
                assert uploaded.setdefault(id, key) == key, f"another key was uploaded as {id}"

        async with bob.network.intercept("POST", "/keys/upload", on_request=same):
            uploads = bob.network.hold("POST", re.compile("/keys/upload$"), times=1, on="response")
            async with uploads as held:
                api = await server.nio_client()
                await use_up(api, await device_of(api, bob.user_id))
                # Wakes his sync, which says how many keys are left.
                await self.state("m.room.topic", {"topic": "News"})
                await self.kill_at(held, bob)
            await self.say(alice, "Can you read this?", bob)
        assert uploaded, "no one-time keys were uploaded"


class WhileQueryingDevices(_Killed):
    """Killed while it learns of a new device: that one gets keys after the restart."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        alice.network.use()
        await self.meet(alice, bob, server, server)
        await self.say(alice, "Only here", bob)
        async with alice.network.hold("POST", "/keys/query", times=1, on="response") as queries:
            phone = await self.phone(bob, server)
            await self.kill_at(queries, alice)
        await self.until_phone_reads(alice, phone)
