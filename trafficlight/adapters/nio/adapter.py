"""The nio adapter: its actions, with the data of the wire, and its program."""

import asyncio
import json
import logging
import shutil
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any, Literal
from urllib.parse import quote

from nio import (  # type: ignore[import-untyped,unused-ignore]
    EnableEncryptionBuilder,
    MatrixRoom,
    RoomPreset,
    RoomVisibility,
)
from pydantic import Field
from typing_extensions import TypedDict

from trafficlight.adapters.nio.device import Device, checked
from trafficlight.adapters.nio.timeline import Message, Timeline
from trafficlight.adapters.sdk import (
    ActionFailed,
    Adapter,
    JsonObject,
    Options,
    UnsupportedActionError,
    action,
    serve,
)

_LONGEST_WAIT = 30.0
_LONGEST_ACTION = 40.0

UserId = Annotated[str, Field(alias="userId")]


class TimelineEntry(TypedDict):
    """One message in the response of `get_timeline`."""

    user: str
    e2e_issues: list[str]
    message: str


class HomeserverUrl(TypedDict):
    """The base URLs of the client-server API; an adapter on this machine uses `local`."""

    local: str


class NioAdapter(Adapter):
    """A device of one user in matrix-nio. An action returns when its effect is visible in this client."""

    type = "nio"
    version = version("matrix-nio")

    def __init__(self) -> None:
        self._device: Device | None = None
        self._account = ("", "")
        self._store: Path | None = None
        self._room_id: str | None = None

    async def close(self) -> None:
        """Stop syncing and remove the account's keys."""
        await self._forget()

    async def perform(self, name: str, data: JsonObject) -> JsonObject:
        """Perform an action, see :class:`Adapter`; it fails if the homeserver does not answer."""
        limit = self._share_of_deadline(0.9, _LONGEST_ACTION)
        try:
            async with asyncio.timeout(limit):
                return await super().perform(name, data)
        except TimeoutError:
            raise ActionFailed(f"the homeserver took longer than {limit:g} s") from None

    @action()
    async def register(self, username: str, password: str, homeserver_url: HomeserverUrl) -> None:
        """Create an account and log in; returns after the first sync."""
        await self._enter(username, password, homeserver_url["local"], create=True)

    @action()
    async def login(
        self,
        username: str,
        password: str,
        homeserver_url: HomeserverUrl,
        key_backup_passphrase: str | None = None,
    ) -> None:
        """Log in as a new device; returns after the first sync."""
        if key_backup_passphrase is not None:
            raise UnsupportedActionError("matrix-nio has no key backup: login cannot restore one")
        await self._enter(username, password, homeserver_url["local"], create=False)

    @action()
    async def logout(self) -> None:
        """Log out at the homeserver and remove the device's keys."""
        checked(await self._logged_in.client.logout(), "logout")
        await self._forget()

    @action()
    async def reload(self) -> None:
        """Restart the client with only its store; returns after a full sync."""
        device = self._logged_in
        again = device.restored()
        await device.stop()
        self._device = again
        await again.start()
        if self._room_id is not None:
            await self._show(self._room_id)

    @action()
    async def clear_idb_storage(self) -> None:
        """Remove all keys and the timeline, and log in as a new device; returns after a sync."""
        homeserver = self._logged_in.homeserver
        room_id = self._room_id
        await self._enter(*self._account, homeserver, create=False)
        if room_id is not None:
            await self._show(room_id)

    @action()
    async def advance_clock(self, milliseconds: int) -> None:
        """Age the device's outbound sessions, the only clock of nio's encryption."""
        olm = self._logged_in.client.olm
        for session in olm.outbound_group_sessions.values():
            session.creation_time -= timedelta(milliseconds=milliseconds)

    @action()
    async def create_room(self, name: str, topic: str | None = None) -> None:
        """Create an encrypted room and open it; returns when a sync has shown it."""
        await self._create(name=name, topic=topic, preset=RoomPreset.private_chat)

    @action()
    async def create_dm(self, user_id: UserId) -> None:
        """Create an encrypted direct chat, invite the user, and open it; returns when a sync has shown it."""
        other = _full(user_id)
        await self._create(preset=RoomPreset.trusted_private_chat, is_direct=True, invite=[other])
        await self._mark_direct(other, self._open_room.room_id)
        await self._see_member(other)

    @action()
    async def open_room(self, name: str) -> None:
        """Open the room with this display name; of several, the one joined last."""
        device = self._logged_in

        def see() -> str | None:
            named = [room.room_id for room in device.client.rooms.values() if room.display_name == name]
            return next((room_id for room_id in reversed(named) if device.joined(room_id)), None)

        def seen() -> str:
            return f"there are: {[room.display_name for room in device.client.rooms.values()]}"

        await self._show(await device.until(see, f"a room named {name!r}", seen))

    @action()
    async def invite_user(self, user_id: UserId) -> None:
        """Invite a user to the open room; returns when a sync has shown the invite."""
        other, room = _full(user_id), self._open_room
        answer = await self._logged_in.client.room_invite(room.room_id, other)
        checked(answer, f"invite of {other}")
        await self._see_member(other)

    @action()
    async def accept_invite(self) -> None:
        """Wait for an invite, join the room and open it; returns when a sync has shown the join."""
        device = self._logged_in
        invited = device.client.invited_rooms

        def see() -> str | None:
            return next(reversed(invited), None)

        room_id = await device.until(see, "an invite", lambda: f"{len(device.client.rooms)} rooms are joined")
        checked(await device.client.join(room_id), f"join of {room_id}")
        await self._enter_room(room_id)

    @action()
    async def change_room_history_visibility(
        self,
        visibility: Annotated[
            Literal["shared", "invited", "joined", "world_readable"], Field(alias="historyVisibility")
        ],
    ) -> None:
        """Set who can read the open room's history; returns when a sync has shown it."""
        device, room = self._logged_in, self._open_room
        answer = await device.client.room_put_state(
            room.room_id, "m.room.history_visibility", {"history_visibility": visibility}
        )
        checked(answer, "change of the history visibility")
        await device.until(
            lambda: True if room.history_visibility == visibility else None,
            f"history visibility {visibility!r}",
            lambda: f"it is {room.history_visibility!r}",
        )

    @action()
    async def send_message(self, message: str) -> None:
        """Send a text to the open room; returns when the homeserver has acknowledged it.

        In an encrypted room every device of everyone who joined or is invited gets the key.
        """
        await self._logged_in.send(self._open_room.room_id, message)

    @action()
    async def verify_message_in_timeline(self, message: str) -> None:
        """Wait until the open room shows a text; fails if it arrived unencrypted in an encrypted room."""
        room = self._open_room

        def see() -> Message | None:
            shown = [entry for entry in self._timeline.messages if entry.body == message]
            fine = [entry for entry in shown if entry.encrypted or not room.encrypted]
            if shown and not fine:
                raise ActionFailed(f"{message!r} arrived unencrypted in an encrypted room")
            return fine[0] if fine else None

        await self._logged_in.fill(room.room_id)
        await self._logged_in.until(see, f"the message {message!r}", self._timeline.describe)

    @action()
    async def verify_last_message_is_utd(self) -> None:
        """Wait until the last message of the open room cannot be decrypted."""

        def see() -> Message | None:
            last = self._timeline.last
            return last if last is not None and last.undecrypted is not None else None

        await self._logged_in.until(see, "an undecryptable last message", self._timeline.describe)

    @action()
    async def verify_last_message_is_trusted(self) -> None:
        """Wait until the last message of the open room is decrypted and from a verified device."""

        def see() -> Message | None:
            last = self._timeline.last
            return last if last is not None and last.encrypted and last.verified else None

        await self._logged_in.until(see, "a trusted last message", self._timeline.describe)

    @action()
    async def get_timeline(self) -> JsonObject:
        """Return the open room's messages, oldest first."""
        encrypted = self._open_room.encrypted
        await self._logged_in.fill(self._open_room.room_id)
        timeline = [
            TimelineEntry(user=entry.sender, e2e_issues=entry.issues(encrypted), message=entry.body)
            for entry in self._timeline.messages
        ]
        return {"response": "got_timeline", "timeline": timeline}

    @property
    def _wait(self) -> float:
        """The time limit of a wait in seconds, short enough to report before the action's deadline."""
        return self._share_of_deadline(0.7, _LONGEST_WAIT)

    def _share_of_deadline(self, share: float, longest: float) -> float:
        deadline = self.context.action_deadline
        return longest if deadline is None else min(longest, deadline * share)

    @property
    def _logged_in(self) -> Device:
        if self._device is None:
            raise ActionFailed("not logged in")
        return self._device

    async def _enter(self, username: str, password: str, homeserver: str, *, create: bool) -> None:
        await self._forget()
        # Not in a thread: a cancellation would leave an unknown directory.
        self._store = Path(mkdtemp(prefix="trafficlight-nio-"))
        self._account = (username, password)
        self._device = device = Device(homeserver.rstrip("/"), self._store, self._wait)
        await (device.register if create else device.login)(username, password)
        await device.start()

    async def _show(self, room_id: str) -> None:
        self._room_id = room_id
        await self._logged_in.fill(room_id)

    async def _forget(self) -> None:
        device, self._device = self._device, None
        store, self._store = self._store, None
        self._room_id = None
        try:
            if device is not None:
                await device.stop()
        finally:
            if store is not None:
                await asyncio.to_thread(shutil.rmtree, store, ignore_errors=True)

    @property
    def _open_room(self) -> MatrixRoom:
        room = None if self._room_id is None else self._logged_in.joined(self._room_id)
        if room is None:
            raise ActionFailed("no room is open")
        return room

    @property
    def _timeline(self) -> Timeline:
        return self._logged_in.timeline(self._open_room.room_id)

    async def _create(self, name: str | None = None, **options: Any) -> None:
        answer = await self._logged_in.client.room_create(
            visibility=RoomVisibility.private,
            initial_state=[EnableEncryptionBuilder().as_dict()],
            name=name,
            **options,
        )
        await self._enter_room(checked(answer, "creation of a room").room_id)
        room = self._open_room
        # A sync may show a room before its complete initial state.
        await self._logged_in.until(
            lambda: True if room.encrypted and (name is None or room.name == name) else None,
            "the new room to be encrypted and named",
            lambda: f"its name is {room.name!r}, encrypted: {room.encrypted}",
        )

    async def _enter_room(self, room_id: str) -> None:
        device = self._logged_in
        await device.until(
            lambda: device.joined(room_id), f"to be in {room_id}", lambda: f"in {list(device.client.rooms)}"
        )
        await self._show(room_id)

    async def _see_member(self, user_id: str) -> None:
        room = self._open_room
        await self._logged_in.until(
            lambda: room.users.get(user_id), f"{user_id} in the room", lambda: f"there are {list(room.users)}"
        )

    async def _mark_direct(self, user_id: str, room_id: str) -> None:
        client = self._logged_in.client
        path = f"/_matrix/client/v3/user/{quote(client.user_id)}/account_data/m.direct"
        headers = {"Authorization": f"Bearer {client.access_token}"}
        before = await client.send("GET", path, headers=headers)
        direct: dict[str, list[str]] = await before.json() if before.status == 200 else {}
        direct.setdefault(user_id, []).append(room_id)
        answer = await client.send("PUT", path, json.dumps(direct), headers)
        if answer.status != 200:
            raise ActionFailed(f"m.direct: the homeserver answered {answer.status}: {await answer.text()}")


async def main(
    url: str,
    count: int = 1,
    token: str | None = None,
    *,
    once: bool = False,
    patience: float | None = None,
) -> None:
    """Run nio adapters until SIGTERM or SIGINT.

    :param url: the coordinator's base URL.
    :param count: how many clients to run concurrently in this process.
    :param token: the shared registration token; by default `TRAFFICLIGHT_ADAPTER_TOKEN` of the
        environment.
    :param once: exit after one registration of each client instead of registering again.
    :param patience: seconds to retry a coordinator that does not answer; None for no limit.
    :raises LabError: the coordinator rejected the registration, or did not answer for that long.
    """
    # It warns about every new device, and every message whose key has not arrived yet.
    logging.getLogger("nio.crypto").setLevel(logging.ERROR)
    await serve(NioAdapter, url, count=count, token=token, once=once, options=Options(patience=patience))


def _full(user_id: str) -> str:
    """Return a user id with its leading @, which the wire may leave out."""
    return user_id if user_id.startswith("@") else f"@{user_id}"
