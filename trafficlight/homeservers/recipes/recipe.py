"""The interface of a recipe: how one homeserver implementation is installed, configured and started."""

import difflib
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trafficlight.errors import DeployError
from trafficlight.server_types import merged


@dataclass(frozen=True, slots=True)
class Installation:
    """An installed version of a homeserver.

    :param version: the exact version.
    :param folder: where it is installed.
    :param title: its name and version for messages, e.g. ``Synapse 1.98.0``.
    :param fork_server: the command of its fork server, see ``local/synapse_fork_server.py``; empty for none.
    """

    version: str
    folder: Path
    title: str
    fork_server: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """The folder, ports and certificates of one homeserver.

    :param directory: an empty folder for everything that it writes.
    :param log: the file for its log, below the case's results. Its stdout and stderr already go there.
    :param client_port: the port of its client-server API, plain HTTP on 127.0.0.1.
    :param federation_port: the port of its federation API, TLS on 127.0.0.1; part of the server name, unless
        there is a `name_port`.
    :param authority: the certificate authority to trust in federation, PEM.
    :param certificate: the homeserver's certificate, PEM.
    :param private_key: the key of its certificate, PEM.
    :param config: the settings of the case's server type.
    :param name_port: the port of the network proxy before its federation API; 0 if there is none.
    """

    directory: Path
    log: Path
    client_port: int
    federation_port: int
    authority: Path
    certificate: Path
    private_key: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    name_port: int = 0

    def configured(self, base: Mapping[str, Any], known: frozenset[str] | None = None) -> dict[str, Any]:
        """Return the recipe's settings with those of the server type merged into them.

        :param known: the names of all settings; None if the homeserver itself complains of others.
        :raises DeployError: the server type has a setting that is not known.
        """
        for name in _first_two_levels(self.config):
            if known is not None and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise DeployError(f"has no setting {name}{hint}")
        return _without_none(merged(base, self.config))

    @property
    def server_name(self) -> str:
        """The server name, which resolves to loopback without DNS."""
        return f"localhost:{self.name_port or self.federation_port}"

    @property
    def cs_api(self) -> str:
        """The base URL of its client-server API."""
        return f"http://127.0.0.1:{self.client_port}"


def _first_two_levels(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        yield key
        # What is deeper may be a name that the test chooses, such as that of a worker.
        if isinstance(value, Mapping) and key != "instance_map":
            yield from value


def _without_none(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if value is not None
    }


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one homeserver, the first time and after a stop.

    :param argv: the command line.
    :param fork_args: the module to run and its arguments, for the fork server; empty if it cannot start it.
    :param environment: variables to add to the environment of the command line; the fork server ignores them.
    :param name: what it is called if the homeserver has several processes.
    :param ready: waits until it is ready, at most so many seconds; None if its HTTP API says so.
    :param end: the signal that ends it when it is destroyed.
    :param services: what it needs from its first start until it is destroyed, such as a database.
    :param workers: its other processes, which start and stop with it.
    :param config: the file with its settings, JSON; None if they cannot be changed after its start.
    :param settings: returns the names of all settings. May block.
    """

    argv: tuple[str, ...]
    fork_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    ready: Callable[[float], Awaitable[None]] | None = None
    end: signal.Signals = signal.SIGKILL
    services: tuple["Command", ...] = ()
    workers: tuple["Command", ...] = ()
    config: Path | None = None
    settings: Callable[[], frozenset[str]] = frozenset


class Recipe(Protocol):
    """How to install, configure and start one homeserver implementation.

    A homeserver is ready when ``/_matrix/client/versions`` answers 200 at the place's ``cs_api``.
    """

    @property
    def name(self) -> str:
        """The name that server types refer to."""
        ...

    def unsupported(self, version: str) -> str | None:
        """Return why a version cannot run on this machine and how to change that; None if it can."""
        ...

    async def resolve(self, version: str) -> str:
        """Return the exact version for ``stable`` and ``latest``; any other version unchanged."""
        ...

    async def install(self, version: str) -> Installation:
        """Install an exact version unless it is installed already, reporting progress.

        :raises DeployError: the installation failed.
        """
        ...

    def configure(self, installation: Installation, place: Place) -> Command:
        """Write the configuration of one homeserver and return its command. May block."""
        ...
