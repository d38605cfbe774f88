"""What an administrator does on a homeserver."""

import asyncio
import hmac
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from trafficlight.errors import LabError, UnsupportedError

REGISTRATION_SECRET = "complement"  # noqa: S105 - a convention of Complement's images
"""What registers administrators; the homeservers of a lab are reachable from its machine only."""

_REQUEST_SECONDS = 30
_PURGE_SECONDS = 60
_PAUSE_SECONDS = 0.1
_REGISTER = "/_synapse/admin/v1/register"


class _RefusedError(LabError):
    pass


class HomeServerAdmin:
    """The administrator's API of a homeserver, used by an administrator that the first request registers.

    The methods are those of Synapse. A case is skipped if its homeserver does not have one that it needs.
    Users are localparts, user ids, or clients under test.

    :param version: implementation and version, for messages.
    """

    def __init__(self, server_name: str, cs_api: str, version: str = "") -> None:
        self._server_name = server_name
        self._cs_api = cs_api
        self._title = version or cs_api
        self._token: str | None = None
        self._registering = asyncio.Lock()

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str | int
    ) -> Any:
        """Send a request as administrator and return the JSON of its answer.

        :param path: the path, such as ``/_synapse/admin/v2/users`` or ``/_matrix/client/v3/account/whoami``.
        :raises UnsupportedError: the homeserver does not have that endpoint, or registers no administrator.
        :raises LabError: the homeserver refuses, or does not answer.
        """
        async with self._registering:
            if self._token is None:
                name, password = f"admin-{secrets.token_hex(5)}", secrets.token_urlsafe(16)
                try:
                    self._token = (await self._register(name, password, admin=True))["access_token"]
                except _RefusedError as error:
                    raise UnsupportedError(f"no administrator with the shared secret: {error}") from error
        return await self._send(method, path, body, query, {"Authorization": f"Bearer {self._token}"})

    async def create_user(self, localpart: str, password: str, *, admin: bool = False) -> str:
        """Create an account, also where registration is closed, and return its user id."""
        return str((await self._register(localpart, password, admin=admin))["user_id"])

    async def deactivate_user(self, user: Any, *, erase: bool = False) -> None:
        """Deactivate an account, and optionally erase what its user wrote."""
        await self.request("POST", f"/_synapse/admin/v1/deactivate/{self._id(user)}", {"erase": erase})

    async def shadow_ban(self, user: Any, *, banned: bool = True) -> None:
        """Shadow-ban a user, whose events no other user receives from then on, or end that."""
        path = f"/_synapse/admin/v1/users/{self._id(user)}/shadow_ban"
        await self.request("POST" if banned else "DELETE", path)

    async def devices(self, user: Any) -> list[dict[str, Any]]:
        """Return the devices of a user: ``device_id``, ``display_name``, ``last_seen_ts`` and more."""
        answer = await self.request("GET", f"/_synapse/admin/v2/users/{self._id(user)}/devices")
        return list(answer["devices"])

    async def delete_device(self, user: Any, device_id: str) -> None:
        """Log a device out."""
        await self.request(
            "DELETE", f"/_synapse/admin/v2/users/{self._id(user)}/devices/{quote(device_id, safe='')}"
        )

    async def rooms(self) -> list[dict[str, Any]]:
        """Return the rooms that the homeserver knows: ``room_id``, ``joined_members`` and more."""
        return list((await self.request("GET", "/_synapse/admin/v1/rooms", limit=1000))["rooms"])

    async def purge_history(self, room_id: str, *, before: str | int) -> None:
        """Delete the events of a room, those of local users too, and return when that is done.

        :param before: an event id, or a time in milliseconds: what is older is deleted.
        :raises LabError: the homeserver fails to.
        """
        until = {"purge_up_to_ts" if isinstance(before, int) else "purge_up_to_event_id": before}
        room = quote(room_id, safe="")
        started = await self.request(
            "POST", f"/_synapse/admin/v1/purge_history/{room}", {"delete_local_events": True, **until}
        )
        path = f"/_synapse/admin/v1/purge_history_status/{started['purge_id']}"
        end = time.monotonic() + _PURGE_SECONDS
        while (state := await self.request("GET", path))["status"] == "active" and time.monotonic() < end:
            await asyncio.sleep(_PAUSE_SECONDS)
        if state["status"] != "complete":
            raise LabError(f"{self._title}: purging {room_id}: {state}")

    async def send_server_notice(self, user: Any, text: str) -> str:
        """Send a notice of the homeserver and return its event id.

        Needs the setting ``server_notices``, for instance ``{"system_mxid_localpart": "notices"}``.
        """
        notice = {"user_id": self._user_id(user), "content": {"msgtype": "m.text", "body": text}}
        return str((await self.request("POST", "/_synapse/admin/v1/send_server_notice", notice))["event_id"])

    async def _register(self, localpart: str, password: str, *, admin: bool) -> dict[str, Any]:
        nonce = (await self._send("GET", _REGISTER))["nonce"]
        signed = "\0".join((nonce, localpart, password, "admin" if admin else "notadmin"))
        body = {
            "nonce": nonce,
            "username": localpart,
            "password": password,
            "admin": admin,
            "mac": hmac.digest(REGISTRATION_SECRET.encode(), signed.encode(), "sha1").hex(),
        }
        return dict(await self._send("POST", _REGISTER, body))

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        import aiohttp  # here, because it is slow to import
        from yarl import URL

        url = URL(f"{self._cs_api}{path}", encoded=True).update_query(query or {})
        if method in ("POST", "PUT"):
            body = body or {}
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.request(method, url, json=body) as answer,
            ):
                text = await answer.text()
                if answer.status in (404, 405) and ("M_UNRECOGNIZED" in text or not text.startswith("{")):
                    raise UnsupportedError(f"{self._title} has no {method} {path}")
                if answer.status >= 400:
                    raise _RefusedError(f"{self._title}: {method} {path}: {answer.status} {text}")
                return await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise LabError(f"{self._title}: {method} {path}: {str(error) or type(error).__name__}") from error

    def _user_id(self, user: Any) -> str:
        name = user if isinstance(user, str) else user.localpart
        return name if name.startswith("@") else f"@{name.lower()}:{self._server_name}"

    def _id(self, user: Any) -> str:
        return quote(self._user_id(user), safe="")
