"""The actions of the nio adapter on rooms and their members."""

from typing import Annotated, Any, Literal
from urllib.parse import quote

from nio import (  # type: ignore[import-untyped,unused-ignore]
    EnableEncryptionBuilder,
    RoomPreset,
    RoomVisibility,
)
from pydantic import Field

from trafficlight.adapters.nio.account import Account, UserId, full_id
from trafficlight.adapters.nio.device import checked
from trafficlight.adapters.sdk import (
    JsonObject,
    action,
)


class Rooms(Account):
    """Actions on rooms; they return when a sync has shown the effect, or the homeserver accepted it."""

    @action()
    async def create_room(
        self,
        name: str,
        topic: str | None = None,
        encrypted: bool = True,
        room_version: str | None = None,
    ) -> None:
        """Create a room and open it; returns when a sync has shown it."""
        await self._create(
            name=name,
            encrypted=encrypted,
            topic=topic,
            preset=RoomPreset.private_chat,
            room_version=room_version,
        )

    @action()
    async def create_dm(self, user_id: UserId) -> None:
        """Create an encrypted direct chat, invite the user, and open it; returns when a sync has shown it."""
        other = full_id(user_id)
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
    async def get_room(self) -> JsonObject:
        """Return the open room's state, as the homeserver has it."""
        client, room = self._logged_in.client, self._open_room
        state = checked(await client.room_get_state(room.room_id), f"state of {room.room_id}").events
        contents = {event["type"]: event["content"] for event in state if not event["state_key"]}
        levels = contents.get("m.room.power_levels", {})
        members = {
            event["state_key"]: {
                "membership": event["content"]["membership"],
                "display_name": event["content"].get("displayname") or "",
                "power_level": levels.get("users", {}).get(
                    event["state_key"], levels.get("users_default", 0)
                ),
            }
            for event in state
            if event["type"] == "m.room.member"
        }
        shown: JsonObject = {
            "room_id": room.room_id,
            "name": room.name or "",
            "topic": room.topic or "",
            "encrypted": room.encrypted,
            "version": room.room_version,
            "history_visibility": room.history_visibility,
            "members": members,
        }
        if "m.room.tombstone" in contents:
            shown["successor"] = contents["m.room.tombstone"].get("replacement_room", "")
        return {"response": "got_room", "room": shown}

    @action()
    async def invite_user(self, user_id: UserId) -> None:
        """Invite a user to the open room; returns when a sync has shown the invite."""
        other, room = full_id(user_id), self._open_room
        answer = await self._logged_in.client.room_invite(room.room_id, other)
        checked(answer, f"invite of {other}")
        await self._see_member(other)

    @action()
    async def get_invites(self) -> JsonObject:
        """Return the invites that wait for an answer, oldest first."""
        rooms = self._logged_in.client.invited_rooms.values()
        invites = [
            {"room_id": room.room_id, "inviter": room.inviter, "name": room.name or ""} for room in rooms
        ]
        return {"response": "got_invites", "invites": invites}

    @action()
    async def accept_invite(self, room_id: str | None = None) -> None:
        """Wait for an invite, join the room and open it; returns when a sync has shown the join."""
        invited = await self._invited(room_id)
        checked(await self._logged_in.client.join(invited), f"join of {invited}")
        await self._enter_room(invited)

    @action()
    async def decline_invite(self, room_id: str | None = None) -> None:
        """Decline an invite; returns when the homeserver has acknowledged it."""
        invited = await self._invited(room_id)
        checked(await self._logged_in.client.room_leave(invited), f"decline of {invited}")

    @action()
    async def leave_room(self) -> None:
        """Leave the open room; returns when the homeserver has acknowledged it."""
        room = self._open_room
        checked(await self._logged_in.client.room_leave(room.room_id), f"leave {room.room_id}")
        self._room_id = None

    @action()
    async def kick_user(self, user_id: UserId, reason: str | None = None) -> None:
        """Remove a member from the open room; returns when a sync has shown it."""
        client, room, other = self._logged_in.client, self._open_room, full_id(user_id)
        checked(await client.room_kick(room.room_id, other, reason), f"kick of {other}")
        await self._see_gone(other)

    @action()
    async def ban_user(self, user_id: UserId, reason: str | None = None) -> None:
        """Ban a user from the open room; returns when a sync has shown it."""
        client, room, other = self._logged_in.client, self._open_room, full_id(user_id)
        checked(await client.room_ban(room.room_id, other, reason), f"ban of {other}")
        await self._see_gone(other)

    @action()
    async def set_power_level(self, user_id: UserId, level: int) -> None:
        """Set a member's power level; returns when a sync has shown it."""
        device, room, other = self._logged_in, self._open_room, full_id(user_id)
        kind = "m.room.power_levels"
        before = checked(await device.client.room_get_state_event(room.room_id, kind), kind).content
        content = {**before, "users": {**before.get("users", {}), other: level}}
        checked(await device.client.room_put_state(room.room_id, kind, content), kind)
        await device.until(
            lambda: True if room.power_levels.users.get(other) == level else None,
            f"power level {level} for {other}",
            lambda: f"the levels are {room.power_levels.users}",
        )

    @action()
    async def upgrade_room(self, version: str) -> None:
        """Replace the open room by one of another version; returns when its tombstone can be read."""
        path = f"/_matrix/client/v3/rooms/{quote(self._open_room.room_id)}/upgrade"
        await self._request("POST", path, {"new_version": version})

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

    async def _invited(self, room_id: str | None) -> str:
        """Wait for an invite: to a room, or the newest."""
        device = self._logged_in
        invited = device.client.invited_rooms

        def see() -> str | None:
            return next((one for one in reversed(invited) if room_id in (None, one)), None)

        what = "an invite" if room_id is None else f"an invite to {room_id}"
        return await device.until(see, what, lambda: f"{len(device.client.rooms)} rooms are joined")

    async def _create(self, name: str | None = None, *, encrypted: bool = True, **options: Any) -> None:
        answer = await self._logged_in.client.room_create(
            visibility=RoomVisibility.private,
            initial_state=[EnableEncryptionBuilder().as_dict()] if encrypted else [],
            name=name,
            **options,
        )
        await self._enter_room(checked(answer, "creation of a room").room_id)
        room = self._open_room
        # A sync may show a room before its complete initial state.
        await self._logged_in.until(
            lambda: True if room.encrypted == encrypted and (name is None or room.name == name) else None,
            "the new room to have its name and encryption",
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

    async def _see_gone(self, user_id: str) -> None:
        room = self._open_room
        await self._logged_in.until(
            lambda: None if user_id in room.users else True,
            f"{user_id} out of the room",
            lambda: f"there are {list(room.users)}",
        )

    async def _mark_direct(self, user_id: str, room_id: str) -> None:
        path = f"/_matrix/client/v3/user/{quote(self._logged_in.client.user_id)}/account_data/m.direct"
        direct: dict[str, list[str]] = await self._request("GET", path, missing={})
        direct.setdefault(user_id, []).append(room_id)
        await self._request("PUT", path, direct)
