"""A chat goes on when its homeserver was away, and nothing that was said is lost."""

import asyncio

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import Dendrite, Synapse, SynapseStable

HOMESERVERS = [SynapseStable(), Synapse("1.98.0"), Dendrite()]


class _Chat(Test):
    clients = {"alice": [Nio], "bob": [Nio]}
    servers = {"server": HOMESERVERS}

    async def setup(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)
        await _share_a_room(alice, bob)


class Restart(_Chat):
    """A homeserver is restarted in the middle of a chat."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await _say(alice, bob, "Before the restart")
        await server.restart()
        await _say(alice, bob, "After the restart")
        await _say(bob, alice, "Welcome back")
        await _expect_to_see(bob, "Before the restart", "After the restart", "Welcome back")


class KillAndStart(_Chat):
    """A homeserver dies without warning and is started again; a client starts with nothing but its store."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await _say(alice, bob, "Before the fall")
        await server.kill()
        await server.start()
        await _say(alice, bob, "After the fall")
        await bob.reload()
        await bob.verify_message_in_timeline("After the fall")
        await _expect_to_see(bob, "Before the fall", "After the fall")


class Pause(_Chat):
    """While a homeserver is frozen nothing gets through; when it goes on, everything does, once."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await _say(alice, bob, "Before the pause")
        await server.pause()
        sending = asyncio.create_task(alice.send_message("Sent into the pause"))
        arrived, _ = await asyncio.wait({sending}, timeout=1)
        await server.unpause()
        assert not arrived, "a frozen homeserver took a message"

        await sending
        await bob.verify_message_in_timeline("Sent into the pause")
        await _say(bob, alice, "After the pause")
        await _expect_to_see(bob, "Before the pause", "Sent into the pause", "After the pause")


class FederationCatchesUp(Test):
    """A message to a homeserver that is down arrives when it is back."""

    clients = {"alice": [Nio], "bob": [Nio]}
    servers = {"here": [SynapseStable(), Dendrite()], "there": [SynapseStable(), Dendrite()]}

    async def run(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await alice.register(here)
        await bob.register(there)
        await _share_a_room(alice, bob)
        await _say(alice, bob, "Before")

        await there.stop()
        await alice.send_message("While you were out")
        await there.start()

        await alice.send_message("Are you back?")
        await bob.verify_message_in_timeline("Are you back?")
        await _expect_to_see(bob, "Before", "While you were out", "Are you back?")


async def _share_a_room(alice: MatrixClient, bob: MatrixClient) -> None:
    await alice.create_room("A room through hard times")
    await alice.invite_user(bob.user_id)
    await bob.accept_invite()


async def _say(writer: MatrixClient, reader: MatrixClient, text: str) -> None:
    await writer.send_message(text)
    await reader.verify_message_in_timeline(text)


async def _expect_to_see(reader: MatrixClient, *texts: str) -> None:
    """Check that these are all that the reader sees, in this order."""
    seen = [event["message"] for event in await reader.get_timeline()]
    assert seen == list(texts), f"{reader.name} sees {seen}"
