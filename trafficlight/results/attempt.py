"""One attempt of a case, as its events describe it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trafficlight.results.events import (
    ActionAnswered,
    ActionDelivered,
    ActionFailed,
    ActionSent,
    AdapterLeased,
    AdapterLost,
    AdapterReleased,
    Attachment,
    CaseEnded,
    CaseState,
    Event,
    Log,
    Measurement,
    ServerFailed,
    ServerReady,
    State,
    Upload,
)

_TIMELINE = (
    ActionSent
    | ActionDelivered
    | ActionAnswered
    | ActionFailed
    | AdapterLeased
    | AdapterReleased
    | AdapterLost
    | ServerReady
    | ServerFailed
    | Log
)
_LONGEST_TIMELINE = 2_000  # events of one attempt: the first and the last half; events.jsonl has all


@dataclass(slots=True)
class AttemptRecord:
    """One attempt of a case.

    :param folder: relative to the session's folder.
    :param started: when the preparation of its adapters and servers started.
    :param running_since: when its test code started.
    :param seconds: duration, from its start.
    :param timeline: actions, servers, adapters and logs, in order.
    :param dropped: the number of events left out in the middle of a very long timeline.
    :param adapters: the registration of the adapter in each client role.
    :param adapter_ids: the UUID of that adapter.
    :param servers: the homeserver in each server role.
    """

    number: int
    folder: str
    state: State = State.PREPARING
    started: datetime | None = None
    running_since: datetime | None = None
    ended: datetime | None = None
    phase: str = ""
    message: str = ""
    traceback: str = ""
    seconds: float = 0.0
    timeline: list[Event] = field(default_factory=list)
    dropped: int = 0
    uploads: list[Upload] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    adapters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    adapter_ids: dict[str, str] = field(default_factory=dict)
    servers: dict[str, ServerReady] = field(default_factory=dict)

    @property
    def files(self) -> list[Upload | Attachment]:
        """Attachments and uploads: images first, the newest image at the top."""
        every: list[Upload | Attachment] = [*self.attachments, *self.uploads]
        return [file for file in reversed(every) if file.is_image] + [
            file for file in every if not file.is_image
        ]

    def apply(self, event: Event) -> None:
        """Update the record with an event of this attempt."""
        if isinstance(event, _TIMELINE):
            self._remember(event)
        match event:
            case CaseState():
                self.state = event.state
                self.started = self.started or event.time
                if self.state is State.RUNNING:
                    self.running_since = self.running_since or event.time
            case CaseEnded():
                self.state, self.ended, self.phase = event.state, event.time, event.phase
                self.message, self.traceback, self.seconds = event.message, event.traceback, event.seconds
            case AdapterLeased(role=str(role)):
                self.adapters[role] = event.registration
                self.adapter_ids[role] = event.adapter
            case ServerReady(role=str(role)):
                self.servers[role] = event
            case Upload():
                self.uploads.append(event)
            case Attachment():
                self.attachments.append(event)
            case Measurement():
                self.measurements.append(event)
            case _:
                pass

    def _remember(self, event: Event) -> None:
        self.timeline.append(event)
        if len(self.timeline) > _LONGEST_TIMELINE:
            del self.timeline[_LONGEST_TIMELINE // 2]
            self.dropped += 1
