"""One logged-in device: nio's client, its store, and its background sync."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from nio import (  # type: ignore[import-untyped,unused-ignore]
    AsyncClient,
    AsyncClientConfig,
    ErrorResponse,
    ForwardedRoomKeyEvent,
    KeysQueryResponse,
    MatrixRoom,
    RoomKeyEvent,
    SyncError,
    SyncResponse,
)
from nio.store import SqliteStore  # type: ignore[import-untyped,unused-ignore]

from trafficlight.adapters.nio.identity import Identities
from trafficlight.adapters.nio.timeline import Timeline
from trafficlight.adapters.sdk import ActionFailed

logger = logging.getLogger(__name__)

T = TypeVar("T")
OnEvent: TypeAlias = Callable[[dict[str, Any], str | None], Awaitable[None]]

_SYNC_HOLD_MS = 20_000
_REQUEST_TIMEOUT = 20
# More messages than a test checks, in one sync.
_TIMELINE_LIMIT = 250
_PAGE = 100
_MOST_PAGES = 10
_SESSION_ENDED = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED"})


def checked(response: T, what: str) -> T:
    """Return a homeserver's response.

    :param what: the request, for the message.
    :raises ActionFailed: the response is an error.
    """
    if isinstance(response, ErrorResponse):
        code = response.status_code or response.transport_response.status
        raise ActionFailed(f"{what}: the homeserver answered {code}: {response.message}")
    return response


class Device:
    """A device of one user on one homeserver, which syncs in the background between start and stop.

    :param homeserver: the base URL of the client-server API.
    :param store: an existing directory for the keys, owned by the caller.
    :param timeout: the time limit of each wait, in seconds.
    :param on_event: called with each event of all syncs but the first, once it can be read, and with its
        room, or None if it is for the device.
    """

    def __init__(self, homeserver: str, store: Path, timeout: float, on_event: OnEvent | None = None) -> None:
        self.homeserver = homeserver
        self.timelines: dict[str, Timeline] = {}
        self.client = self._client(homeserver, store)
        self.identities = Identities("")
        self._kept = store / "identities.json"
        self._store = store
        self._timeout = timeout
        self._filter: dict[str, Any] = {
            "presence": {"not_types": ["*"]},
            "room": {"timeline": {"limit": _TIMELINE_LIMIT}},
        }
        self._changed = asyncio.Condition()
        # Key queries and shares must not interleave with those of a sync.
        self._keys = asyncio.Lock()
        self._syncing: asyncio.Task[None] | None = None
        self._broken: str | None = None
        self._on_event = on_event

    async def register(self, username: str, password: str) -> None:
        """Create the account and log in."""
        checked(await self.client.register(username, password, "trafficlight"), f"register {username}")

    async def login(self, username: str, password: str) -> None:
        """Log in to an existing account, as a new device."""
        self.client.user = username
        checked(await self.client.login(password, "trafficlight"), f"login {username}")

    def restored(self) -> "Device":
        """Return the same device as after a restart of its program, with only its store."""
        again = Device(self.homeserver, self._store, self._timeout, self._on_event)
        again.client.restore_login(self.client.user_id, self.client.device_id or "", self.client.access_token)
        return again

    async def start(self) -> None:
        """Upload the device's keys, sync once, and keep syncing in the background."""
        kept = json.loads(self._kept.read_text()) if self._kept.exists() else None
        self.identities = Identities(self.client.user_id, kept)
        # nio would answer by itself, and wrongly.
        self.client.olm.handle_key_verification = lambda _: None
        if self.client.should_upload_keys:
            checked(await self.client.keys_upload(), "upload of the device's keys")
        first = await self.client.sync(timeout=0, sync_filter=self._filter, full_state=True)
        await self._take(checked(first, "first sync"))
        # An identity or a device may have changed while the device was not running.
        encrypted = [room for room in self.client.rooms.values() if room.encrypted]
        await self.know({self.client.user_id, *(user for room in encrypted for user in room.users)})
        self._syncing = asyncio.create_task(self._sync(), name=f"sync of {self.client.user_id}")

    async def stop(self) -> None:
        """Stop syncing and close everything except the store. Idempotent."""
        task, self._syncing = self._syncing, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.client.close()
        if self.client.store is not None:
            self.client.store.database.close()

    async def until(self, see: Callable[[], T | None], expected: str, seen: Callable[[], str]) -> T:
        """Wait until a condition holds, checked after each sync, and return its value.

        :param see: returns the value, or None while the condition does not hold; raises ActionFailed if it
            never will.
        :param expected: describes the condition.
        :param seen: describes the state at the time limit.
        :raises ActionFailed: the wait timed out.
        """
        try:
            async with asyncio.timeout(self._timeout), self._changed:
                while (found := see()) is None:
                    if self._broken is not None:
                        raise ActionFailed(f"expected {expected}, but syncing ended: {self._broken}")
                    await self._changed.wait()
                return found
        except TimeoutError:
            raise ActionFailed(f"expected {expected} within {self._timeout:g} s; {seen()}") from None

    async def send(self, room_id: str, content: dict[str, Any], kind: str = "m.room.message") -> str:
        """Send an event, encrypted for every device of every joined or invited user, and return its id.

        :raises ActionFailed: the homeserver rejected it.
        """
        async with self._keys:
            await self._know_recipients(room_id)
            sent = await self.client.room_send(room_id, kind, content, ignore_unverified_devices=True)
        return str(checked(sent, f"send to {room_id}").event_id)

    def timeline(self, room_id: str) -> Timeline:
        """Return the timeline of a room; empty if no sync has shown the room."""
        return self.timelines.setdefault(room_id, Timeline(room_id))

    async def fill(self, room_id: str) -> None:
        """Request the messages missing from a room's timeline, as a client does when the room is opened.

        A room that was joined over federation has no history at first.
        """
        timeline = self.timeline(room_id)
        for _ in range(_MOST_PAGES):
            if timeline.gap is None:
                return
            answer = await self.client.room_messages(room_id, timeline.gap, limit=_PAGE)
            page = checked(answer, f"history of {room_id}")
            timeline.fill(page.chunk, page.end)

    async def know(self, users: Iterable[str]) -> None:
        """Request the devices and identities of users.

        :raises ActionFailed: the homeserver rejected it.
        """
        async with self._keys:
            self.client.users_for_key_query.update(users)
            if self.client.should_query_keys:
                checked(await self._query_keys(), "query of devices and identities")

    def keep_identities(self) -> None:
        """Store the identities, for a device that is started again."""
        # The process may be killed at any time.
        fresh = self._kept.with_suffix(".new")
        fresh.write_text(json.dumps(self.identities.keep()))
        fresh.replace(self._kept)

    async def _query_keys(self) -> KeysQueryResponse:
        response = await self.client.keys_query()
        if isinstance(response, KeysQueryResponse):
            # nio leaves the identities out.
            self.identities.take(await response.transport_response.json())
            self.keep_identities()
        return response

    async def _know_recipients(self, room_id: str) -> None:
        """Request the room's members, their devices and its encryption, because syncs may be behind.

        Otherwise a message could be sent unencrypted.
        """
        client, room = self.client, self.client.rooms[room_id]
        state = checked(await client.room_get_state(room_id), f"state of {room_id}")
        room.encrypted |= any(event["type"] == "m.room.encryption" for event in state.events)
        if not room.encrypted:
            return
        memberships = {
            event["state_key"]: event["content"] for event in state.events if event["type"] == "m.room.member"
        }
        changed = False
        for user_id, content in memberships.items():
            membership = content.get("membership")
            if membership in ("join", "invite") and user_id not in room.users:
                invited = membership == "invite"
                changed |= room.add_member(user_id, content.get("displayname"), None, invited=invited)
            elif membership in ("leave", "ban"):
                changed |= room.remove_member(user_id)
        room.members_synced = True
        if changed:
            client.invalidate_outbound_session(room_id)
        if client.olm is not None:
            client.olm.users_for_key_query.update(room.users)
        if client.should_query_keys:
            checked(await self._query_keys(), "query of the members' devices")

    async def _sync(self) -> None:
        try:
            while True:
                response = await self.client.sync(timeout=_SYNC_HOLD_MS, sync_filter=self._filter)
                if isinstance(response, SyncError):
                    logger.warning("sync of %s: %s", self.client.user_id, response)
                    if response.status_code in _SESSION_ENDED:
                        self._broken = f"{response.status_code} {response.message}"
                        return
                    await asyncio.sleep(0.5)  # the homeserver answers with an error
                    continue
                await self._take(response)
        except Exception as error:
            logger.exception("sync of %s ended", self.client.user_id)
            self._broken = f"{type(error).__name__}: {error}"
        finally:
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, response: SyncResponse) -> None:
        client = self.client
        for room_id in response.rooms.leave:
            client.invited_rooms.pop(room_id, None)
            client.rooms.pop(room_id, None)
        for room_id, joined in response.rooms.join.items():
            brought = joined.timeline
            self.timeline(room_id).take(brought.events, brought.prev_batch if brought.limited else None)
        async with self._keys:
            if client.should_upload_keys:
                await client.keys_upload()
            if client.should_query_keys:
                await self._query_keys()
            if client.should_claim_keys:
                await client.keys_claim(client.get_users_for_key_claiming())
            await client.send_to_device_messages()
        read: list[tuple[Any, str | None]] = [(event, None) for event in response.to_device_events]
        if any(isinstance(event, RoomKeyEvent | ForwardedRoomKeyEvent) for event, _ in read):
            for room_id, timeline in self.timelines.items():
                read += [(event, room_id) for event in timeline.decrypt(client)]
        for room_id, joined in response.rooms.join.items():
            read += [(event, room_id) for event in joined.timeline.events]
        if self._on_event is not None and self._syncing is not None:
            for event, of in read:
                await self._on_event(event.source, of)
        async with self._changed:
            self._changed.notify_all()

    def joined(self, room_id: str) -> MatrixRoom | None:
        """Return a room if a sync has shown that this user has joined it."""
        room = self.client.rooms.get(room_id)
        if room is None:
            return None
        me = room.users.get(self.client.user_id)
        return room if me is not None and not me.invited else None

    @staticmethod
    def _client(homeserver: str, store: Path) -> AsyncClient:
        config = AsyncClientConfig(
            store=SqliteStore,
            store_name="keys.db",  # by default the user id, which may contain a slash
            max_timeout_retry_wait_time=1,
            request_timeout=_REQUEST_TIMEOUT,
        )
        return AsyncClient(homeserver, store_path=str(store), config=config)
