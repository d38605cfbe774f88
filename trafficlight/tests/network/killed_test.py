"""Clients that are killed in the middle of a request: after their restart nothing is lost."""

import re
from typing import Any

from trafficlight import HomeServer, MatrixClient
from trafficlight.network.control import Exchange, Rule
from trafficlight.server_types import AnyHomeServer
from trafficlight.tests.crypto.meeting import ROOM, EncryptedRoom
from trafficlight.tests.crypto.olm import device_of, use_up


class _Killed(EncryptedRoom):
    servers = {"server": AnyHomeServer}

    async def kill_at(self, rule: Rule, client: MatrixClient) -> None:
        """Kill a client when a request of it is held, which is lost, and start it again."""
        held = await rule.next()
        await client.kill()
        held.drop()
        await client.restart()
        await client.open_room(ROOM)


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
