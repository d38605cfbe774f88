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

    async def meet_on_a_line(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        """Bring both together, behind the network's proxy."""
        alice.network.use()
        bob.network.use()
        await self.meet(alice, bob, server, server)

    async def kill_at(self, rule: Rule, client: MatrixClient, *doing: Coroutine[Any, Any, object]) -> None:
        """Kill a client when a request of it is held, which is lost, and start it again."""
        actions = [asyncio.ensure_future(one) for one in doing]
        held = await rule.next()
        await client.kill()
        held.drop()
        for action in actions:
            with suppress(ActionError):  # it was cut short
                await action
        await client.restart()


class WhileSendingAKey(_Killed):
    """Killed before a room key is sent: those for whom it was read what is written next."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet_on_a_line(alice, bob, server)
        async with alice.network.hold("PUT", "/sendToDevice/m.room.encrypted") as keys:
            await self.kill_at(keys, alice, alice.send_message("Can you read this?"))
        await alice.open_room(ROOM)
        await self.say(alice, "Once more", bob)


class WhileHandingOutAKey(_Killed):
    """Killed when a room key is on its way: all devices read what is written next."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet_on_a_line(alice, bob, server)
        phone = await self.phone(bob, server)
        async with alice.network.hold("PUT", "/sendToDevice/m.room.encrypted", on="response") as keys:
            await self.kill_at(keys, alice, alice.send_message("Can you read this?"))
        await alice.open_room(ROOM)
        await self.until_phone_reads(alice, phone)
        await bob.verify_message_in_timeline(f"Message {self.said}")


class WhileUploadingOneTimeKeys(_Killed):
    """Killed before the answer to an upload of one-time keys: no other keys are uploaded under their ids."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet_on_a_line(alice, bob, server)
        uploaded: dict[str, Any] = {}

        def same(exchange: Exchange) -> None:
            for id, key in exchange.json.get("one_time_keys", {}).items():
                assert uploaded.setdefault(id, key) == key, f"another key was uploaded as {id}"

        async with bob.network.intercept("POST", "/keys/upload", on_request=same):
            api = await server.nio_client()
            async with bob.network.hold("POST", re.compile("/keys/upload$"), on="response") as uploads:
                await use_up(api, await device_of(api, bob.user_id))
                await self.kill_at(uploads, bob)
            await bob.open_room(ROOM)
            await self.say(alice, "Can you read this?", bob)
            assert uploaded, "no one-time keys were uploaded"


class WhileUploadingDeviceKeys(_Killed):
    """Killed before the answer to the upload of a new device's keys: it can be written to after a login."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        bob.network.use()
        async with bob.network.hold(
            "POST", "/keys/upload", body={"device_keys": {}}, on="response"
        ) as uploads:
            await self.kill_at(uploads, bob, bob.register(server))
        with suppress(ActionError):  # it may be logged in again
            await bob.login(server)
        await self.create(alice, server)
        await alice.invite_user(bob.user_id)
        await bob.accept_invite(self.room)
        await self.sees(alice, bob.user_id)
        await self.say(alice, "Can you read this?", bob)


class WhileUploadingAnIdentity(_Killed):
    """Killed before the answer to the upload of an identity: the next one replaces it."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet_on_a_line(alice, bob, server)
        async with alice.network.hold(
            "POST", "/keys/device_signing/upload", body={"auth": {}}, on="response"
        ) as uploads:
            await self.kill_at(uploads, alice, alice.reset_identity())
        await alice.reset_identity()
        await alice.open_room(ROOM)
        await self.say(alice, "Can you read this?", bob)


class WhileQueryingDevices(_Killed):
    """Killed while it learns of a new device: that one gets keys after the restart."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet_on_a_line(alice, bob, server)
        await self.say(alice, "Only here", bob)
        async with alice.network.hold("POST", "/keys/query", on="response") as queries:
            phone = await self.phone(bob, server)
            await self.kill_at(queries, alice, alice.send_message("Can the phone read this?"))
        await alice.open_room(ROOM)
        await self.until_phone_reads(alice, phone)
