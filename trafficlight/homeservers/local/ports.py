"""Free loopback ports for homeservers, whose configuration names them."""

import random
import socket
import sys

from trafficlight.errors import DeployError

# Below the kernel's range for outgoing connections: a port from there could be taken by a client of the
# homeserver while that restarts, and such a client can even connect to itself.
_FIRST, _LAST = 18000, 32000


class PortPicker:
    """Allocates loopback ports and holds them until they are released.

    A port is held by a socket that is bound to it and does not listen. On Linux a homeserver that sets
    ``SO_REUSEADDR``, as all do, can still listen on it, while it looks taken to other programs.

    :param first: the lowest port.
    :param last: one more than the highest port.
    """

    def __init__(self, first: int = _FIRST, last: int = _LAST) -> None:
        self._first = first
        self._last = last
        self._held: dict[int, socket.socket | None] = {}
        self._next = random.randrange(first, last)  # noqa: S311 - makes collisions of two labs unlikely

    def pick(self) -> int:
        """Allocate a free port.

        :raises DeployError: there is none.
        """
        for _ in range(self._last - self._first):
            port = self._next
            self._next = port + 1 if port + 1 < self._last else self._first
            if port not in self._held and self._hold(port):
                return port
        raise DeployError(f"no free port on 127.0.0.1 between {self._first} and {self._last - 1}")

    def release(self, port: int) -> None:
        """Release a port. Idempotent."""
        holder = self._held.pop(port, None)
        if holder is not None:
            holder.close()

    def _hold(self, port: int) -> bool:
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.bind(("127.0.0.1", port))  # without SO_REUSEADDR it fails if the port is in use
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            holder.close()
            return False
        if sys.platform != "linux":  # elsewhere the homeserver could not listen either
            holder.close()
        self._held[port] = holder
        return True
