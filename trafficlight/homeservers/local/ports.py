"""Free loopback ports for servers that must know theirs before they start."""

import random
import socket
import sys

from trafficlight.errors import DeployError

# Below the range that the kernel gives to outgoing connections: a port from there could be taken by a client
# of the very server while that is restarted, and such a client can even connect to itself.
_FIRST, _LAST = 18000, 32000


class PortPicker:
    """Hands out free loopback ports, and keeps them from everybody else while they are handed out.

    A port is held by a socket that is bound to it and does not listen. On Linux a server that sets
    ``SO_REUSEADDR``, as they all do, can listen beside it; whoever looks for a free port finds it taken.

    :param first: the lowest port to hand out.
    :param last: the port after the highest.
    """

    def __init__(self, first: int = _FIRST, last: int = _LAST) -> None:
        self._first = first
        self._last = last
        self._held: dict[int, socket.socket | None] = {}
        self._next = random.randrange(first, last)  # noqa: S311 - keeps two labs on one machine apart

    @property
    def taken(self) -> frozenset[int]:
        """The ports that are handed out now."""
        return frozenset(self._held)

    def pick(self) -> int:
        """Return a port that nobody has.

        :raises DeployError: there is none.
        """
        for _ in range(self._last - self._first):
            port = self._next
            self._next = port + 1 if port + 1 < self._last else self._first
            if port not in self._held and self._hold(port):
                return port
        raise DeployError(f"no free port on 127.0.0.1 between {self._first} and {self._last - 1}")

    def release(self, port: int) -> None:
        """Take a port back."""
        holder = self._held.pop(port, None)
        if holder is not None:
            holder.close()

    def _hold(self, port: int) -> bool:
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.bind(("127.0.0.1", port))  # alone: fails beside anybody else
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            holder.close()
            return False
        if sys.platform != "linux":  # elsewhere it would keep the server away too
            holder.close()
        self._held[port] = holder
        return True
