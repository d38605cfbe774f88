"""One adapter, as the pool knows it: what it said, where it stands, and who holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from trafficlight.coordinator.channel import Channel
from trafficlight.coordinator.uploads import Upload
from trafficlight.errors import ActionError, LabError, TrafficlightError
from trafficlight.protocol import JsonObject, Registration


class UnknownAdapterError(TrafficlightError):
    """No adapter has registered under this uuid."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        super().__init__(f"no adapter has registered as {uuid}: register first")


class RegistrationConflictError(TrafficlightError):
    """The uuid is taken."""

    def __init__(self, uuid: str, why: str) -> None:
        self.uuid = uuid
        super().__init__(f"{uuid}: {why}: register under a new uuid")


class AdapterState(StrEnum):
    """Where an adapter stands."""

    FREE = "free"
    LEASED = "leased"
    RESETTING = "resetting"  # between two cases
    ENDED = "ended"  # is told to exit


class Claim(Protocol):
    """Who holds an adapter: an attempt of a case."""

    @property
    def case(self) -> str:
        """The case's id."""
        ...

    @property
    def session(self) -> str:
        """The session's id."""
        ...

    @property
    def attempt(self) -> int:
        """The attempt's number."""
        ...

    def adapter_failed(self, role: str, error: LabError | ActionError, *, told: bool) -> None:
        """Learn that the adapter in a role is gone; `told` says that an action of the test raised it."""
        ...

    @property
    def uploaded_bytes(self) -> int:
        """The size of everything that was uploaded for it."""
        ...

    def client_folder(self, role: str) -> Path:
        """Return the folder that a role's uploads go to; it is made."""
        ...

    def uploaded(self, role: str, adapter: str, upload: Upload) -> None:
        """Take a file in that the client in a role sent, however late."""
        ...


@dataclass(slots=True)
class Adapter:
    """One registered adapter.

    :ivar fields: the registration as it was sent: what client types match, and what events and tests see.
    :ivar claim: the attempt that holds it, or held it last: its late uploads still belong there.
    :ivar paused: why it gets no new case; empty while it does.
    :ivar quarantined: whether its program's failures paused it, and not a person.
    :ivar cases: how many cases it has had.
    :ivar token: its own bearer token, where tokens are on.
    :ivar token_used: whether it has shown that token, so that nobody else is told it any more.
    """

    uuid: str
    registration: Registration
    channel: Channel
    registered: datetime
    seen: float
    state: AdapterState = AdapterState.FREE
    lease: "Lease | None" = None
    role: str | None = None
    claim: Claim | None = None
    token: str | None = None
    token_used: bool = False
    reason: str = ""
    paused: str = ""
    quarantined: bool = False
    cases: int = 0
    fields: JsonObject = field(init=False)

    def __post_init__(self) -> None:
        self.fields = self.registration.fields()

    @property
    def type(self) -> str:
        """The type it registered as."""
        return self.registration.type

    @property
    def program(self) -> str | None:
        """What names its program across registrations; None where nothing does."""
        return self.registration.instance or None

    @property
    def usable_again(self) -> bool:
        """Whether it says that it can be reset, and nothing speaks against it."""
        channel = self.channel
        unspoilt = channel.failure is None and channel.exit_reason is None and channel.outstanding is None
        return self.registration.reusable is True and unspoilt


@dataclass(slots=True)
class Lease:
    """The exclusive claim of all adapters of one attempt."""

    id: str
    claim: Claim
    adapters: Mapping[str, Adapter]
    open: bool = True
