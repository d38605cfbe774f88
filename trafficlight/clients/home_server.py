"""What `run()` receives for a server role."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trafficlight.clients.admin import HomeServerAdmin
from trafficlight.clients.base import CaseBackend, ServerOperation
from trafficlight.errors import LabError
from trafficlight.network.connection import CaseNetwork
from trafficlight.network.federation import FederationNetwork
from trafficlight.version import VERSION

if TYPE_CHECKING:
    import nio  # type: ignore[import-untyped,unused-ignore]


# Not that of nio: an adapter for nio would seem to bypass the network proxy.
_AGENT = f"trafficlight-test/{VERSION}"
# Seconds for one response, in addition to the timeout of a sync.
_REQUEST_TIMEOUT = 20
# Retries of nio, a second apart, while there is no connection: enough for a restart of the homeserver.
_TRIES = 30
# Seconds for the login, including retries.
_LOGIN_TIMEOUT = 40
# Seconds for creating an account.
_ACCOUNT_TIMEOUT = 30
_SHARED = "other cases use this homeserver, too: the class of the test needs isolated = True"


class Account(Protocol):
    """An account, for instance that of a client under test."""

    @property
    def localpart(self) -> str:
        """The user's name, without the server name."""
        ...

    @property
    def password(self) -> str:
        """The user's password."""
        ...


class HomeServer:
    """A homeserver that was started for this case, or is shared with others.

    An operation such as :meth:`start` that its provider does not support ends the case as skipped. Of a
    shared one, operations and ``admin`` raise ``LabError``: the test needs ``isolated = True``.

    :param server_name: its name, as in user ids.
    :param cs_api: the base URL of its client-server API; a trailing slash is removed.
    :param name: its role.
    :param version: implementation and version, e.g. ``Synapse 1.163.2``; empty if unknown.
    :param log: its log file; None if its provider has none.
    :param log_start: the byte of its log at which the case began.
    :param shared: whether other cases have it, too.
    :param link: its connection to the coordinator.
    :param step: shows what is done in it as a step of the test, in this role.
    """

    def __init__(
        self,
        server_name: str,
        cs_api: str,
        *,
        name: str = "server",
        version: str = "",
        log: Path | None = None,
        log_start: int = 0,
        shared: bool = False,
        link: CaseBackend | None = None,
        step: Callable[[str, str], AbstractContextManager[None]] = lambda name, role: nullcontext(),
    ) -> None:
        self.name = name
        self.server_name = server_name
        self.cs_api = cs_api.rstrip("/")
        self.version = version
        self.log, self.log_start = log, log_start
        self.shared = shared
        self._link = link
        self._step = step
        self._passwords: dict[str, str] = {}
        self._opened = AsyncExitStack()
        self._federation = FederationNetwork(name, None)
        self._admin = HomeServerAdmin(self.server_name, self.cs_api, self.version)

    def __repr__(self) -> str:
        return f"<HomeServer {self.name} {self.server_name} at {self.cs_api}>"

    @property
    def admin(self) -> HomeServerAdmin:
        """Its administrator's API.

        :raises LabError: it is shared with other cases.
        """
        self._must_be_own("admin")
        return self._admin

    @property
    def federation(self) -> FederationNetwork:
        """The network between this homeserver and the others of the case."""
        return self._federation

    def join(self, network: CaseNetwork) -> None:
        """Use the network of a case: called before the test gets the homeserver."""
        self._federation = FederationNetwork(self.name, network)

    async def register(self, localpart: str, password: str) -> str:
        """Create an account over the client-server API and return its user id.

        :raises LabError: the homeserver refuses.
        """
        try:
            with self._step(f"register {localpart}", self.name):
                user_id = await register_account(self.cs_api, localpart, password)
        except LabError as error:
            if not self.shared or "M_USER_IN_USE" not in str(error):
                raise
            raise LabError(f"{error}; {_SHARED}, or other names in each case") from None
        self._passwords[localpart] = password
        return user_id

    async def nio_client(
        self, user: str | Account | None = None, password: str | None = None, *, store: Path | None = None
    ) -> "nio.AsyncClient":
        """Return a `nio.AsyncClient` that is logged in on a new device; it is closed at the end of the case.

        The first call for a localpart registers the user; later calls only add a device.

        :param user: a localpart, a user id of this homeserver, or a client under test whose account to use;
            by default a new user, whose name is unique also on a homeserver that cases share.
        :param password: the password of an existing account that was not created with :meth:`register`.
        :param store: an existing folder for its keys; without one it neither encrypts nor decrypts.
        :raises LabError: the homeserver refuses or does not answer, or the user belongs to another server.
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
        user_id = f"@{localpart.lower()}:{self.server_name}"
        with self._step(f"log in as {user_id}", self.name):
            client = await _log_in(self.cs_api, user_id, password, store)
        self._opened.push_async_callback(_close_nio_client, client)
        return client

    async def read_log(self) -> str:
        """Return the content of its log; empty if there is none, or none before the case has ended."""
        if self.log is None:
            return ""
        try:
            return await asyncio.to_thread(_read_from, self.log, self.log_start)
        except FileNotFoundError:
            return ""

    async def start(self) -> None:
        """Start it after :meth:`stop` or :meth:`kill`, with its data; return when it answers.

        :raises UnsupportedError: its provider cannot.
        """
        await self._operate("start")

    async def stop(self) -> None:
        """Stop it with SIGTERM and return when it has exited. Its data is kept."""
        await self._operate("stop")

    async def restart(self, *, config: Mapping[str, Any] | None = None) -> None:
        """Stop and start it, with its data; return when it answers.

        :param config: settings to change first, merged as those of a server type are; for instance the
            address of a service that the test has started.
        :raises UnsupportedError: its provider cannot.
        """
        await self._operate("restart", config)

    async def kill(self) -> None:
        """Kill it with SIGKILL. Its data is kept as it is on the disk."""
        await self._operate("kill")

    async def pause(self) -> None:
        """Suspend it: connections stay open, but it does not answer."""
        await self._operate("pause")

    async def unpause(self) -> None:
        """Resume it after :meth:`pause`."""
        await self._operate("unpause")

    async def close(self) -> None:
        """Close the clients that :meth:`nio_client` returned. Called at the end of the case. Idempotent."""
        await self._opened.aclose()

    def _localpart(self, user: str) -> str:
        localpart, _, server_name = user.removeprefix("@").partition(":")
        if server_name and server_name != self.server_name:
            raise LabError(f"{self.name}: {user} is not a user of {self.server_name}")
        return localpart

    def _must_be_own(self, use: str) -> None:
        if self.shared:
            raise LabError(f"{self.name}.{use}: {_SHARED}")

    async def _operate(self, operation: ServerOperation, config: Mapping[str, Any] | None = None) -> None:
        self._must_be_own(f"{operation}()")
        if self._link is None:
            raise LabError(f"{self.name}: not part of a running case, cannot {operation}")
        changed = f" with other settings: {', '.join(config)}" if config else ""
        with self._step(f"{operation}{changed}", self.name):
            await self._link.operate(self.name, operation, dict(config or {}))


def _read_from(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode("utf-8", errors="replace")


async def register_account(cs_api: str, localpart: str, password: str) -> str:
    """Create an account with the dummy stage of the registration API and return its user id.

    :raises LabError: the homeserver refuses; the message carries its answer.
    """
    import aiohttp  # here, because it is slow to import

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


async def _log_in(cs_api: str, user_id: str, password: str, store: Path | None) -> "nio.AsyncClient":
    """Log in on a new device and return the client.

    :param cs_api: the base URL of the client-server API.
    :param store: an existing folder for its keys; without one it does not encrypt.
    :raises LabError: the homeserver refuses, or does not answer.
    """
    import aiohttp  # both here, because they are slow to import
    import nio

    config = nio.AsyncClientConfig(
        encryption_enabled=store is not None,
        store_name=f"{secrets.token_hex(8)}.db",  # by default the user id, which may contain a slash
        max_timeouts=_TRIES,
        max_timeout_retry_wait_time=1,
        request_timeout=_REQUEST_TIMEOUT,
        custom_headers={"User-Agent": _AGENT},
    )
    client = nio.AsyncClient(cs_api, user_id, store_path=str(store) if store else "", config=config)
    try:
        async with asyncio.timeout(_LOGIN_TIMEOUT):
            answer = await client.login(password, "trafficlight")
        if isinstance(answer, nio.ErrorResponse):
            raise LabError(f"logging {user_id} in at {cs_api}: {answer.status_code} {answer.message}")
    except (aiohttp.ClientError, TimeoutError) as error:
        await _close_nio_client(client)
        reason = str(error) or type(error).__name__
        raise LabError(f"logging {user_id} in at {cs_api}: {reason}") from error
    except BaseException:
        await _close_nio_client(client)
        raise
    return client


async def _close_nio_client(client: "nio.AsyncClient") -> None:
    """Close its connections and its store; the account stays logged in. Idempotent."""
    try:
        await client.close()
    finally:
        if client.store is not None:
            client.store.database.close()
