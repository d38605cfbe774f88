"""The actions of the nio adapter on its account and devices, and what all of its actions use."""

import asyncio
import json
import shutil
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from nio import MatrixRoom  # type: ignore[import-untyped,unused-ignore]
from pydantic import Field
from typing_extensions import TypedDict

from trafficlight.adapters.nio.device import Device, checked
from trafficlight.adapters.nio.identity import Identity, signed
from trafficlight.adapters.nio.timeline import Timeline
from trafficlight.adapters.sdk import (
    ActionFailed,
    Adapter,
    JsonObject,
    UnsupportedActionError,
    action,
)

_LONGEST_WAIT = 30.0
_LONGEST_ACTION = 40.0
QUERY = "/_matrix/client/v3/keys/query"

UserId = Annotated[str, Field(alias="userId")]


class HomeserverUrl(TypedDict):
    """The base URLs of the client-server API; an adapter on this machine uses `local`."""

    local: str


class Account(Adapter):
    """A device of one user in matrix-nio."""

    type = "nio"
    version = version("matrix-nio")

    def __init__(self) -> None:
        self._device: Device | None = None
        self._account = ("", "")
        self._room_id: str | None = None

    async def open(self) -> None:
        """Continue the login that the storage holds, if it holds one; returns after a full sync."""
        if not self._login.exists():
            return
        kept = json.loads(self._login.read_text())
        self._account = (kept["username"], kept["password"])
        self._device = device = self._new_device(kept["homeserver"])
        device.client.restore_login(*kept["login"])
        await device.start()
        if kept["room_id"] is not None:
            await self._show(kept["room_id"])

    async def close(self) -> None:
        """Stop syncing."""
        if self._device is not None:
            await self._device.stop()

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
        """Create an account, log in, and create a cross-signing identity; returns after the first sync."""
        await self._enter(username, password, homeserver_url["local"], create=True)

    @action()
    async def login(
        self,
        username: str,
        password: str,
        homeserver_url: HomeserverUrl,
        key_backup_passphrase: str | None = None,
    ) -> None:
        """Log in as a new device; returns after the first sync.

        The device stays unsigned, unless the account has no identity: then it gets one.
        """
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
    async def set_display_name(self, name: str) -> None:
        """Set the display name; returns when the homeserver has acknowledged it."""
        checked(await self._logged_in.client.set_displayname(name), "display name")

    @action()
    async def get_devices(self) -> JsonObject:
        """Return the account's devices."""
        known = self._logged_in.identities
        await self._logged_in.know([self._logged_in.client.user_id])
        listed = checked(await self._logged_in.client.devices(), "devices").devices
        devices = [
            {
                "device_id": one.id,
                "display_name": one.display_name or "",
                "verified": known.is_verified(one.id),
            }
            for one in listed
        ]
        return {"response": "got_devices", "devices": devices}

    @action()
    async def log_out_device(self, device_id: str) -> None:
        """Log another device out; returns when the homeserver has removed it."""
        client = self._logged_in.client
        checked(await client.delete_devices([device_id], self._password), f"removal of {device_id}")

    @action()
    async def get_trust(self, user_id: UserId) -> JsonObject:
        """Return what the device knows about a user's identity, as the homeserver has it."""
        device, other = self._logged_in, full_id(user_id)
        await device.know([other])
        return {"response": "got_trust", "trust": device.identities.trust(other)}

    @action()
    async def reset_identity(self) -> None:
        """Create and upload another cross-signing identity, and sign this device with it."""
        await self._new_identity()

    @action()
    async def block_device(self, user_id: UserId, device_id: str) -> None:
        """Block a device; it gets no keys any more."""
        client = self._logged_in.client
        device = client.device_store[full_id(user_id)].get(device_id)
        if device is None:
            raise ActionFailed(f"{user_id} has no device {device_id}")
        client.blacklist_device(device)
        # The next message has a key that the device does not get.
        client.invalidate_outbound_session(self._open_room.room_id)

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

    @property
    def _open_room(self) -> MatrixRoom:
        room = None if self._room_id is None else self._logged_in.joined(self._room_id)
        if room is None:
            raise ActionFailed("no room is open")
        return room

    @property
    def _timeline(self) -> Timeline:
        return self._logged_in.timeline(self._open_room.room_id)

    def _new_device(self, homeserver: str) -> Device:
        return Device(homeserver, self._keys, self._wait, self._take_event)

    async def _take_event(self, event: JsonObject, room_id: str | None) -> None:
        """Take an event of a sync, of a room or for the device."""

    async def _enter(self, username: str, password: str, homeserver: str, *, create: bool) -> None:
        await self._forget()
        self._keys.mkdir()
        self._account = (username, password)
        self._device = device = self._new_device(homeserver.rstrip("/"))
        await (device.register if create else device.login)(username, password)
        self._keep()
        await device.start()
        if device.identities.trust(device.client.user_id) == "unknown":
            await self._new_identity()

    async def _new_identity(self) -> None:
        device = self._logged_in
        own, device_id = device.client.user_id, device.client.device_id
        identity = Identity(own)
        keys = {**identity.public_keys(), "auth": self._password}
        await self._request("POST", "/_matrix/client/v3/keys/device_signing/upload", keys)
        device.identities.own = identity
        await self._sign_device(device_id)

    async def _sign_device(self, device_id: str) -> None:
        """Sign a device of the account with the own identity, which is there."""
        own, identity = self._logged_in.client.user_id, self._logged_in.identities.own
        assert identity is not None
        known = await self._request("POST", QUERY, {"device_keys": {own: [device_id]}})
        device_keys = known["device_keys"][own][device_id]
        await self._upload_signature(own, device_id, signed(device_keys, own, identity.self_signing))

    async def _upload_signature(self, user_id: str, key_id: str, value: JsonObject) -> None:
        """Upload a device or an identity, with a signature, and learn what it changes."""
        signatures = {user_id: {key_id: value}}
        answer = await self._request("POST", "/_matrix/client/v3/keys/signatures/upload", signatures)
        if answer.get("failures"):
            raise ActionFailed(f"signature of {key_id}: the homeserver answered {answer['failures']}")
        await self._logged_in.know([user_id])

    async def _show(self, room_id: str) -> None:
        self._room_id = room_id
        self._keep()
        await self._logged_in.fill(room_id)

    async def _forget(self) -> None:
        device, self._device = self._device, None
        self._room_id = None
        if device is not None:
            await device.stop()
        self._login.unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, self._keys, ignore_errors=True)

    def _keep(self) -> None:
        """Store the login and the open room, for a process that is started again."""
        device, (username, password) = self._logged_in, self._account
        client = device.client
        kept = {
            "username": username,
            "password": password,
            "homeserver": device.homeserver,
            "login": [client.user_id, client.device_id, client.access_token],
            "room_id": self._room_id,
        }
        self._login.write_text(json.dumps(kept))

    @property
    def _password(self) -> JsonObject:
        """The user-interactive authentication with the password."""
        identifier = {"type": "m.id.user", "user": self._logged_in.client.user_id}
        return {"type": "m.login.password", "identifier": identifier, "password": self._account[1]}

    @property
    def _keys(self) -> Path:
        return self.context.storage / "keys"

    @property
    def _login(self) -> Path:
        return self.context.storage / "login.json"

    async def _request(
        self, method: str, path: str, body: JsonObject | None = None, *, missing: Any = None
    ) -> Any:
        """Make a request that nio has no method for, and return the answer; `missing` where there is none."""
        client = self._logged_in.client
        headers = {"Authorization": f"Bearer {client.access_token}"}
        answer = await client.send(method, path, None if body is None else json.dumps(body), headers)
        if answer.status == 404 and missing is not None:
            return missing
        if answer.status != 200:
            raise ActionFailed(f"{path}: the homeserver answered {answer.status}: {await answer.text()}")
        return await answer.json()


def full_id(user_id: str) -> str:
    """Return a user id with its leading @, which the wire may leave out."""
    return user_id if user_id.startswith("@") else f"@{user_id}"
