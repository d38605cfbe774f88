"""What the tests of encryption share: two users in a room, on one homeserver or on two."""

import asyncio
import json
import secrets
from contextlib import AsyncExitStack
from typing import Any

import nio  # type: ignore[import-untyped,unused-ignore]

from trafficlight import HomeServer, MatrixClient
from trafficlight.adapters.nio.device import Device
from trafficlight.client_types import AnyMatrixClient
from trafficlight.clients import TimelineEvent
from trafficlight.server_types import AnyHomeServer
from trafficlight.tests.members import MembersTest

ROOM = "The vault"
MEGOLM = "m.megolm.v1.aes-sha2"
# Seconds until a change of a device list, or a message to a device, has reached another homeserver's client.
FEDERATED = 20.0


async def request(api: nio.AsyncClient, method: str, path: str, body: object = None) -> Any:
    """Make a request to the client-server API, past all clients, and return the answer."""
    headers = {"Authorization": f"Bearer {api.access_token}"}
    content = None if body is None else json.dumps(body)
    answer = await api.send(method, f"/_matrix/client/v3{path}", content, headers)
    assert answer.status == 200, f"{method} {path}: {answer.status} {await answer.text()}"
    return await answer.json()


class EncryptedRoom(MembersTest):
    """Alice and bob in an encrypted room, and what several tests of encryption do there."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}

    room: str
    owner: nio.AsyncClient
    """A session of alice without a client: sees what the homeserver has, and has no keys."""

    async def setup(self) -> None:
        self.opened = AsyncExitStack()
        self.said = 0

    async def teardown(self) -> None:
        await self.opened.aclose()

    # Rooms

    async def create(
        self, alice: MatrixClient, here: HomeServer, *, public: bool = False, **rules: int
    ) -> None:
        """Register alice and open her new room.

        :param public: whether everyone may join it.
        :param rules: further content of the room's `m.room.encryption`.
        """
        await alice.register(here)
        self.owner = await here.nio_client(alice)
        content = {"algorithm": MEGOLM, **rules}
        encryption = {"type": "m.room.encryption", "state_key": "", "content": content}
        preset = "public_chat" if public else "private_chat"
        created = await request(
            self.owner,
            "POST",
            "/createRoom",
            {"name": ROOM, "preset": preset, "initial_state": [encryption]},
        )
        self.room = created["room_id"]
        await alice.open_room(ROOM)

    async def meet(
        self,
        alice: MatrixClient,
        bob: MatrixClient,
        here: HomeServer,
        there: HomeServer,
        *,
        public: bool = False,
        **rules: int,
    ) -> None:
        """Bring both together in an encrypted room; nothing is written yet."""
        await asyncio.gather(self.create(alice, here, public=public, **rules), bob.register(there))
        await alice.invite_user(bob.user_id)
        await bob.accept_invite(self.room)
        await self.sees(alice, bob.user_id)

    async def enter(self, api: nio.AsyncClient) -> None:
        """Join the public room, without an invite."""
        via = self.owner.user_id.partition(":")[2]
        await request(api, "POST", f"/join/{self.room}?server_name={via}&via={via}", {})

    async def join(self, client: MatrixClient, home: HomeServer) -> None:
        """Have a client's user join the public room, and open it.

        A homeserver that has not learned yet that they are out takes the join for one that it knows.
        """
        api = await home.nio_client(client)

        async def out() -> bool:
            return self.room not in (await request(api, "GET", "/joined_rooms"))["joined_rooms"]

        await self.eventually(
            out, timeout=FEDERATED, message=f"{client.name}'s homeserver did not see them leave"
        )
        await self.enter(api)
        await client.open_room(ROOM)

    async def state(self, kind: str, content: dict[str, Any]) -> None:
        """Change the room's state as alice, past her client."""
        await request(self.owner, "PUT", f"/rooms/{self.room}/state/{kind}", content)

    # Messages and their keys

    async def say(self, writer: MatrixClient, text: str = "", reader: MatrixClient | None = None) -> str:
        """Send a message that a reader can read, and return its event id."""
        self.said += 1
        text = text or f"Message {self.said}"
        await writer.send_message(text)
        if reader is not None:
            await reader.verify_message_in_timeline(text)
        return (await writer.find_message(text))["event_id"]

    async def raw(self, event_id: str) -> Any:
        """Return an event's content as the homeserver has it."""
        return (await request(self.owner, "GET", f"/rooms/{self.room}/event/{event_id}"))["content"]

    async def key(self, event_id: str) -> str:
        """Return the id of the room key that an event is encrypted with."""
        return str((await self.raw(event_id))["session_id"])

    async def entry(self, reader: MatrixClient, event_id: str) -> TimelineEvent:
        """Return an event as a client shows it, also from the history."""

        async def shown() -> TimelineEvent | None:
            for one in await reader.get_timeline():
                if one["event_id"] == event_id:
                    return one
            await reader.load_earlier()
            return None

        found: TimelineEvent | None = await self.eventually(
            shown, timeout=FEDERATED, message=f"{reader.name} did not show {event_id}"
        )
        assert found is not None
        return found

    async def unreadable(self, reader: MatrixClient, event_id: str) -> None:
        """Check that a client shows an event as undecryptable, or not at all. Nothing is waited for."""
        await reader.load_earlier()
        for one in await reader.get_timeline():
            readable = one["event_id"] == event_id and not one.get("undecryptable")
            assert not readable, f"{reader.name} shows {one['message']!r}"

    async def until_read(self, writer: MatrixClient, reader: MatrixClient) -> str:
        """Send messages until one can be read, as a new device becomes known only in time."""

        async def read() -> str | None:
            event_id = await self.say(writer)
            entry = await self.entry(reader, event_id)
            return event_id if entry["message"] == f"Message {self.said}" else None

        event_id = await self.eventually(
            read, timeout=FEDERATED, message=f"{reader.name} could not read what {writer.name} sent"
        )
        assert event_id is not None
        return event_id

    async def until_rotated(self, writer: MatrixClient, before: str) -> str:
        """Send messages until one has another key than before, and return its event id."""

        async def rotated() -> str | None:
            event_id = await self.say(writer)
            return event_id if await self.key(event_id) != before else None

        event_id = await self.eventually(
            rotated, timeout=FEDERATED, message=f"{writer.name} did not rotate the room key"
        )
        assert event_id is not None
        return event_id

    # A further device of a user

    async def phone(self, owner: MatrixClient, home: HomeServer, *, first: bool = False) -> Device:
        """Return a further device of a client's account, in matrix-nio. No identity has signed it.

        :param first: whether the account is created for it.
        """
        store = self.case.folder / f"phone-of-{owner.name}"
        await asyncio.to_thread(store.mkdir)
        device = Device(home.cs_api, store, FEDERATED)
        self.opened.push_async_callback(device.stop)
        await (device.register if first else device.login)(owner.localpart, owner.password)
        await device.start()
        return device

    async def phone_reads(self, phone: Device, event_id: str) -> bool:
        """Return whether a phone can decrypt an event, once it has all that was sent to it until now.

        Messages to a device keep their order: no key that went before the last of them comes later.
        """
        last = f"last.{secrets.token_hex(8)}"
        came: set[str] = set()
        phone.client.add_to_device_callback(lambda event: came.add(event.type), nio.UnknownToDeviceEvent)
        content = {phone.client.user_id: {phone.client.device_id: {"is": "the last"}}}
        await request(self.owner, "PUT", f"/sendToDevice/{last}/{last}", {"messages": content})
        timeline = phone.timeline(self.room)
        message = await phone.until(
            lambda: timeline.message(event_id) if last in came else None,
            f"{event_id}, and what was sent to the device before",
            timeline.describe,
        )
        return message.undecrypted is None

    async def until_phone_reads(self, writer: MatrixClient, phone: Device) -> str:
        """Send messages until a phone can read one, as it becomes known only in time; return its event id."""

        async def read() -> str | None:
            event_id = await self.say(writer)
            return event_id if await self.phone_reads(phone, event_id) else None

        event_id = await self.eventually(
            read, timeout=FEDERATED, message=f"the new device could not read what {writer.name} sent"
        )
        assert event_id is not None
        return event_id


class TwoUsers(EncryptedRoom):
    """On one homeserver and on two federated ones. A test defines `play()`."""

    servers = {"server": AnyHomeServer, "here": AnyHomeServer, "there": AnyHomeServer}

    async def test_one_server(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.play(alice, bob, server, server)

    async def test_federated(
        self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer
    ) -> None:
        await self.play(alice, bob, here, there)

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        """Play the test with alice on one homeserver and bob on the other, or the same."""
        raise NotImplementedError
