"""The one small interface through which what `run()` receives reaches the coordinator."""

from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from trafficlight.protocol import JsonObject

ServerOperation: TypeAlias = Literal["start", "stop", "restart", "kill", "pause", "unpause"]


class Link(Protocol):
    """Implemented where test code runs: over a socket in a worker, directly in the coordinator's process."""

    async def perform(self, role: str, action: str, data: JsonObject) -> JsonObject:
        """Ask the client in a role for one action and return its response, verbatim.

        :raises ActionError: the client could not do it.
        :raises UnsupportedError: the adapter does not support it.
        :raises AdapterError: the adapter died, went silent or broke the protocol.
        :raises DeadlineError: no answer in time.
        """
        ...

    async def upload(self, role: str, name: str) -> Path:
        """Return the file that the client in a role uploaded under a name; the last one of that name.

        :raises AdapterError: it uploaded no such file.
        """
        ...

    async def operate(self, role: str, operation: ServerOperation) -> None:
        """Do something to the homeserver in a role.

        :raises UnsupportedError: its provider cannot.
        """
        ...
