"""One try of a case, and what it left behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trafficlight.results.events import Event, EventKind, State

_TIMELINE = frozenset(
    {
        EventKind.ACTION_SENT,
        EventKind.ACTION_DELIVERED,
        EventKind.ACTION_ANSWERED,
        EventKind.ACTION_FAILED,
        EventKind.ADAPTER_LEASED,
        EventKind.ADAPTER_RELEASED,
        EventKind.ADAPTER_LOST,
        EventKind.SERVER_READY,
        EventKind.SERVER_FAILED,
        EventKind.LOG,
    }
)
_LONGEST_TIMELINE = 2_000  # events kept of one attempt: the first and the last half; events.jsonl has all


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that an attempt left behind.

    :param name: as whoever sent it named it.
    :param path: below the attempt's folder.
    :param size: bytes.
    :param role: the client that uploaded it; empty for the test's own attachments.
    """

    name: str
    path: str
    size: int = 0
    media_type: str = ""
    role: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it can be shown inline."""
        return self.media_type.startswith("image/") or self.path.lower().endswith(
            (".png", ".jpg", ".jpeg", ".gif", ".webp")
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number that a test recorded."""

    name: str
    value: Any
    unit: str = ""


@dataclass(slots=True)
class AttemptRecord:
    """One try of a case.

    :param folder: relative to the session's folder.
    :param started: when its adapters and servers were first being prepared.
    :param running_since: when its test code was started.
    :param seconds: how long it took, from its start.
    :param timeline: actions, servers, adapters and logs, as they happened.
    :param dropped: how many events in the middle of a very long timeline are in ``events.jsonl`` only.
    :param adapters: the registration of the adapter in every client role.
    :param adapter_ids: the uuid of that adapter.
    :param servers: what the homeserver in every server role is: `server_name`, `cs_api`, `version`, ...
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
    uploads: list[FileRecord] = field(default_factory=list)
    attachments: list[FileRecord] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    adapters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    adapter_ids: dict[str, str] = field(default_factory=dict)
    servers: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def files(self) -> list[FileRecord]:
        """Attachments and uploads: pictures first, the newest picture at the very top."""
        every = [*self.attachments, *self.uploads]
        return [file for file in reversed(every) if file.is_image] + [
            file for file in every if not file.is_image
        ]

    def apply(self, event: Event) -> None:
        """Take in what happened in this attempt."""
        data = event.data
        if event.kind in _TIMELINE:
            self._remember(event)
        match event.kind:
            case EventKind.CASE_STATE:
                self.state = State(data["state"])
                self.started = self.started or event.time
                if self.state is State.RUNNING:
                    self.running_since = self.running_since or event.time
            case EventKind.CASE_ENDED:
                self._end(event)
            case EventKind.ADAPTER_LEASED:
                if event.role is not None:
                    self.adapters[event.role] = data.get("registration") or {}
                    self.adapter_ids[event.role] = event.adapter or ""
            case EventKind.SERVER_READY:
                if event.role is not None:
                    self.servers[event.role] = data
            case EventKind.UPLOAD:
                self.uploads.append(_file(event))
            case EventKind.ATTACHMENT:
                self.attachments.append(_file(event))
            case EventKind.MEASUREMENT:
                unit = str(data.get("unit") or "")
                self.measurements.append(Measurement(str(data.get("name", "")), data.get("value"), unit))
            case _:
                pass

    def _end(self, event: Event) -> None:
        data = event.data
        self.state = State(data["state"])
        self.ended = event.time
        self.message = str(data.get("message") or "")
        self.traceback = str(data.get("traceback") or "")
        self.phase = str(data.get("phase") or "")
        seconds = data.get("seconds")
        if seconds is None and self.started is not None:
            seconds = (event.time - self.started).total_seconds()
        self.seconds = float(seconds or 0.0)

    def _remember(self, event: Event) -> None:
        self.timeline.append(event)
        if len(self.timeline) > _LONGEST_TIMELINE:
            del self.timeline[_LONGEST_TIMELINE // 2]
            self.dropped += 1


def _file(event: Event) -> FileRecord:
    data = event.data
    return FileRecord(
        name=str(data.get("name") or ""),
        path=str(data.get("path") or ""),
        size=int(data.get("size") or 0),
        media_type=str(data.get("media_type") or ""),
        role=event.role or "",
    )
