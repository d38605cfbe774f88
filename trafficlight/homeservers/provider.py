"""The interface between the lab and the places where homeservers run.

A *provider* is where homeservers run, a *recipe* is what runs there.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from trafficlight.network.connection import FederationPort
from trafficlight.server_types import HomeServerSpec

BY_THE_TEST = ", requested by the test"
"""Appended to the exit of a homeserver that :meth:`RunningServer.operate` ended."""

SERVER_BYTES = 150 * 2**20
"""What one homeserver is expected to use."""
_SERVERS_PER_CORE = 4
_MOST_HERE = 8


def all_of(provider: str) -> str:
    """Return what all homeservers of a provider are called where they are limited."""
    return f"{provider} homeservers"


def capacity_of(memory_bytes: int, cores: int) -> int:
    """Return how many homeservers a machine carries at once."""
    return max(1, min(memory_bytes // SERVER_BYTES, _SERVERS_PER_CORE * cores))


def capacity_of_this_machine() -> int:
    """Return how many homeservers this machine carries at once, with the lab and its clients."""
    return min(_MOST_HERE, capacity_of(available_bytes(), os.cpu_count() or 1))


def available_bytes() -> int:
    """Return the memory of this machine that can be used without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """One homeserver that a case needs.

    :param role: the role that it plays, unique in the case.
    :param spec: what to deploy.
    :param log: the file for its log, complete at the latest when the deployment is left; its folder exists.
    """

    role: str
    spec: HomeServerSpec
    log: Path


class RunningServer(Protocol):
    """A homeserver that is ready and belongs to one case."""

    @property
    def role(self) -> str:
        """The role from its request."""
        ...

    @property
    def server_name(self) -> str:
        """The server name, as in user ids."""
        ...

    @property
    def cs_api(self) -> str:
        """The base URL of its client-server API, without a trailing slash."""
        ...

    @property
    def version(self) -> str:
        """Its name and version, e.g. ``Synapse 1.98.0``."""
        ...

    @property
    def image(self) -> str:
        """The container image; empty if it does not run in a container, or the image is unknown."""
        ...

    @property
    def exited(self) -> str | None:
        """How it exited, e.g. ``signal 9``, with :data:`BY_THE_TEST` appended; None while it runs."""
        ...

    @property
    def federation(self) -> FederationPort | None:
        """How the network proxy gets before it; None unless its request wants that."""
        ...

    async def operate(self, operation: str, config: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Start, stop, restart, kill, pause or unpause it; ``start`` and ``restart`` return when it is ready.

        :param config: settings to change before a restart.
        :raises UnsupportedError: this provider cannot.
        :raises DeployError: it did not become ready again; carries the end of its log.
        """
        ...


class Provider(Protocol):
    """A place where homeservers run."""

    @property
    def name(self) -> str:
        """``local``, ``homerunner``, ``docker`` or ``static``."""
        ...

    @property
    def capacities(self) -> Mapping[str, int]:
        """How many homeservers may run at once: of a server type, by its name, or of all, by :func:`all_of`.

        0 while it is not reachable; what is missing has no limit.
        """
        ...

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return why this provider can never deploy a homeserver; None if it can. Does not wait."""
        ...

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Do the slow work that deployments share (install, build, pull), reporting progress.

        :raises DeployError: it failed.
        """
        ...

    def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AbstractAsyncContextManager[list[RunningServer]]:
        """Deploy fresh homeservers that federate with each other, and destroy them on leaving, in every case.

        Does not wait for capacity: the scheduler has reserved it.

        :return: a context with the homeservers in the order of the requests. Entering it raises
            :exc:`DeployError` with the log if one does not become ready, and leaves nothing behind.
        """
        ...

    async def close(self) -> None:
        """Release everything that outlives deployments. Idempotent."""
        ...
