"""What every client that `run()` receives has in common."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from trafficlight.clients.link import Link
from trafficlight.protocol import JsonObject


@runtime_checkable
class ClientApi(Protocol):
    """Where a client can log in: a homeserver, or a network proxy in front of one."""

    @property
    def server_name(self) -> str:
        """The homeserver's name, as it stands in user ids."""
        ...

    @property
    def cs_api(self) -> str:
        """The base URL of the client-server API, without a trailing slash."""
        ...


class Client:
    """One client under test, driven by an adapter.

    :param name: the role that it plays.
    :param registration: what its adapter said of itself.
    :param link: how it reaches the coordinator.
    """

    def __init__(self, name: str, registration: JsonObject, link: Link) -> None:
        self.name = name
        self.registration = registration
        self._link = link

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} ({self.registration.get('type')})>"

    async def _perform(self, action: str, data: JsonObject) -> JsonObject:
        return await self._link.perform(self.name, action, data)

    async def perform(self, action: str, **data: object) -> JsonObject:
        """Ask for an action that this class does not declare, and return the response as it came.

        :raises ActionError: the client could not do it.
        :raises UnsupportedError: the adapter does not support it.
        :raises AdapterError: the adapter died, went silent or broke the protocol.
        """
        return await self._perform(action, dict(data))

    async def uploaded(self, name: str) -> Path:
        """Return the file that this client uploaded under a name.

        :raises AdapterError: it uploaded no such file.
        """
        return await self._link.upload(self.name, name)
