"""The events of the lab: one frozen dataclass for each kind, and the JSON that they travel as.

``events.jsonl``, the HTTP event stream and ``trafficlight watch`` share :func:`event_line` and
:func:`parse_event`; ``docs/reference/events.md`` is generated from the classes.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from inspect import get_annotations
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, cast, get_args

from pydantic import TypeAdapter


class State(StrEnum):
    """The state of a case."""

    WAITING = "waiting"
    PREPARING = "preparing"
    RUNNING = "running"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


FINAL = frozenset({State.SUCCESS, State.FAILURE, State.ERROR, State.SKIPPED})

_CONTEXT = ("session", "case", "attempt", "role", "adapter")
_UNSET = datetime.min.replace(tzinfo=UTC)
_KINDS: "dict[str, type[Event]]" = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base class of all events. The journal sets the sequence number and the time.

    :cvar kind: the kind, as JSON names it: the name of the class in snake case.
    :cvar schema: the version of the kind's fields; grows when a field changes its meaning or is removed.
    :cvar data_names: the fields of the kind, which JSON holds below ``data``.
    :cvar open_names: those of them that hold whatever an adapter, a test or the configuration put there.
    :cvar text_names: those of them that are texts.
    :param sequence: position in the session's log, from 1, without gaps.
    :param time: when it happened, UTC.
    :param session: the session's id; empty for an event that belongs to no session.
    :param case: the case's id.
    :param attempt: the attempt's number, from 1.
    :param role: the role in the case.
    :param adapter: the adapter's UUID.
    """

    kind: ClassVar[str] = ""
    schema: ClassVar[int] = 1
    data_names: ClassVar[tuple[str, ...]] = ()
    open_names: ClassVar[tuple[str, ...]] = ()
    text_names: ClassVar[tuple[str, ...]] = ()

    sequence: int = 0
    time: datetime = _UNSET
    session: str = ""
    case: str | None = None
    attempt: int | None = None
    role: str | None = None
    adapter: str | None = None

    def __init_subclass__(cls) -> None:
        # Not from `cls`: slots=True creates each class twice, with the attributes of the first one.
        base: type[Event] = cls.__mro__[1]
        own = {name: hint for name, hint in get_annotations(cls).items() if name not in _CONTEXT}
        cls.data_names = (*base.data_names, *own)
        cls.open_names = (*base.open_names, *(n for n, hint in own.items() if hint == Mapping[str, Any]))
        cls.text_names = (*base.text_names, *(name for name, hint in own.items() if hint is str))
        cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        if not cls.__name__.startswith("_"):
            _KINDS[cls.kind] = cls

    @property
    def case_ids(self) -> tuple[str, ...]:
        """The ids of the cases that the event concerns."""
        return () if self.case is None else (self.case,)

    def as_json(self) -> dict[str, Any]:
        """Return the event as a JSON object; unset context (session, case, ...) is left out."""
        content: dict[str, Any] = {  # the first three keys are what line_head() reads, in this order
            "sequence": self.sequence,
            "time": self.time.isoformat(),
            "kind": self.kind,
            "schema": self.schema,
        }
        for name in _CONTEXT:
            if (value := getattr(self, name)) not in (None, ""):
                content[name] = value
        content["data"] = self.content()
        return content

    def content(self) -> dict[str, Any]:
        """Return the fields of its kind: those that JSON holds below ``data``."""
        return {name: getattr(self, name) for name in self.data_names}


@dataclass(frozen=True, slots=True)
class Expected:
    """Why a case is expected to fail.

    :param reason: the reason.
    :param link: where it is tracked; may be empty.
    :param outcome: ``failure``, ``error`` or ``any`` of the two, as in events of earlier versions.
    :param sometimes: whether a success is expected, too.
    """

    reason: str
    link: str = ""
    outcome: str = "any"
    sometimes: bool = False

    def covers(self, state: State) -> bool:
        """Return whether a failure or an error is the expected one."""
        return self.outcome in ("any", state)


# Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStarted(Event):
    """A session started; its cases follow.

    :param versions: versions of ``trafficlight``, ``python`` and ``platform``.
    :param configuration: the settings, without secrets.
    :param command: the command line that started the session.
    :param host: the machine's name.
    :param user: the user's name.
    :param seed: the seed of the sample; null without ``--sample``.
    :param cases: the number of planned cases.
    :param warnings: what of the request or the settings has no effect.
    :param strict: whether unsupported cases and warnings make the exit code 3.
    :param shard: which part of the planned cases it runs, from 1, and of how many; null if all.
    :param commit: that of the repository of the tests, or of the working directory if all of them are built
        in; empty if unknown.
    :param dirty: whether files of that repository had changes that were not committed.
    :param job: the link of the CI job; empty outside of one.
    :param merged: the sessions of the shards that it was merged from, each with the time of its start.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    host: str = ""
    user: str = ""
    seed: int | None = None
    cases: int = 0
    warnings: tuple[str, ...] = ()
    strict: bool = False
    shard: tuple[int, int] | None = None
    commit: str = ""
    dirty: bool = False
    job: str = ""
    merged: tuple[tuple[str, datetime], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStopped(Event):
    """A session was stopped: no more cases start, not even after a restart of the coordinator.

    :param reason: the reason.
    :param cancelled: whether a user cancelled it.
    """

    reason: str
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """A session ended.

    :param counts: the number of cases in each state.
    :param exit_code: the exit code that the session determines.
    :param interrupted: whether it was interrupted.
    :param incomplete: what is missing in its folder, and why; empty if nothing is. An event with it corrects
        the one before.
    """

    counts: Mapping[State, int] = field(default_factory=dict)
    exit_code: int
    interrupted: bool = False
    incomplete: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Event):
    """A test file or test class cannot run.

    :param file: the test file, relative to its root.
    :param line: the line in it; null where the problem concerns the whole file.
    :param problem: what is wrong.
    :param hint: how to fix it; may be empty.
    :param path: as in ``case_planned``.
    """

    file: str
    line: int | None = None
    problem: str
    hint: str = ""
    path: str = ""


# Cases


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannedCase(Event):
    """A case of the plan.

    :param suite: the id of its test.
    :param file: the test file.
    :param line: the line of the test class.
    :param class_name: the test class.
    :param method: the test method.
    :param clients: the name of the client type in each client role.
    :param servers: the name of the server type in each server role.
    :param parameters: the other arguments, as JSON; other values as text in angle brackets, as in case ids.
    :param skip: why no session runs the case; null if one does.
    :param skip_type: ``ignored`` (the selection ignores it) or ``unsupported``; null if it runs.
    :param expected: set if the case is expected to fail: ``reason`` and ``link``.
    :param path: the test file from the root of its repository, else from the working directory; empty if that
        is ``file``, or it is in neither.
    """

    case: str
    suite: str = ""
    file: str = ""
    line: int | None = None
    class_name: str = ""
    method: str = ""
    clients: Mapping[str, str] = field(default_factory=dict)
    servers: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    skip: str | None = None
    skip_type: str | None = None
    expected: Expected | None = None
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePlanned(_PlannedCase):
    """A case was planned: it waits, or is skipped from the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseElsewhere(_PlannedCase):
    """A case of the plan is in another shard: another session runs it.

    :param shard: the shard that it is in, from 1.
    """

    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseWaits(Event):
    """Cases wait, all for the same reason. Recorded when the reason changes, every 2 to 30 s at most.

    :param reason: what they wait for.
    :param cases: their ids.
    """

    reason: str
    cases: tuple[str, ...] = ()

    @property
    def case_ids(self) -> tuple[str, ...]:
        """The ids of the cases that wait."""
        return self.cases if self.case is None else (self.case,)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseState(Event):
    """An attempt of a case reached a state that is not final.

    :param state: ``preparing`` (its homeservers are started) or ``running`` (its test code runs).
    """

    case: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseEnded(Event):
    """An attempt of a case ended, or a case ended without one.

    :param state: ``success``, ``failure``, ``error`` or ``skipped``.
    :param message: what happened; the first line is fit for a list.
    :param traceback: where in the test; may be empty.
    :param phase: ``waiting``, ``prepare``, ``load``, ``setup``, ``run``, ``teardown`` or ``interrupted``.
    :param seconds: duration of the attempt.
    :param will_retry: whether another attempt follows.
    :param expected: set if the case is expected to fail: ``reason`` and ``link``.
    :param source: the test's source around the line that failed, numbered; may be empty.
    """

    case: str
    state: State
    message: str = ""
    traceback: str = ""
    phase: str = ""
    seconds: float = 0.0
    will_retry: bool = False
    expected: Expected | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCancelled(Event):
    """A user cancelled a case: it ends next, and is not tried again. ``attempt`` is the running one, if any.

    :param reason: how, and why if that was said.
    """

    case: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRerun(Event):
    """A user wants a further attempt of a case that has ended: it waits again.

    :param reason: how, and why if that was said.
    """

    case: str
    reason: str


# Adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRegistered(Event):
    """An adapter registered.

    :param registration: what it registered with.
    """

    adapter: str
    registration: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLeased(Event):
    """An adapter was leased to an attempt, for a role.

    :param registration: what it registered with.
    """

    adapter: str
    registration: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReleased(Event):
    """The lease of an adapter ended.

    :param reason: the reason.
    """

    adapter: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLost(Event):
    """An adapter went silent, failed or broke the protocol.

    :param reason: the reason.
    """

    adapter: str
    reason: str = ""


# Actions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Action(Event):
    """Something happened to an action.

    :param id: the action's id, on the wire and in all events of this action.
    :param action: the action's name.
    """

    id: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSent(_Action):
    """A test asked the client in a role for an action.

    :param data: its parameters; secrets are replaced by ``***``.
    :param where: file and line of the test that asked; empty if unknown.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionDelivered(_Action):
    """An adapter received an action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Response(_Action):
    """An adapter responded.

    :param response: the response; secrets are replaced by ``***``.
    :param seconds: time from the request to the response.
    """

    response: Mapping[str, Any] = field(default_factory=dict)
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionAnswered(_Response):
    """An adapter responded to an action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFailed(_Action):
    """An action failed.

    :param type: ``action`` (the client could not do it), ``adapter`` (the adapter failed or did not respond
        in time), ``unsupported`` (the adapter cannot do it) or ``cut_off`` (the test stopped waiting).
    :param path: the place in the client that the adapter named; may be empty.
    :param details: what went wrong.
    :param seconds: time from the request to the failure.
    """

    type: Literal["action", "adapter", "unsupported", "cut_off"] = "adapter"
    path: str = ""
    details: str = ""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLate(_Response):
    """An adapter responded to an action that had ended, for instance at its deadline. It has no effect."""


# Homeservers


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReady(Event):
    """The homeserver in a role is ready.

    :param server_name: its server name.
    :param cs_api: the URL of its client-server API.
    :param version: its version; may be empty.
    :param type: the name of its server type.
    :param image: the container image that it runs from; empty where it runs from none.
    :param seconds: time that the homeservers of the case took to start.
    :param shared: whether other cases had it, too.
    """

    server_name: str
    cs_api: str
    version: str = ""
    type: str = ""
    image: str = ""
    seconds: float = 0.0
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFailed(Event):
    """The homeservers of a case could not be started.

    :param reason: the reason.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerExited(Event):
    """The homeserver in a role exited, and the test had not requested that. Noticed within a second.

    :param how: its exit code or signal.
    """

    how: str


# What tests and adapters leave


@dataclass(frozen=True, slots=True, kw_only=True)
class _File(Event):
    """A file is in the attempt's folder.

    :param name: the name that the adapter or the test gave.
    :param path: the file, relative to the attempt's folder.
    :param size: bytes.
    :param media_type: the media type.
    """

    name: str
    path: str
    size: int = 0
    media_type: str = ""

    @property
    def is_image(self) -> bool:
        """Whether browsers show it inline."""
        return self.size > 0 and (
            self.media_type.startswith("image/")
            or self.path.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".webp"))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload(_File):
    """An adapter uploaded a file, possibly after the case ended.

    :param sha256: the SHA-256 of the content, in hexadecimal.
    """

    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment(_File):
    """A test attached a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Event):
    """A test recorded a number.

    :param name: the name that the test gave.
    :param value: the number; infinities are the texts ``inf`` and ``-inf``, and no number is ``nan``.
    :param unit: the unit that the test gave; may be empty.
    :param at: when it was measured, in seconds since 1970, if the test said so; else it is the event's time.
    """

    name: str
    value: float
    unit: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned(Event):
    """A test returned something.

    :param result: the returned value, as ``value``; empty if it is lost.
    :param problem: why it is lost; empty if it is kept.
    """

    result: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Event):
    """A line was logged by a test, or by the coordinator about a case or an adapter.

    :param level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
    :param logger: ``test``, ``homeserver``, ``pool`` or another part of the coordinator.
    :param message: the line.
    """

    level: str = "info"
    logger: str = ""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChanged(Event):
    """A test changed the network of the client or the homeserver in a role, or broke nodes of the cluster.

    :param rule: what it does to which requests, or ``offline``; what a fault does to which services or nodes.
    :param active: whether it is in effect from now on.
    """

    rule: str
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChanged(Event):
    """A service of a test started, stopped, or failed to.

    :param service: its id: the name of its class, and a number.
    :param what: ``start``, ``wait``, ``stop``, ``clean`` or ``collect`` when that begins, and ``started``,
        ``waited``, ``stopped`` or ``cleaned`` when it is done.
    :param nodes: the names of its nodes.
    :param problem: what went wrong; empty if nothing did.
    """

    service: str
    what: str
    nodes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBegan(Event):
    """A test began something other than an action: a step of its own, a wait, an operation on a homeserver.

    :param id: the step's id, unique in the attempt.
    :param name: what it does.
    :param where: file and line of the test; empty if unknown.
    """

    id: str
    name: str
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnded(Event):
    """What a ``step_began`` stands for has ended.

    :param id: the step's id.
    :param name: what it did.
    :param seconds: its duration.
    :param problem: the exception that ended it; empty if none did.
    """

    id: str
    name: str
    seconds: float
    problem: str = ""


TestEvent: TypeAlias = (
    Measurement | Returned | Attachment | Log | NetworkChanged | ServiceChanged | StepBegan | StepEnded
)
"""What a running test can emit; the coordinator accepts nothing else from a worker."""


# JSON


class LineHead(NamedTuple):
    """The first keys of an event's line."""

    sequence: int
    kind: str


LINE_BEGINNING = rb'\{"sequence":(\d+),"time":"[^"]*","kind":"'
"""A pattern for how :func:`event_line` begins a line, up to the kind."""

_HEAD = re.compile(LINE_BEGINNING + rb'(\w+)"')


def kinds() -> list[type[Event]]:
    """Return the class of every kind, in the order of their definition."""
    return list(_KINDS.values())


def event_line(event: Event, sequence: int | None = None) -> bytes:
    """Return an event as one line of ASCII JSON, whatever its fields hold.

    :param sequence: its position in this log; by default the event's own.
    """
    content = event.as_json()
    if sequence is not None:
        content["sequence"] = sequence
    try:
        text = _encode(content)
    except (ValueError, TypeError):  # infinities are no JSON, and keys may be anything in Python
        text = _encode(jsonable(content))
    return text.encode("ascii") + b"\n"


def line_head(line: bytes) -> LineHead | None:
    """Return sequence and kind of a line that holds an event, of any kind; None for other lines.

    Does not parse the rest of lines that :func:`event_line` wrote.
    """
    if (found := _HEAD.match(line)) is not None:
        return LineHead(int(found[1]), found[2].decode())
    event = parse_event(line)  # written by another program
    return LineHead(event.sequence, event.kind) if event is not None else None


def parse_event(line: bytes) -> Event | None:
    """Return the event on a line; None for a line that is no event, or whose kind is unknown here.

    Unknown fields are ignored: a newer version may have written them.
    """
    try:
        return event_of(json.loads(line))
    except (ValueError, RecursionError):
        return None


def event_of(content: Any) -> Event | None:
    """Return the event in a parsed JSON object, as :func:`parse_event` does."""
    try:
        return _validator(content["kind"])({**content, **content.get("data", {})})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def event_from_test(content: Any) -> TestEvent | None:
    """Return the event in a JSON object from a worker; None unless tests can emit it.

    An attachment must be a file in the attempt's folder: CI systems publish what ``junit.xml`` names.
    """
    event = event_of(content)
    if isinstance(event, Attachment):
        path = PurePosixPath(event.path)
        return None if path.is_absolute() or ".." in path.parts else event
    return cast("TestEvent", event) if isinstance(event, get_args(TestEvent)) else None


def jsonable(value: Any) -> Any:
    """Return a value as JSON can hold it: keys as texts, infinities by their names."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_plain).encode


@cache
def _validator(kind: str) -> Callable[[Any], Event]:
    """Return what builds an event of a kind; it raises `ValidationError`, which is a `ValueError`."""
    return TypeAdapter(_KINDS[kind]).validator.validate_python
