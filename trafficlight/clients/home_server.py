"""What `run()` receives for a server role."""

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trafficlight.clients.link import Link, ServerOperation
from trafficlight.clients.nio_user import close_nio_client, log_in
from trafficlight.errors import LabError

if TYPE_CHECKING:
    import nio  # type: ignore[import-untyped,unused-ignore]


# Seconds that creating an account may take.
_ACCOUNT_TIMEOUT = 30


class Account(Protocol):
    """Whose account it is, and how one gets in: a client under test, for instance."""

    @property
    def localpart(self) -> str:
        """The user's name without server."""
        ...

    @property
    def password(self) -> str:
        """The user's password."""
        ...


class HomeServer:
    """One homeserver, fresh for this case.

    What :meth:`start` and its like cannot do here ends the case as skipped, with the provider's reason.

    :param server_name: its name, as it stands in user ids.
    :param cs_api: the base URL of its client-server API; a trailing slash is taken off.
    :param name: the role that it plays.
    :param version: what runs, e.g. ``Synapse 1.163.2``; empty where it does not tell.
    :param log: the file its log goes to; None where its provider has none.
    :param link: how operations on it reach the coordinator.
    """

    def __init__(
        self,
        server_name: str,
        cs_api: str,
        *,
        name: str = "server",
        version: str = "",
        log: Path | None = None,
        link: Link | None = None,
    ) -> None:
        self.name = name
        self.server_name = server_name
        self.cs_api = cs_api.rstrip("/")
        self.version = version
        self.log = log
        self._link = link
        self._passwords: dict[str, str] = {}
        self._opened = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<HomeServer {self.name} {self.server_name} at {self.cs_api}>"

    async def register(self, localpart: str, password: str) -> str:
        """Create an account over the client-server API and return its user id.

        :raises LabError: the homeserver refuses.
        """
        user_id = await register_account(self.cs_api, localpart, password)
        self._passwords[localpart] = password
        return user_id

    async def nio_client(
        self, user: str | Account | None = None, password: str | None = None, *, store: Path | None = None
    ) -> "nio.AsyncClient":
        """Return a `nio.AsyncClient` that is logged in on a new device; it is closed with the case.

        A user that is only named gets an account the first time, and one more device each time after that.

        :param user: a localpart, a user id of this homeserver, or the client under test whose user is meant;
            by default somebody new, also where the homeserver is shared with other cases.
        :param password: of an account that exists and that :meth:`register` was not called for.
        :param store: an existing folder for its keys; without one it neither encrypts nor decrypts.
        :raises LabError: the homeserver refuses or does not answer, or the user is not one of its own.
        """
        if user is None:
            user = f"user-{secrets.token_hex(5)}"
        if isinstance(user, str):
            localpart = self._localpart(user)
            password = password or self._passwords.get(localpart)
        else:
            localpart, password = user.localpart, password or user.password
        if password is None:
            password = secrets.token_urlsafe(16)
            await self.register(localpart, password)
        client = await log_in(self.cs_api, f"@{localpart}:{self.server_name}", password, store)
        self._opened.push_async_callback(close_nio_client, client)
        return client

    async def read_log(self) -> str:
        """Return what its log holds by now; empty where there is none, or none before the case has ended."""
        if self.log is None:
            return ""
        try:
            return await asyncio.to_thread(self.log.read_text, encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    async def start(self) -> None:
        """Start it after :meth:`stop` or :meth:`kill`; returns when it answers again, with its data.

        :raises UnsupportedError: its provider cannot.
        """
        await self._operate("start")

    async def stop(self) -> None:
        """Stop it as an operator would; returns when it is down. Its data stay."""
        await self._operate("stop")

    async def restart(self) -> None:
        """Stop and start it; returns when it answers again, with its data."""
        await self._operate("restart")

    async def kill(self) -> None:
        """End it without warning (SIGKILL). Its data stay as they were on the disk."""
        await self._operate("kill")

    async def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        await self._operate("pause")

    async def unpause(self) -> None:
        """Let it go on after :meth:`pause`."""
        await self._operate("unpause")

    async def close(self) -> None:
        """Close the clients that :meth:`nio_client` returned; called when the case has ended. Idempotent."""
        await self._opened.aclose()

    def _localpart(self, user: str) -> str:
        localpart, _, server_name = user.removeprefix("@").partition(":")
        if server_name and server_name != self.server_name:
            raise LabError(f"{self.name}: {user} is no user of {self.server_name}")
        return localpart

    async def _operate(self, operation: ServerOperation) -> None:
        if self._link is None:
            raise LabError(f"{self.name}: not part of a running case, cannot {operation}")
        await self._link.operate(self.name, operation)


async def register_account(cs_api: str, localpart: str, password: str) -> str:
    """Create an account with the dummy stage of the registration API and return its user id.

    :raises LabError: the homeserver refuses; the message carries its answer.
    """
    import aiohttp  # here, because it takes longer to load than everything else that a test file imports

    body = {
        "username": localpart,
        "password": password,
        "inhibit_login": True,
        "auth": {"type": "m.login.dummy"},
    }
    url = f"{cs_api.rstrip('/')}/_matrix/client/v3/register"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ACCOUNT_TIMEOUT)) as session,
            session.post(url, json=body) as answer,
        ):
            if answer.status != 200:
                raise LabError(f"registering {localpart} at {cs_api}: {answer.status} {await answer.text()}")
            return str((await answer.json())["user_id"])
    except (aiohttp.ClientError, TimeoutError) as error:
        raise LabError(
            f"registering {localpart} at {cs_api}: {str(error) or type(error).__name__}"
        ) from error
