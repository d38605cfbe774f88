"""One try of a case: what it holds, what its test may ask for, and what became of it."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trafficlight.clients.link import ServerOperation
from trafficlight.clock import Clock
from trafficlight.coordinator.adapter import Adapter
from trafficlight.coordinator.channel import Outcome
from trafficlight.coordinator.uploads import Upload
from trafficlight.errors import ActionError, AdapterError, LabError
from trafficlight.homeservers.provider import RunningServer
from trafficlight.protocol import ActionMessage, JsonObject
from trafficlight.results.events import EventKind
from trafficlight.results.folder import AttemptFolder
from trafficlight.results.journal import Journal
from trafficlight.suites.model import Case
from trafficlight.text import MESSAGE_LIMIT, truncate


@dataclass(eq=False)
class Attempt:
    """One try of a case. Implements the test's link to the lab, and the claim that holds its adapters.

    :param session: the session's id.
    :param case_model: the case.
    :param number: from 1.
    :param folder: where its files go.
    :param action_deadline: seconds that a client has for one action.
    :param hosts: where its homeservers have room, by server type.
    """

    session: str
    case_model: Case
    number: int
    folder: AttemptFolder
    journal: Journal
    clock: Clock
    action_deadline: float
    hosts: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    servers: dict[str, RunningServer] = field(default_factory=dict)
    #: Set when the attempt cannot go on: an adapter is gone that no action of the test waits for.
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    #: The first failure of each role's adapter.
    failures: dict[str, LabError | ActionError] = field(default_factory=dict)
    _uploads: dict[tuple[str, str], Upload] = field(default_factory=dict)
    _uploaded_bytes: int = 0
    #: The actions that were outstanding when the test no longer waited for them.
    cut_off: list[str] = field(default_factory=list)

    # The claim on the adapters

    @property
    def case(self) -> str:
        """The case's id."""
        return self.case_model.id

    @property
    def attempt(self) -> int:
        """The attempt's number."""
        return self.number

    def adapter_failed(self, role: str, error: LabError | ActionError, *, told: bool) -> None:
        """Learn that the adapter in a role is gone; `told` says that an action of the test raised it."""
        self.failures.setdefault(role, error)
        if not told:
            self.broken.set()

    # The test's link

    async def perform(self, role: str, action: str, data: JsonObject) -> JsonObject:
        """Ask the client in a role for one action and return its response, verbatim."""
        adapter = self.adapters[role]
        id = secrets.token_hex(8)
        self.tell(EventKind.ACTION_SENT, role=role, adapter=adapter.uuid, id=id, action=action, data=data)
        asked = self.clock.monotonic()
        over = False

        def ended(outcome: Outcome, seconds: float) -> None:
            nonlocal over
            over = True
            self._tell_ended(role, id, action, outcome, seconds)

        try:
            return await adapter.channel.perform(action, data, self.action_deadline, id=id, on_end=ended)
        except (ActionError, LabError) as error:
            raise _named(error, role, action) from None
        except asyncio.CancelledError:
            if not over:
                seconds = self.clock.monotonic() - asked
                self.cut_off.append(f"{role} was at {action} for {seconds:.1f} s")
                cut_off = AdapterError("the test no longer waited for it", role=role)
                self._tell_ended(role, id, action, cut_off, seconds, kind="cut_off")
            raise

    def _tell_ended(
        self, role: str, id: str, action: str, outcome: Outcome, seconds: float, *, kind: str | None = None
    ) -> None:
        about = {"role": role, "adapter": self.adapters[role].uuid}
        if not isinstance(outcome, Exception):
            self.tell(
                EventKind.ACTION_ANSWERED, **about, id=id, action=action, response=outcome, seconds=seconds
            )
            return
        self.tell(
            EventKind.ACTION_FAILED,
            **about,
            id=id,
            action=action,
            type=kind or ("action" if isinstance(outcome, ActionError) else "adapter"),
            path=getattr(outcome, "path", ""),
            details=getattr(outcome, "message", str(outcome)),
            seconds=seconds,
        )

    async def upload(self, role: str, name: str) -> Path:
        """Return the file that the client in a role uploaded under a name; the last one of that name."""
        try:
            return self._uploads[role, name].path
        except KeyError:
            sent = sorted(known for owner, known in self._uploads if owner == role)
            message = f"uploaded no file {name!r}; it uploaded {', '.join(sent) or 'nothing'}"
            raise AdapterError(message, role=role) from None

    async def operate(self, role: str, operation: ServerOperation) -> None:
        """Do something to the homeserver in a role."""
        self.tell(EventKind.LOG, role=role, level="info", logger="homeserver", message=f"{operation} {role}")
        await self.servers[role].operate(operation)

    def measured(self, name: str, value: float, unit: str) -> None:
        """Remember a measurement."""
        self.tell(EventKind.MEASUREMENT, name=name, value=value, unit=unit)

    def attached(self, name: str, path: Path, media_type: str) -> None:
        """Remember a file that the test put into the attempt's folder."""
        below = path.relative_to(self.folder.path).as_posix()
        self.tell(
            EventKind.ATTACHMENT, name=name, path=below, size=path.stat().st_size, media_type=media_type
        )

    def logged(self, level: str, message: str) -> None:
        """Remember a line of the test's own log."""
        self.tell(EventKind.LOG, level=level, logger="test", message=truncate(message, MESSAGE_LIMIT))

    # What comes from elsewhere

    @property
    def uploaded_bytes(self) -> int:
        """The size of everything that was uploaded for it."""
        return self._uploaded_bytes

    def client_folder(self, role: str) -> Path:
        """Return the folder that a role's uploads go to; it is made."""
        return self.folder.client(role)

    def uploaded(self, role: str, adapter: str, upload: Upload) -> None:
        """Take a file in that a client sent, however late."""
        self._uploads[role, upload.name] = upload
        self._uploaded_bytes += upload.size
        self.tell(
            EventKind.UPLOAD,
            role=role,
            adapter=adapter,
            name=upload.name,
            path=upload.path.relative_to(self.folder.path).as_posix(),
            size=upload.size,
            sha256=upload.sha256,
            media_type=upload.media_type,
        )

    def hold(self, adapters: Mapping[str, Adapter]) -> None:
        """Take the adapters of the lease over."""
        self.adapters = adapters
        for role, adapter in adapters.items():
            adapter.channel.on_delivered = self._delivered(role, adapter)

    def _delivered(self, role: str, adapter: Adapter) -> Callable[[ActionMessage], None]:
        def delivered(message: ActionMessage) -> None:
            self.tell(
                EventKind.ACTION_DELIVERED,
                role=role,
                adapter=adapter.uuid,
                id=message.id,
                action=message.action,
            )

        return delivered

    def tell(
        self, kind: EventKind, *, role: str | None = None, adapter: str | None = None, **data: Any
    ) -> None:
        """Record an event of this attempt."""
        self.journal.append(
            kind,
            session=self.session,
            case=self.case,
            attempt=self.number,
            role=role,
            adapter=adapter,
            **data,
        )


def _named(error: ActionError | LabError, role: str, action: str) -> ActionError | LabError:
    """Return the error with the role and action that it concerns in its message."""
    if isinstance(error, ActionError | AdapterError):
        kind = ActionError if isinstance(error, ActionError) else AdapterError
        named = error.action or action
        # Some adapters name the action themselves.
        return kind(error.message.removeprefix(f"{named}: "), role=role, action=named, path=error.path)
    return type(error)(f"{role}: {error}")
