"""An adapter as the pool sees it: registration, state and lease."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from trafficlight.coordinator.channel import AdapterFailure, Channel
from trafficlight.errors import TrafficlightError
from trafficlight.logs import LogContext
from trafficlight.protocol import JsonObject, Registration
from trafficlight.results.events import Upload
from trafficlight.results.folder import AttemptFolder


class UnknownAdapterError(TrafficlightError):
    """No adapter has registered under this UUID."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        super().__init__(f"no adapter has registered as {uuid}: register first")


class RegistrationConflictError(TrafficlightError):
    """The UUID is in use."""

    def __init__(self, uuid: str, why: str) -> None:
        self.uuid = uuid
        super().__init__(f"{uuid}: {why}: register under a new uuid")


class AdapterState(StrEnum):
    """The state of an adapter."""

    FREE = "free"
    LEASED = "leased"
    RESETTING = "resetting"  # between two cases
    ENDED = "ended"  # its polls are answered with `exit`


@dataclass(slots=True)
class Adapter:
    """One registered adapter.

    :ivar program: names its program across registrations: how the lab that started it knows it, or its
        `instance`, or its type, labels and address.
    :ivar address: where its registration came from.
    :ivar fields: the registration as it was sent: what client types match, and what events and tests see.
    :ivar alike: a digest of them: equal for programs of one kind.
    :ivar lease: its current lease while it is leased, otherwise its last one: late uploads go there.
    :ivar paused: why it gets no new case; empty if it does.
    :ivar quarantined: whether it was paused for its program's failures, and not by an operator.
    :ivar exited: whether its process is known to have exited.
    :ivar cases: the number of cases it has had.
    :ivar token: its own bearer token, if tokens are enabled.
    :ivar answering: held while an answer is read: one at a time.
    :ivar token_used: whether it has authenticated with that token; it is never sent again then.
    """

    uuid: str
    registration: Registration
    channel: Channel
    registered: datetime
    seen: float
    state: AdapterState = AdapterState.FREE
    lease: "Lease | None" = None
    role: str | None = None
    token: str | None = None
    token_used: bool = False
    reason: str = ""
    paused: str = ""
    quarantined: bool = False
    exited: bool = False
    cases: int = 0
    program: str = ""
    address: str = ""
    answering: asyncio.Lock = field(default_factory=asyncio.Lock)
    fields: JsonObject = field(init=False)
    alike: str = field(init=False)

    def __post_init__(self) -> None:
        self.fields = self.registration.fields()
        self.alike = hashlib.sha256(repr(self.fields).encode(errors="surrogatepass")).hexdigest()
        self.program = self.program or self.registration.instance or ""

    @property
    def type(self) -> str:
        """The type it registered as."""
        return self.registration.type

    @property
    def held_by(self) -> "Lease | None":
        """Its lease while it is leased; None otherwise."""
        return self.lease if self.state is AdapterState.LEASED else None

    @property
    def log_context(self) -> LogContext:
        """What log records of its requests are about."""
        lease = self.held_by
        if lease is None:
            return LogContext(adapter=self.uuid)
        return LogContext(lease.session, lease.case, self.role or "", self.uuid)

    @property
    def usable_again(self) -> bool:
        """Whether it can be reset for another case."""
        channel = self.channel
        idle = channel.failure is None and channel.exit_reason is None and channel.outstanding is None
        return self.registration.reusable is True and idle


@dataclass(slots=True, eq=False)
class Lease:
    """The exclusive claim of one attempt on its adapters. Their late uploads still go through it.

    :param on_lost: called with the role and the error of a lost adapter, and whether an action of the test
        raises that error.
    :ivar uploads: the file of the latest upload of each role and name.
    :ivar uploaded_bytes: what all uploads take of the limit.
    """

    session: str
    case: str
    attempt: int
    adapters: Mapping[str, Adapter]
    folder: AttemptFolder
    emit: Callable[..., None]
    on_lost: Callable[[str, AdapterFailure, bool], None]
    released: bool = False
    uploads: dict[tuple[str, str], Path] = field(default_factory=dict)
    uploaded_bytes: int = 0

    def uploaded(self, role: str, adapter: str, upload: Upload, folder: Path) -> None:
        """Record a file that the client in a role uploaded, also after the attempt.

        :param folder: where it is, below the attempt's folder.
        """
        path = folder / upload.path
        self.uploads[role, upload.name] = path
        below = path.relative_to(self.folder.path).as_posix()
        self.emit(upload, role=role, adapter=adapter, path=below)
