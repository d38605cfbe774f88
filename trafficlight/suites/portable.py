"""What was found in a test file, as plain data that needs none of its code.

Types and values that the file makes itself are told of: what they are called, what they match or stand for.
The real ones travel beside them, sealed, for the worker that runs the case and has imported the file.
"""

import pickle
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from trafficlight import client_types, server_types
from trafficlight.client_types import Candidate, ClientType, NetworkProxy
from trafficlight.errors import LabError, TestFileError
from trafficlight.server_types import HomeServerSpec, ServerType
from trafficlight.suites.model import Case, Sealed, ServerSlot, Suite
from trafficlight.suites.reading import Reading
from trafficlight.suites.rendering import render_value
from trafficlight.suites.selection import TypeFilter

# Cases in one piece: unpickling it is to hold nobody up.
_PIECE = 250

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
# The attributes that `ClientType.match` goes by.
_TEXTS, _WORDS = ("type", "version", "channel"), ("labels", "actions")

# Says whether an adapter can fill a role, by asking the type itself where its code may run.
Ask: TypeAlias = "Callable[[OwnMatch, Mapping[str, Any]], bool]"


@dataclass(frozen=True, slots=True)
class Shown:
    """A value that only code of a test file can make, as people are shown it.

    :param text: its representation.
    :param rendered: how it stands in case ids.
    :param scalar: the text or number that it is as well; None where it is none.
    """

    text: str
    rendered: str
    scalar: str | int | float | None = None

    def __repr__(self) -> str:
        return self.text


class ClientTypeSpec(ClientType):
    """A client type that a test file defines, told by its attributes, which are all that it matches by."""

    def __init__(self, kind: ClientType) -> None:
        super().__init__()
        self._name = kind.name()
        for name in _TEXTS:
            setattr(self, name, str(getattr(kind, name) or ""))
        for name in _WORDS:
            words = getattr(kind, name) or ()
            setattr(self, name, frozenset([words] if isinstance(words, str) else map(str, words)))

    def name(self) -> str:
        """Return the name that stands in case ids."""
        return self._name

    @property
    def identity(self) -> Hashable:
        """What makes two of them the same, whichever files define them."""
        return (
            *(getattr(self, name) for name in _TEXTS),
            *(tuple(sorted(getattr(self, name))) for name in _WORDS),
        )


class _ToldProxy(ClientTypeSpec, NetworkProxy):
    """The same for a network proxy, which must have said where clients reach it."""


def _nobody_to_ask(kind: "OwnMatch", registration: Mapping[str, Any]) -> bool:
    raise LabError(f"there is nobody to ask what {kind.name()} matches")


class OwnMatch(ClientType):
    """A client type with a `match` of its own, which is asked of where code of test files may run.

    :ivar path: the test file.
    :ivar sealed: the type itself.
    :ivar ask: how it is asked; whoever holds the plan sets it.
    """

    ask: Ask = staticmethod(_nobody_to_ask)

    def __init__(self, kind: ClientType, path: Path) -> None:
        super().__init__()
        self.type = str(kind.type)
        self._name = kind.name()
        self.path = path
        self.sealed = _sealed(kind)
        found = path.stat()
        self._stamp = (found.st_mtime_ns, found.st_size)

    def __getstate__(self) -> dict[str, Any]:
        # Who is asked stays with the plan: a worker has no need of it.
        return {name: value for name, value in vars(self).items() if name != "ask"}

    def name(self) -> str:
        """Return the name that stands in case ids."""
        return self._name

    @property
    def identity(self) -> Hashable:
        """What makes two of them the same: one state of one file, and the same content."""
        return (str(self.path), self._stamp, self.sealed.content)

    def match(self, adapter: Candidate) -> bool:
        """Return whether an adapter can fill the role, as far as is known yet."""
        return self.ask(self, adapter.registration)


class _ToldServer(ServerType):
    """A server type that a test file defines, told by what it stands for."""

    def __init__(self, kind: ServerType) -> None:
        self._name = kind.name()
        self._homeservers = [
            HomeServerSpec(str(one.type_name), str(one.recipe), str(one.version), str(one.image))
            for one in kind.homeservers()
        ]

    def name(self) -> str:
        return self._name

    def complement_types(self) -> list[str]:
        return [one.image for one in self._homeservers]

    def homeservers(self) -> list[HomeServerSpec]:
        return list(self._homeservers)


def portable(found: Reading) -> Iterator[Reading]:
    """Yield what was found in a test file in pieces that can be pickled, and need none of its code.

    :raises Exception: whatever code of the test file raises that is asked for its names and values.
    """
    teller = _Teller()
    for id, suite in found.suites.items():
        told = [teller.case(case) for case in suite.cases]
        for start in range(0, len(told) or 1, _PIECE):
            piece: Suite = replace(suite, cases=tuple(told[start : start + _PIECE]))
            yield Reading(suites={id: piece})
    yield replace(found, suites={})


def unsealed(case: Case) -> Case:
    """Return a case with its real types and parameters, in a process that has imported its test file.

    :raises Exception: they cannot be made there.
    """
    if case.sealed is None:
        return case
    clients, parameters = pickle.loads(case.sealed.content)  # noqa: S301
    return replace(case, clients=clients, parameters=parameters, sealed=None)


class _Teller:
    """Tells of each type and value once; what cases share, they share afterwards as well."""

    def __init__(self) -> None:
        self._clients: dict[int, ClientType] = {}
        self._servers: dict[int, ServerType] = {}
        self._parameters: dict[int, Mapping[str, Any]] = {}

    def case(self, case: Case) -> Case:
        clients = {role: self._client(kind, case.path) for role, kind in case.clients.items()}
        key = id(case.parameters)
        if key not in self._parameters:
            self._parameters[key] = {name: _shown(value) for name, value in case.parameters.items()}
        parameters = self._parameters[key]
        real = all(told is case.clients[role] for role, told in clients.items()) and all(
            told is case.parameters[name] for name, told in parameters.items()
        )
        return replace(
            case,
            clients=clients,
            servers=tuple(ServerSlot(self._server(slot.type), slot.roles) for slot in case.servers),
            parameters=parameters,
            sealed=None if real else _sealed((dict(case.clients), dict(case.parameters))),
        )

    def _client(self, kind: ClientType, path: Path) -> ClientType:
        if id(kind) not in self._clients:
            self._clients[id(kind)] = _told(kind, path)
        return self._clients[id(kind)]

    def _server(self, kind: ServerType) -> ServerType:
        if id(kind) not in self._servers:
            self._servers[id(kind)] = kind if _is_ours(kind) else _ToldServer(kind)
        return self._servers[id(kind)]


def _told(kind: ClientType, path: Path) -> ClientType:
    if _is_ours(kind):
        return kind
    matchers = {cls for cls in type(kind).__mro__ if "match" in vars(cls)}
    if "match" not in vars(kind) and matchers <= {ClientType, NetworkProxy}:
        return _ToldProxy(kind) if NetworkProxy in matchers else ClientTypeSpec(kind)
    return OwnMatch(kind, path)


def _is_ours(kind: ClientType | ServerType) -> bool:
    """Return whether a type is one that ships, and holds nothing else."""
    return type(kind) in _OURS and all(_is_plain(value) for value in vars(kind).values())


_OURS: frozenset[type] = frozenset(
    one
    for module in (client_types, server_types)
    for one in (getattr(module, name) for name in module.__all__)
    if isinstance(one, type) and issubclass(one, ClientType | ServerType)
)

PORTABLE: tuple[type, ...] = (
    Reading,
    Suite,
    Case,
    ServerSlot,
    Sealed,
    Shown,
    TypeFilter,
    TestFileError,
    HomeServerSpec,
    ClientTypeSpec,
    _ToldProxy,
    OwnMatch,
    _ToldServer,
    *_OURS,
)
"""The classes of which pieces of :func:`portable` are made, besides plain values and paths."""


def _is_plain(value: object) -> bool:
    match value:
        case _ if type(value) in _PLAIN:
            return True
        case list() | tuple() | set() | frozenset() if type(value) in (list, tuple, set, frozenset):
            return all(map(_is_plain, value))
        case dict() if type(value) is dict:
            return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return False


def _shown(value: Any) -> Any:
    """Return a value itself if it is plain; otherwise what shows it, in the same lists and mappings."""
    if _is_plain(value):
        return value
    match value:
        case list() | tuple() if type(value) in (list, tuple):
            return type(value)(map(_shown, value))
        case dict() if type(value) is dict and all(map(_is_plain, value)):
            return {key: _shown(item) for key, item in value.items()}
    rendered = render_value(value)
    try:
        text = repr(value)
    except Exception:
        text = rendered
    return Shown(text, rendered, value if isinstance(value, str | int | float) else None)


def _sealed(content: object) -> Sealed:
    try:
        return Sealed(pickle.dumps(content))
    except Exception as error:
        message = f"the case cannot be sent to a worker, try --workers 0: {type(error).__name__}: {error}"
        return Sealed(problem=message)
