"""A Matrix chat client, as a test sees it."""

import secrets
from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

from trafficlight.clients.action import Wire, action
from trafficlight.clients.base import CaseBackend, Client, ClientApi
from trafficlight.clients.home_server import register_account
from trafficlight.protocol import JsonObject

HistoryVisibility = Literal["shared", "invited", "joined", "world_readable"]

# Android's emulator reaches its host machine under this address.
_ANDROID_HOST = "10.0.2.2"
# Their screens have no registration that an adapter could drive.
_REGISTERS_OVER_API = frozenset({"element-android", "element-ios"})


class HomeserverUrl(TypedDict):
    """The base URL of the client-server API, as seen from two places."""

    local: str
    local_docker: str


class TimelineEvent(TypedDict):
    """One message of a timeline, as the client shows it."""

    user: str
    message: str
    e2e_issues: NotRequired[Any]


def homeserver_url(cs_api: str) -> HomeserverUrl:
    """Return the URL in the form that adapters are sent."""
    in_docker = cs_api.replace("localhost", _ANDROID_HOST).replace("127.0.0.1", _ANDROID_HOST)
    return HomeserverUrl(local=cs_api, local_docker=in_docker)


class MatrixClient(Client):
    """A Matrix client under test. Every method returns only when what it names is true in that client.

    `localpart` and `password` are made up when the case starts, unique to it; a test may set them before it
    calls
    :meth:`register` or :meth:`login`, for instance to log two devices of one user in.

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
        """The full user id, once the homeserver is known.

        :raises RuntimeError: neither :meth:`register` nor :meth:`login` was called.
        """
        if self.homeserver is None:
            raise RuntimeError(f"{self.name} has no user id before register() or login()")
        return f"@{self.localpart}:{self.homeserver.server_name}"

    async def register(self, homeserver: ClientApi) -> None:
        """Create the account and be logged in with it.

        :param homeserver: a homeserver, or a network proxy in front of one.
        """
        self.homeserver = homeserver
        if self.registration.get("type") in _REGISTERS_OVER_API:
            await register_account(homeserver.cs_api, self.localpart, self.password)
            await self._login(self.localpart, self.password, homeserver_url(homeserver.cs_api))
        else:
            await self._register(self.localpart, self.password, homeserver_url(homeserver.cs_api))

    async def login(self, homeserver: ClientApi, key_backup_passphrase: str | None = None) -> None:
        """Log in to an account that exists.

        :param homeserver: a homeserver, or a network proxy in front of one.
        :param key_backup_passphrase: opens the account's key backup, if it has one.
        """
        self.homeserver = homeserver
        url = homeserver_url(homeserver.cs_api)
        await self._login(self.localpart, self.password, url, key_backup_passphrase)

    @action("register")
    async def _register(self, username: str, password: str, homeserver_url: HomeserverUrl) -> None:
        """Create an account and be logged in with it. Returns only after the first sync.

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
        """Log in to an account that exists. Returns only after the first sync, with the key backup restored
        if a passphrase is given.

        `homeserver_url` has two addresses of one homeserver, as in `register`.
        """

    @action()
    async def logout(self) -> None:
        """Log out. Returns only after the homeserver dropped the access token."""

    @action()
    async def create_room(self, name: str, topic: str | None = None) -> None:
        """Create an encrypted room and open it. Returns only when the room is there to be written in.

        The room is private: preset `private_chat`, not in the room directory, joined by invite only.
        """

    @action()
    async def create_dm(self, user_id: Annotated[str, Wire("userId")]) -> None:
        """Create a direct chat with a user and open it. Returns only when the invite is sent.

        The room is private, encrypted, and marked as direct (preset `trusted_private_chat`).
        `userId` comes with or without the leading `@`.
        """

    @action()
    async def open_room(self, name: str) -> None:
        """Open the room of a name. Returns only when its timeline is shown."""

    @action()
    async def invite_user(self, user_id: Annotated[str, Wire("userId")]) -> None:
        """Invite a user to the open room. Returns only after the homeserver accepted the invite.

        `userId` comes with or without the leading `@`.
        """

    @action()
    async def accept_invite(self) -> None:
        """Wait for an invite and join its room, which is open then. Returns only after the join is seen.

        If several invites are waiting, the newest is accepted.
        """

    @action()
    async def change_room_history_visibility(
        self, history_visibility: Annotated[HistoryVisibility, Wire("historyVisibility")]
    ) -> None:
        """Set who can read the open room's history. Returns only after the homeserver accepted it."""

    @action()
    async def send_message(self, message: str) -> None:
        """Send a text to the open room. Returns only after the homeserver acknowledged it."""

    @action()
    async def verify_message_in_timeline(self, message: str) -> None:
        """Check that the open room shows a text, decrypted. Waits for it; fails when it does not come."""

    @action()
    async def verify_last_message_is_utd(self) -> None:
        """Check that the last message of the open room cannot be decrypted."""

    @action()
    async def verify_last_message_is_trusted(self) -> None:
        """Check that the last message of the open room is shown without any warning about its sender."""

    @action(answer_in="timeline")
    async def get_timeline(self) -> list[TimelineEvent]:
        """Return the messages that the open room shows, oldest first."""
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

    @action()
    async def verify_trusted_device(self) -> None:
        """Check that the other party's device is shown as verified."""

    @action()
    async def enable_key_backup(self, passphrase: Annotated[str, Wire("key_backup_passphrase")]) -> None:
        """Set up key backup with a passphrase. Returns only when it is active."""

    @action()
    async def enable_dehydrated_device(
        self, passphrase: Annotated[str, Wire("key_backup_passphrase")]
    ) -> None:
        """Set up a dehydrated device (MSC3814) with a passphrase. Returns only when it is uploaded."""

    @action()
    async def reload(self) -> None:
        """Restart the client with its storage (a page: reload). Returns only when it is usable again."""

    @action()
    async def clear_idb_storage(self) -> None:
        """Delete what the client stored, as a browser that evicts it would. Returns only when it is gone."""

    @action()
    async def advance_clock(self, milliseconds: int) -> None:
        """Move the client's own clock forward."""
