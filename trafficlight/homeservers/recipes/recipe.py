"""What a homeserver implementation tells the lab about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Installation:
    """One version of a homeserver, ready to be started many times.

    :param version: the exact version.
    :param folder: where it is installed.
    :param title: what people read, e.g. ``Synapse 1.163.2``.
    :param fork_server: the command of a fork server that starts it faster, see ``scripts``; empty for none.
    """

    version: str
    folder: Path
    title: str
    fork_server: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where one homeserver lives: all that a recipe needs to write its configuration.

    :param directory: its own folder, empty, for everything it writes.
    :param log: where its log goes: what it writes to stdout and stderr ends up there by itself.
    :param client_port: where its client-server API listens, plain HTTP on 127.0.0.1.
    :param federation_port: where its federation listens, TLS on 127.0.0.1; part of its name.
    :param authority: the certificate to trust in other homeservers, PEM.
    :param certificate: its own, PEM.
    :param private_key: of its certificate, PEM.
    """

    directory: Path
    log: Path
    client_port: int
    federation_port: int
    authority: Path
    certificate: Path
    private_key: Path

    @property
    def server_name(self) -> str:
        """Its name; resolves to loopback without DNS."""
        return f"localhost:{self.federation_port}"

    @property
    def cs_api(self) -> str:
        """The base URL of its client-server API."""
        return f"http://127.0.0.1:{self.client_port}"


@dataclass(frozen=True, slots=True)
class Command:
    """How one homeserver is started, every time.

    :param argv: the command line.
    :param fork_args: the arguments for the fork server, where the installation has one.
    :param environment: variables to add to those it inherits; for the command line, not the fork server.
    """

    argv: tuple[str, ...]
    fork_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Recipe(Protocol):
    """A homeserver implementation: how to get it, configure it and start it.

    It is ready when ``/_matrix/client/versions`` answers 200 at the place's ``cs_api``.
    """

    @property
    def name(self) -> str:
        """What server types call it."""
        ...

    @property
    def follows_log(self) -> bool:
        """Whether it reopens ``place.log`` when that is replaced; only then it is started ahead."""
        ...

    def unsupported(self, version: str) -> str | None:
        """Return why a version can never run here and how to change that, or None where it can."""
        ...

    async def resolve(self, version: str) -> str:
        """Return the exact version that ``stable`` and ``latest`` stand for; others as they are."""
        ...

    async def install(self, version: str) -> Installation:
        """Get an exact version, the first time slowly and with progress, then at once.

        :raises DeployError: it cannot be had.
        """
        ...

    def configure(self, installation: Installation, place: Place) -> Command:
        """Write the configuration of one homeserver and return how to start it. May block."""
        ...
