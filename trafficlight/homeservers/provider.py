"""The seam between the lab and the places homeservers come from.

A *provider* says where homeservers run, a *recipe* says what runs there.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trafficlight.server_types import HomeServerSpec

AS_ASKED = ", as asked"
"""What stands behind the end of a homeserver that :meth:`RunningServer.operate` ended."""


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """One homeserver that a case asks for.

    :param role: the role that it will play, unique in the case.
    :param spec: what it is to be.
    :param log: the file that holds the homeserver's log while it runs or, at the latest, when the deployment
        is left; its folder exists.
    :param host: which of its provider's hosts has room for it, the same for all of a case that come from one
        provider; empty where nobody has looked.
    """

    role: str
    spec: HomeServerSpec
    log: Path
    host: str = ""


@dataclass(frozen=True, slots=True)
class Hosting:
    """What carries homeservers now, as far as planning goes.

    :param hosts: how many homeservers each host that answers carries at once, by provider and by the host's
        name. A provider that is not in it sets no limit; one that is there without any cannot be used now.
    :param by_type: the provider of a server type, by the type's name.
    :param default: the provider of all other server types.
    """

    hosts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    by_type: Mapping[str, str] = field(default_factory=dict)
    default: str = ""

    def provider(self, type_name: str) -> str:
        """Return the name of the provider of a server type."""
        return self.by_type.get(type_name, self.default)


class RunningServer(Protocol):
    """A homeserver that answers, for one case only."""

    @property
    def role(self) -> str:
        """The role from its request."""
        ...

    @property
    def server_name(self) -> str:
        """Its name, as it stands in user ids."""
        ...

    @property
    def cs_api(self) -> str:
        """The base URL of its client-server API, without a trailing slash."""
        ...

    @property
    def version(self) -> str:
        """What runs, e.g. ``Synapse 1.163.2``."""
        ...

    @property
    def image(self) -> str:
        """The container image that it runs from; empty where it runs from none, or from an unknown one."""
        ...

    @property
    def exited(self) -> str | None:
        """How it ended, e.g. ``signal 9``; with :data:`AS_ASKED` behind it if it was told to."""
        ...

    async def operate(self, operation: str) -> None:
        """Start, stop, restart, kill, pause or unpause it; ``start`` and ``restart`` return when it answers.

        :raises UnsupportedError: this provider cannot.
        :raises DeployError: it did not come back; carries the end of its log.
        """
        ...


class Provider(Protocol):
    """A place that homeservers come from."""

    @property
    def name(self) -> str:
        """``local``, ``homerunner``, ``docker`` or ``static``."""
        ...

    @property
    def hosts(self) -> Mapping[str, int] | None:
        """How many homeservers each of its hosts that answer carries at once; None where it sets no limit.

        A host is this machine, a Docker engine or a homerunner; its name is unique over all providers.
        """
        ...

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return why this provider can never deploy what is asked for, or None where it can; never waits."""
        ...

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Do the slow work that many deployments share (install, build, probe), with visible progress.

        :raises DeployError: it cannot be done.
        """
        ...

    def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AbstractAsyncContextManager[list[RunningServer]]:
        """Deploy fresh homeservers that answer and federate with each other; leaving destroys them, always.

        Whoever asks has seen to it that there is room: nothing here waits for any.

        The list has the order of the requests. Entering raises :exc:`DeployError` with the server's log when
        one does not come up, and leaves nothing behind.
        """
        ...

    async def close(self) -> None:
        """Give up everything that outlives deployments. Idempotent."""
        ...
