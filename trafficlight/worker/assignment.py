"""The input and the result of one attempt, and the link of its test to the coordinator."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trafficlight.clients import CaseBackend
from trafficlight.network.connection import FederationPort
from trafficlight.protocol import JsonObject
from trafficlight.results.events import State, TestEvent
from trafficlight.services.connections import NodeAddress
from trafficlight.suites.model import Case


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A homeserver, as `run()` receives it.

    :param log: its log file; None if there is none.
    :param federation: how the network proxy gets before it; None if the test does not break its federation.
    :param shared: whether other cases have it, too.
    :param log_start: the byte of its log at which the case began.
    """

    server_name: str
    cs_api: str
    version: str = ""
    log: Path | None = None
    federation: FederationPort | None = None
    shared: bool = False
    log_start: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt of a case, with everything that it needs.

    :param case: the case.
    :param attempt: the attempt's number, from 1.
    :param folder: the folder of the attempt's files.
    :param clients: the registration of the adapter in every client role.
    :param servers: the homeserver in every server role.
    :param case_deadline: seconds for set-up and test together.
    :param teardown_deadline: seconds for the tear-down after that.
    :param record: of which attempts the clients' traffic is recorded: ``always``, ``failures`` or ``never``.
    :param unrecorded: roles of clients and base URLs of homeservers of which it is not, unless the test uses
        the network of the client.
    :param nodes: the nodes of a cluster that its services may use.
    :param mark: unique to the attempt; marks what it starts on nodes.
    """

    case: Case
    attempt: int
    folder: Path
    clients: Mapping[str, JsonObject] = field(default_factory=dict)
    servers: Mapping[str, ServerInfo] = field(default_factory=dict)
    case_deadline: float = 300.0
    teardown_deadline: float = 30.0
    record: str = "never"
    unrecorded: tuple[str, ...] = ()
    nodes: tuple[NodeAddress, ...] = ()
    mark: str = ""

    @property
    def ending_deadline(self) -> float:
        """Seconds for the tear-down, and as many again for services that the test has left."""
        return self.teardown_deadline * (2 if self.nodes else 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended.

    :param state: one of the final states.
    :param message: what happened; the first line is a summary.
    :param traceback: the traceback in the test; may be empty.
    :param phase: ``prepare``, ``load``, ``setup``, ``run`` or ``teardown``.
    """

    state: State
    message: str = ""
    traceback: str = ""
    phase: str = "run"


class CaseLink(CaseBackend, Protocol):
    """How running test code reaches the coordinator: actions, homeservers, and events."""

    async def network(self) -> Path:
        """Return the control socket of the network proxy.

        :raises LabError: it cannot be started.
        """
        ...

    def emit(self, event: TestEvent) -> None:
        """Record an event of the attempt."""
        ...
