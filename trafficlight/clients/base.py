"""The base class of the clients that `run()` receives, and their connection to the coordinator."""

from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from trafficlight.clients.action import action
from trafficlight.network.connection import CaseNetwork
from trafficlight.network.control import ClientNetwork
from trafficlight.protocol import JsonObject

ServerOperation: TypeAlias = Literal["start", "stop", "restart", "kill", "pause", "unpause"]


class CaseBackend(Protocol):
    """How clients and homeservers reach the coordinator: over a socket in a worker, or directly."""

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        """Send an action to the client in a role and return its response, verbatim.

        :param where: file and line of the test that asks.
        :raises ActionError: the client failed.
        :raises UnsupportedError: its adapter does not support the action.
        :raises AdapterError: the adapter exited, timed out or broke the protocol.
        :raises DeadlineError: the action timed out.
        """
        ...

    async def upload(self, role: str, name: str) -> Path:
        """Return the file that the client in a role uploaded under a name; the latest of that name.

        :raises AdapterError: it has not uploaded such a file.
        """
        ...

    async def operate(self, role: str, operation: ServerOperation, config: JsonObject) -> None:
        """Start, stop, restart, kill, pause or unpause the homeserver in a role.

        :param config: settings to change before the restart; empty for none.
        :raises UnsupportedError: its provider cannot.
        """
        ...


@runtime_checkable
class ClientApi(Protocol):
    """Where a client can log in: a homeserver, or a network proxy in front of one."""

    @property
    def server_name(self) -> str:
        """The homeserver's name, as in user ids."""
        ...

    @property
    def cs_api(self) -> str:
        """The base URL of the client-server API, without a trailing slash."""
        ...


class Client:
    """A client under test, driven by an adapter.

    :param name: its role.
    :param registration: its adapter's registration.
    :param link: its connection to the coordinator.
    """

    def __init__(self, name: str, registration: JsonObject, link: CaseBackend) -> None:
        self.name = name
        self.registration = registration
        self._link = link
        self._network = ClientNetwork(name, None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} ({self.registration.get('type')})>"

    @property
    def network(self) -> ClientNetwork:
        """The network between this client and its homeservers."""
        return self._network

    def join(self, network: CaseNetwork) -> None:
        """Use the network of a case: called before the test gets the client."""
        self._network = ClientNetwork(self.name, network)

    async def _perform(self, action: str, data: JsonObject) -> JsonObject:
        return await self._link.perform(self.name, action, data)

    async def perform(self, action: str, **data: object) -> JsonObject:
        """Perform an action that this class does not declare and return the response, verbatim.

        :raises ActionError: the client failed.
        :raises UnsupportedError: its adapter does not support the action.
        :raises AdapterError: the adapter exited, timed out or broke the protocol.
        """
        return await self._perform(action, dict(data))

    @action()
    async def kill(self) -> None:
        """Kill the client's process, with no chance to clean up. Returns only when it has exited.

        Does not wait for a running action; that action fails.
        """

    @action()
    async def restart(self) -> None:
        """End the client's process, if it runs, and start it again with what it stored. Returns only when it
        is usable again, and logged in if it stores its login. The room may be closed then."""

    @action()
    async def suspend(self) -> None:
        """Suspend the client's process: it sends and computes nothing. Returns only when it is suspended."""

    @action()
    async def resume(self) -> None:
        """Continue the client's suspended process."""

    @action()
    async def clear_storage(self) -> None:
        """Kill the client's process, delete what it stored, and start it again. Returns only when it is
        usable again, as if new."""

    async def uploaded(self, name: str) -> Path:
        """Return the file that this client uploaded under a name.

        :raises AdapterError: it has not uploaded such a file.
        """
        return await self._link.upload(self.name, name)
