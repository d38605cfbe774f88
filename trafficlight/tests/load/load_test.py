import json
import time
from pathlib import Path
from typing import Any

from trafficlight import HomeServer, Log, MatrixClient, Node, Service, Test, cluster, defaults
from trafficlight.client_types import AnyMatrixClient
from trafficlight.server_types import AnyHomeServer

_SENDER = Path(__file__).with_name("sender.py")


class Sender(Service):
    """Sends messages to a room at a rate, one process a node."""

    logs = {"sender.log": Log("sender.log", collect="always")}
    options: dict[str, Any]
    tokens: list[str]

    async def start_node(self, node: Node) -> None:
        own = self.options | {"token": self.tokens[self.index(node)]}
        await node.account.create_file("sender.json", json.dumps(own))
        await node.account.copy_to(_SENDER, "sender.py")
        async with node.account.monitor_log("sender.log") as log:
            await node.account.start(["python3", "sender.py"], name="sender")
            await log.until("seconds")

    async def wait_node(self, node: Node) -> None:
        await node.account.wait("sender")
        lines = (await node.account.read("sender.log")).splitlines()
        self.results[node] = [json.loads(line) for line in lines]

    @property
    def sending(self) -> bool:
        """Whether any node still sends."""
        return any(node.account.alive("sender") for node in self.nodes)


class ChatUnderLoad(Test):
    """Two users see each other's messages while others send at a rate in a room of theirs.

    :param nodes: how many processes send, each on a node of its own.
    :param rate: messages a second that each of them sends.
    :param seconds: for how long.
    """

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    @cluster(num_nodes=3)
    @defaults(nodes=[3], rate=[10], seconds=[3])
    async def run(
        self,
        alice: MatrixClient,
        bob: MatrixClient,
        server: HomeServer,
        nodes: int,
        rate: float,
        seconds: float,
    ) -> dict[str, int]:
        from nio import JoinResponse, RoomCreateResponse, RoomPreset  # here, because it is slow to import

        await alice.register(server)
        await bob.register(server)
        await alice.create_room("A room under load")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()

        users = [await server.nio_client() for _ in range(nodes)]
        room = await users[0].room_create(name="Load", preset=RoomPreset.public_chat)
        assert isinstance(room, RoomCreateResponse), f"{users[0].user_id} created no room: {room}"
        for user in users[1:]:
            joined = await user.join(room.room_id)
            assert isinstance(joined, JoinResponse), f"{user.user_id} did not join: {joined}"
        options = {"rate": rate, "seconds": seconds, "target": server.cs_api, "room": room.room_id}
        load = Sender(self, num_nodes=nodes, options=options, tokens=[user.access_token for user in users])
        seen = 0
        async with load:
            while load.sending or not seen:
                began = time.monotonic()
                await alice.send_message(f"Is {seen} there?")
                await bob.verify_message_in_timeline(f"Is {seen} there?")
                self.record("until seen", time.monotonic() - began, "s")
                seen += 1
            await load.wait()

        answers = [answer for found in load.results.values() for answer in found]
        for answer in answers:
            self.record("request", answer["seconds"], "s", at=answer["at"])
        refused = [answer["status"] for answer in answers if answer["status"] != 200]
        assert not refused, f"{len(refused)} of {len(answers)} messages were refused: {refused[:10]}"
        return {"asked for": round(nodes * rate * seconds), "sent": len(answers), "seen": seen}
