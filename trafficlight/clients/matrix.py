"""A Matrix chat client, as a test sees it."""

import asyncio
import secrets
import time
from typing import Annotated

from trafficlight import text
from trafficlight.clients.action import Wire, action
from trafficlight.clients.base import CaseBackend, Client, ClientApi
from trafficlight.clients.home_server import register_account
from trafficlight.clients.matrix_answers import (
    DeviceInfo,
    HistoryVisibility,
    HomeserverUrl,
    Invite,
    MediaFile,
    RoomState,
    TimelineEvent,
    Trust,
    VerificationState,
)
from trafficlight.errors import ActionError, AdapterError
from trafficlight.protocol import JsonObject

# Seconds between two looks at a timeline.
_BETWEEN_LOOKS = 0.25
# Android's emulator reaches its host machine under this address.
_ANDROID_HOST = "10.0.2.2"
# Their screens have no registration that an adapter could drive.
_REGISTERS_OVER_API = frozenset({"element-android", "element-ios"})


def homeserver_url(cs_api: str) -> HomeserverUrl:
    """Return the URL in the form that adapters are sent."""
    in_docker = cs_api.replace("localhost", _ANDROID_HOST).replace("127.0.0.1", _ANDROID_HOST)
    return HomeserverUrl(local=cs_api, local_docker=in_docker)


class MatrixClient(Client):
    """A Matrix client under test. Every method returns only when what it names is true in that client.

    `localpart` and `password` are made up when the case starts, unique to it; a test may set them before it
    calls :meth:`register` or :meth:`login`, for instance to log two devices of one user in.

    :ivar localpart: the user's name without server.
    :ivar password: the user's password.
    :ivar homeserver: what the client was last registered with or logged in to.
    """

    def __init__(self, name: str, registration: JsonObject, link: CaseBackend) -> None:
        super().__init__(name, registration, link)
        self.localpart = f"user-{name.lower()}-{secrets.token_hex(5)}"
        self.password = secrets.token_urlsafe(16)
        self.homeserver: ClientApi | None = None

    @property
    def user_id(self) -> str:
        """The full user id, once the homeserver is known. Homeservers register names in lower case.

        :raises RuntimeError: neither :meth:`register` nor :meth:`login` was called.
        """
        if self.homeserver is None:
            raise RuntimeError(f"{self.name} has no user id before register() or login()")
        return f"@{self.localpart.lower()}:{self.homeserver.server_name}"

    async def register(self, homeserver: ClientApi) -> None:
        """Create the account and be logged in with it.

        :param homeserver: a homeserver, or a network proxy in front of one.
        """
        self.homeserver = homeserver
        if self.registration.get("type") in _REGISTERS_OVER_API:
            await register_account(homeserver.cs_api, self.localpart, self.password)
            await self._login(self.localpart, self.password, await self._url_for(homeserver))
        else:
            await self._register(self.localpart, self.password, await self._url_for(homeserver))

    async def login(self, homeserver: ClientApi, key_backup_passphrase: str | None = None) -> None:
        """Log in to an account that exists.

        :param homeserver: a homeserver, or a network proxy in front of one.
        :param key_backup_passphrase: opens the account's key backup, if it has one.
        """
        self.homeserver = homeserver
        url = await self._url_for(homeserver)
        await self._login(self.localpart, self.password, url, key_backup_passphrase)

    async def _url_for(self, homeserver: ClientApi) -> HomeserverUrl:
        return homeserver_url(await self._network.url_for(homeserver.cs_api))

    @action("register")
    async def _register(self, username: str, password: str, homeserver_url: HomeserverUrl) -> None:
        """Create an account and be logged in with it. Returns only after the first sync, with the device keys
        uploaded and, if the client can, a cross-signing identity that has signed this device.

        An upload that fails is repeated by the client, and does not fail the action.

        `homeserver_url.local` is the homeserver as programs on the coordinator's machine reach it, and
        `homeserver_url.local_docker` as Android's emulator there does: with `10.0.2.2` as the host.
        """

    @action("login")
    async def _login(
        self,
        username: str,
        password: str,
        homeserver_url: HomeserverUrl,
        key_backup_passphrase: str | None = None,
    ) -> None:
        """Log in to an account that exists. Returns only after the first sync, with the device keys uploaded,
        and the key backup restored if a passphrase is given.

        With the password only, the account's identity does not sign the device. An account without an
        identity may get one.

        `homeserver_url` has two addresses of one homeserver, as in `register`.
        """

    @action()
    async def logout(self) -> None:
        """Log out. Returns only after the homeserver dropped the access token."""

    @action()
    async def create_room(
        self,
        name: str,
        topic: str | None = None,
        encrypted: bool | None = None,
        room_version: str | None = None,
    ) -> None:
        """Create a private room and open it. Returns only when the room is there to be written in.

        Private is: preset `private_chat`, not in the room directory, joined by invite only. The room is
        encrypted unless `encrypted` is false. The version is the homeserver's default unless one is given.
        """

    @action()
    async def create_dm(self, user_id: Annotated[str, Wire("userId")]) -> None:
        """Create a direct chat with a user and open it. Returns only when the invite is sent.

        The room is private, encrypted, and marked as direct (preset `trusted_private_chat`).
        `userId` comes with or without the leading `@`.
        """

    @action()
    async def open_room(self, name: str) -> None:
        """Wait for a joined room of a name, and open it: of several, the one joined last. Returns only when
        its timeline is shown."""

    @action()
    async def invite_user(self, user_id: Annotated[str, Wire("userId")]) -> None:
        """Invite a user to the open room. Returns only after the homeserver accepted the invite.

        `userId` comes with or without the leading `@`.
        """

    @action()
    async def accept_invite(self, room_id: str | None = None) -> None:
        """Wait for an invite and join its room, which is open then. Returns only after this client sees the
        join.

        Without `room_id`, and if several invites are waiting, the newest is accepted.
        """

    @action()
    async def decline_invite(self, room_id: str | None = None) -> None:
        """Wait for an invite and decline it; the latest without `room_id`. Returns only after the homeserver
        accepted that."""

    @action(answer_in="invites")
    async def get_invites(self) -> list[Invite]:
        """Return the invites that wait for an answer, oldest first."""
        raise NotImplementedError

    @action()
    async def leave_room(self) -> None:
        """Leave the open room; no room is open then. Returns only after the homeserver accepted that."""

    @action()
    async def kick_user(self, user_id: Annotated[str, Wire("userId")], reason: str | None = None) -> None:
        """Remove a member from the open room. Returns only after this client sees that they left."""

    @action()
    async def ban_user(self, user_id: Annotated[str, Wire("userId")], reason: str | None = None) -> None:
        """Ban a user from the open room. Returns only after this client sees the ban."""

    @action()
    async def set_power_level(self, user_id: Annotated[str, Wire("userId")], level: int) -> None:
        """Set a member's power level in the open room. Returns only after this client sees it."""

    @action()
    async def upgrade_room(self, version: str) -> None:
        """Replace the open room by one of another version. Returns only when this client sees the tombstone;
        the old room stays open."""

    @action()
    async def set_display_name(self, name: str) -> None:
        """Set one's own display name. Returns only after the homeserver accepted it."""

    @action(answer_in="room")
    async def get_room(self) -> RoomState:
        """Return the open room's state."""
        raise NotImplementedError

    @action()
    async def change_room_history_visibility(
        self, history_visibility: Annotated[HistoryVisibility, Wire("historyVisibility")]
    ) -> None:
        """Set who can read the open room's history. Returns only after the homeserver accepted it."""

    @action()
    async def send_message(self, message: str) -> None:
        """Send a text to the open room. Returns only after the homeserver acknowledged it."""

    @action()
    async def edit_message(self, event_id: str, message: str) -> None:
        """Replace the text of one's own message. Returns only after the homeserver acknowledged it."""

    @action()
    async def send_reaction(self, event_id: str, key: str) -> None:
        """React to an event with a key, usually one emoji. Returns only after the homeserver acknowledged
        it."""

    @action()
    async def redact_event(self, event_id: str, reason: str | None = None) -> None:
        """Redact an event of the open room. Returns only after the homeserver acknowledged it."""

    @action()
    async def send_reply(self, event_id: str, message: str) -> None:
        """Reply to an event. Returns only after the homeserver acknowledged it."""

    @action()
    async def send_in_thread(self, event_id: str, message: str) -> None:
        """Send a text to the thread that an event starts. Returns only after the homeserver acknowledged
        it."""

    @action()
    async def send_read_receipt(self, event_id: str) -> None:
        """Mark the open room as read up to an event. Returns only after the homeserver acknowledged it."""

    @action()
    async def set_typing(self, typing: bool) -> None:
        """Start or stop to be shown as typing in the open room. Returns only after the homeserver
        acknowledged it."""

    @action(answer_in="users")
    async def get_typing(self) -> list[str]:
        """Return the ids of the other users who are typing in the open room."""
        raise NotImplementedError

    @action()
    async def send_file(self, name: str, content_type: str, content: str) -> None:
        """Send a file to the open room, encrypted where the room is. Returns only after the homeserver
        acknowledged it.

        `content` is the bytes in base64; a content type that begins with `image/` is sent as an image.
        """

    @action(answer_in="file")
    async def get_file(self, event_id: str) -> MediaFile:
        """Download and decrypt the file of an event. Fails if it cannot."""
        raise NotImplementedError

    @action(answer_in="more")
    async def load_earlier(self) -> bool:
        """Load an earlier part of the open room's history; returns whether there is more."""
        raise NotImplementedError

    async def find_message(self, message: str) -> TimelineEvent:
        """Wait for a text in the open room's timeline and return its event; of several, the latest.

        :raises ActionError: it does not come.
        :raises AdapterError: the adapter sends no event ids.
        """
        await self.verify_message_in_timeline(message)
        found = [entry for entry in await self.get_timeline() if entry["message"] == message]
        if not found or "event_id" not in found[-1]:
            raise AdapterError(
                f"the timeline has no event id for {message!r}", role=self.name, action="get_timeline"
            )
        return found[-1]

    async def find_messages(self, message: str, count: int, timeout: float = 10.0) -> list[TimelineEvent]:
        """Wait until the open room's timeline shows a text exactly so many times and return its events,
        oldest first.

        :param count: how many; 0 if it must not be there.
        :param timeout: seconds; a text that comes too often fails at once.
        :raises ActionError: it is shown another number of times.
        """
        end = time.monotonic() + timeout
        while True:
            found = [entry for entry in await self.get_timeline() if entry["message"] == message]
            if len(found) == count:
                return found
            if len(found) > count or time.monotonic() >= end:
                shown = f"the timeline shows {message!r} {text.count(len(found), 'time')}, not {count}"
                raise ActionError(shown, role=self.name, action="get_timeline")
            await asyncio.sleep(_BETWEEN_LOOKS)

    @action()
    async def verify_message_in_timeline(self, message: str) -> None:
        """Check that the open room shows a message with this text: the whole text, decrypted.

        Waits for it, for up to 30 seconds, and looks in the history as well. Fails when it does not come, and
        when it came unencrypted to an encrypted room.
        """

    @action()
    async def verify_last_message_is_utd(self) -> None:
        """Check that the last message of the open room cannot be decrypted. Waits for that, for up to 30
        seconds."""

    @action()
    async def verify_last_message_is_trusted(self) -> None:
        """Check that the last message of the open room is shown without any warning about its sender. Waits
        for that, for up to 30 seconds."""

    @action(answer_in="timeline")
    async def get_timeline(self) -> list[TimelineEvent]:
        """Return the messages that the open room shows, oldest first. Waits for nothing, and loads no earlier
        history."""
        raise NotImplementedError

    @action()
    async def start_crosssign(self, user_id: Annotated[str | None, Wire("userId")] = None) -> None:
        """Ask for a verification by emoji: another user's, or one's own other device when there is no
        `userId`. Returns only after the request is sent."""

    @action()
    async def accept_crosssign(self) -> None:
        """Wait for a verification request and accept it. Returns only when the emoji can be compared."""

    @action("verify_crosssign_emoji")
    async def verify_crosssign(self) -> None:
        """Confirm that the emoji match. Returns only when the verification is done."""

    @action(answer_in="emoji")
    async def get_emoji(self) -> list[str]:
        """Return the seven emoji that the verification shows, in their order and without variation
        selectors. Waits for them."""
        raise NotImplementedError

    @action()
    async def reject_emoji(self) -> None:
        """Say that the emoji do not match. Returns only when the verification is cancelled."""

    @action()
    async def cancel_verification(self) -> None:
        """Cancel the verification. Returns only when it is cancelled."""

    @action(answer_in="qr_code")
    async def show_qr_code(self) -> str:
        """Accept a verification request, and return the bytes of the QR code that is shown then, in base64.
        Waits for the request."""
        raise NotImplementedError

    @action()
    async def scan_qr_code(self, qr_code: str) -> None:
        """Scan the QR code that the other side shows: its bytes in base64. Fails if it is not what the other
        side must show. Returns only after the scan is sent to the other side."""

    @action()
    async def confirm_qr_code(self) -> None:
        """Confirm that the other side has scanned the QR code. Waits for the scan; returns only when the
        verification is done."""

    @action(answer_in="verification")
    async def get_verification(self) -> VerificationState:
        """Return the state of the latest verification."""
        raise NotImplementedError

    @action(answer_in="trust")
    async def get_trust(self, user_id: Annotated[str, Wire("userId")]) -> Trust:
        """Return what the client shows about a user: `verified` by cross-signing; `unverified`, with an
        identity that was not verified; `changed`, with another identity than the one first seen or verified;
        `unknown`, without an identity."""
        raise NotImplementedError

    @action()
    async def reset_identity(self) -> None:
        """Replace one's own cross-signing identity. Returns only when the new one is uploaded and this
        device is signed by it."""

    @action(answer_in="devices")
    async def get_devices(self) -> list[DeviceInfo]:
        """Return the devices of one's own account."""
        raise NotImplementedError

    @action()
    async def log_out_device(self, device_id: str) -> None:
        """Log another device of one's own account out. Returns only after the homeserver removed it."""

    @action()
    async def block_device(self, user_id: Annotated[str, Wire("userId")], device_id: str) -> None:
        """Block a device: it gets no keys any more. Returns only when that holds for the next message."""

    @action()
    async def exclude_insecure_devices(self) -> None:
        """From now on, give no room keys to devices that their owner's identity did not sign (MSC4153).
        Returns only when that holds for the next message: the current room keys are discarded."""

    @action()
    async def verify_trusted_device(self) -> None:
        """Check that the other party's device is shown as verified."""

    @action()
    async def enable_key_backup(self, passphrase: Annotated[str, Wire("key_backup_passphrase")]) -> None:
        """Set up key backup with a passphrase. Returns only when it is active and has the room keys that the
        client has."""

    @action(answer_in="recovery_key")
    async def create_key_backup(self) -> str:
        """Set up key backup and secret storage, and return the recovery key. Returns only when the backup is
        active and has the room keys that the client has; an earlier backup is replaced."""
        raise NotImplementedError

    @action()
    async def restore_key_backup(self, recovery_key: str) -> None:
        """Restore the room keys with a recovery key. Fails if the key is not the right one."""

    @action()
    async def delete_key_backup(self) -> None:
        """Delete the key backup. Returns only after the homeserver removed it."""

    @action()
    async def enable_dehydrated_device(
        self, passphrase: Annotated[str, Wire("key_backup_passphrase")]
    ) -> None:
        """Set up a dehydrated device (MSC3814) with a passphrase. Returns only when it is uploaded."""

    @action()
    async def reload(self) -> None:
        """Start the client again with what it stored, as `restart` does; a page is loaded again. Returns only
        when it is usable again, and logged in. The room may be closed then."""

    @action()
    async def clear_idb_storage(self) -> None:
        """Delete what the client stored, as a browser that evicts it would. Returns only when it is gone."""

    @action()
    async def advance_clock(self, milliseconds: int) -> None:
        """Move the client's own clock forward."""
