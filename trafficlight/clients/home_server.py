"""What `run()` receives for a server role."""

from pathlib import Path

from trafficlight.clients.link import Link, ServerOperation
from trafficlight.errors import LabError

__all__ = ["HomeServer", "register_account"]

# Seconds that creating an account may take.
_ACCOUNT_TIMEOUT = 30


class HomeServer:
    """One homeserver, fresh for this case.

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

    def __repr__(self) -> str:
        return f"<HomeServer {self.name} {self.server_name} at {self.cs_api}>"

    async def register(self, localpart: str, password: str) -> str:
        """Create an account over the client-server API and return its user id.

        :raises LabError: the homeserver refuses.
        """
        return await register_account(self.cs_api, localpart, password)

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
