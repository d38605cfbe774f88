"""What may fill a client role: a client type matches the registration of an adapter."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias, runtime_checkable

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from trafficlight.clients import Client, ElementCallClient, MatrixClient
from trafficlight.clients import NetworkProxyClient as _NetworkProxyClient
from trafficlight.errors import LabError
from trafficlight.text import nearest

__all__ = [
    "CLIENT_GROUPS",
    "CLIENT_NAME",
    "AnyCallClient",
    "AnyMatrixClient",
    "Candidate",
    "ClientMatcher",
    "ClientType",
    "ClientTypeSpec",
    "CustomMatch",
    "ElementAndroid",
    "ElementCall",
    "ElementIos",
    "ElementWeb",
    "ElementWebDevelop",
    "ElementWebStable",
    "HydrogenWeb",
    "JsSdk",
    "MautrixGo",
    "NetworkProxy",
    "Nio",
    "RustSdk",
    "as_client_type",
    "client_class",
    "client_types_of",
    "spec_of",
]

# `type` is an attribute inside the classes below.
ClientClass: TypeAlias = type[Client]

_CHANNELS = frozenset({"stable", "develop"})
PINNED = "pinned"
"""The label of an adapter that was built for the cases which name its version, and serves no others."""
DEVELOP = "==develop"
"""The version of an adapter with the label ``develop``: of the newest version that was published."""


class Candidate(Protocol):
    """What `match` receives: an adapter's registration, as it was sent."""

    @property
    def registration(self) -> Mapping[str, Any]:
        """The fields of the registration; ``registration["type"]`` is always there."""
        ...


@runtime_checkable
class ClientMatcher(Protocol):
    """The minimum for a client role. Every :class:`ClientType` satisfies it."""

    def name(self) -> str:
        """Return the name in case ids."""
        ...

    def match(self, adapter: Any, /) -> bool:
        """Return whether an adapter can fill the role."""
        ...


class ClientType:
    """Selects the adapters that may fill a client role.

    A custom type needs the registration's ``type`` and nothing else::

        class MyClient(ClientType):
            type = "my-client"

    The parameters narrow a type and become part of its name; a subclass may set the attributes instead.

    :param version: an exact version such as ``43.0.0``, ``develop`` for the newest published one, or version
        constraints, e.g. ``>=0.26,<1``; a version that is not PEP 440 never matches.
    :param labels: words that the registration's ``labels`` must all contain.
    :param actions: actions that the adapter must support; an adapter that declares none is assumed to.
    :raises packaging.specifiers.InvalidSpecifier: `version` is none of these.

    :cvar type: the registration's ``type``.
    :cvar version: version constraints; empty for any version.
    :cvar labels: words that the registration's ``labels`` must all contain.
    :cvar actions: actions that the adapter must support.
    :cvar channel: ``stable`` or ``develop``; rejects adapters that are labelled with the other one only.
    :cvar client: the class that `run()` receives.
    """

    type: str = ""
    version: str = ""
    labels: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    channel: str = ""
    client: ClientClass = MatrixClient

    def __init__(
        self, version: str | None = None, *, labels: Iterable[str] = (), actions: Iterable[str] = ()
    ) -> None:
        self._narrowed: list[str] = []
        if version is not None:
            self.version = _constraint(version)
            self._narrowed.append(f"version{self.version}")
        if wanted := _words(labels):
            self.labels = self.labels | wanted
            self._narrowed.append("labels=" + "+".join(sorted(wanted)))
        if wanted := _words(actions):
            self.actions = self.actions | wanted
            self._narrowed.append("actions=" + "+".join(sorted(wanted)))

    def name(self) -> str:
        """Return the name in case ids: the class, and the parameters that narrow it."""
        # A subclass that does not call super().__init__() is not narrowed.
        narrowed = getattr(self, "_narrowed", ())
        return type(self).__name__ + (f"({','.join(narrowed)})" if narrowed else "")

    def match(self, adapter: Candidate) -> bool:
        """Return whether an adapter can fill the role."""
        return _matches(self, adapter.registration)

    def __repr__(self) -> str:
        return self.name()


class Nio(ClientType):
    """The client library matrix-nio, without a user interface; its adapter ships with trafficlight."""

    type = "nio"


class JsSdk(ClientType):
    """The client library matrix-js-sdk on Node; its driver comes with trafficlight."""

    type = "js-sdk"


class MautrixGo(ClientType):
    """The client library mautrix-go; its driver comes with trafficlight."""

    type = "mautrix-go"


class RustSdk(ClientType):
    """The client library matrix-rust-sdk; its driver comes with trafficlight."""

    type = "rust-sdk"


class ElementWeb(ClientType):
    """Element's user interface in a browser, of any build; a driver for it comes with trafficlight."""

    type = "element-web"


class ElementWebStable(ElementWeb):
    """A released Element Web, on an adapter of yours; one without a channel's label serves as both."""

    channel = "stable"


class ElementWebDevelop(ElementWeb):
    """Element Web from its development branch; see :class:`ElementWebStable`."""

    channel = "develop"


class HydrogenWeb(ClientType):
    """Hydrogen in a browser; its driver comes with trafficlight."""

    type = "hydrogen-web"


class ElementAndroid(ClientType):
    """Element on Android."""

    type = "element-android"


class ElementIos(ClientType):
    """Element on iOS."""

    type = "element-ios"


class ElementCall(ClientType):
    """Element Call in a browser; its driver comes with trafficlight."""

    type = "element-call"
    client = ElementCallClient


class NetworkProxy(ClientType):
    """A proxy between clients and a homeserver that can block and delay requests."""

    type = "network-proxy"
    client = _NetworkProxyClient

    def match(self, adapter: Candidate) -> bool:
        """Return whether an adapter is a proxy that registered its ``endpoint``."""
        return _has_endpoint(adapter.registration) and super().match(adapter)


class AnyMatrixClient(ClientType):
    """Any Matrix client: those that the session names (`--clients`, `CLIENTS`), one after another.

    :param labels: see :class:`ClientType`; narrows all of them.
    :param actions: likewise.
    :cvar missing: why the cases are skipped if the session names none.
    """

    missing = "the session has no client for messages: --clients nio names one"

    def __init__(self, *, labels: Iterable[str] = (), actions: Iterable[str] = ()) -> None:
        super().__init__(labels=labels, actions=actions)

    def filled_by(self, chosen: Iterable[ClientType]) -> Iterator[ClientType]:
        """Yield those of the types that the session names that fit, narrowed like this one."""
        for one in map(copy, (one for one in chosen if one.client is self.client)):
            one.labels, one.actions = one.labels | self.labels, one.actions | self.actions
            one._narrowed = [*one._narrowed, *self._narrowed]
            yield one


class AnyCallClient(AnyMatrixClient):
    """Any client for calls; see :class:`AnyMatrixClient`."""

    client = ElementCallClient
    missing = "the session has no client for calls: --clients element-call names one"


class _Named(ClientType):
    """A client type that no class stands for; its name is that of its adapters' type."""

    def __init__(self, type: str, *, version: str | None = None) -> None:
        super().__init__(version=version)
        self.type = type

    def name(self) -> str:
        return self.type + super().name().removeprefix("_Named")


_NAMED: Mapping[str, type[ClientType]] = {
    name.casefold(): kind
    for kind in (
        Nio,
        JsSdk,
        MautrixGo,
        RustSdk,
        ElementWebStable,
        ElementWebDevelop,
        ElementWeb,
        HydrogenWeb,
        ElementAndroid,
        ElementIos,
        ElementCall,
    )
    for name in (kind.__name__, kind.type)
}
CLIENT_NAME = re.compile(r"([\w-]+)(==[\w.+!-]+)?")
"""What names a client that a session chooses."""

CLIENT_GROUPS: Mapping[str, tuple[str, ...]] = {
    "sdk": ("nio", "js-sdk", "mautrix-go", "rust-sdk"),
    "browser": ("hydrogen-web", "element-web", "element-call"),
    "all": ("nio", "js-sdk", "mautrix-go", "rust-sdk", "hydrogen-web", "element-web", "element-call"),
}
"""The clients that come with trafficlight, by the name of their group."""


def client_types_of(names: Iterable[str]) -> tuple[ClientType, ...]:
    """Return the client types of names, each once.

    :param names: what adapters register as, such as ``js-sdk``, names of classes, or groups; a version may
        follow, as in ``js-sdk==43.0.0``.
    :raises ValueError: a name is malformed.
    """
    found: dict[str, ClientType] = {}
    for name in itertools.chain.from_iterable(CLIENT_GROUPS.get(name, (name,)) for name in names):
        matched = CLIENT_NAME.fullmatch(name)
        if matched is None:
            raise ValueError(f"{name!r} is no client: write a type such as js-sdk, or js-sdk==43.0.0")
        type, version = matched.groups()
        made = _NAMED.get(type.casefold(), partial(_Named, type))
        kind = made(version=version)
        found.setdefault(kind.name(), kind)
    return tuple(found.values())


@lru_cache
def did_you_mean(name: str, others: tuple[str, ...] = ()) -> str:
    """Return ``, did you mean NAME?`` if a name is close to that of a known client or group, else nothing.

    :param others: further names that are known here.
    """
    known = (*others, *(kind.type for kind in _NAMED.values()), *CLIENT_GROUPS)
    close = nearest(name.casefold(), known) if not {name, name.casefold()} & {*known} else ""
    return f", did you mean {close}?" if close else ""


class _Adapted(ClientType):
    """Adapts a duck-typed client type."""

    def __init__(self, matcher: ClientMatcher) -> None:
        super().__init__()
        self.matcher = matcher

    def name(self) -> str:
        return str(self.matcher.name())

    def match(self, adapter: Candidate) -> bool:
        return bool(self.matcher.match(adapter))


# Decides whether an adapter fits a type with its own `match`.
Evaluate: TypeAlias = "Callable[[ClientTypeSpec, Mapping[str, Any]], bool] | None"


@dataclass(frozen=True, slots=True)
class CustomMatch:
    """Where to find a client type whose class defines its own `match`.

    :param path: the test file.
    :param version: modification time and size of the file.
    :param identity: distinguishes types of the same name.
    :param class_name: a Test class that uses the type.
    :param role: the role that it may fill there.
    """

    path: Path
    version: tuple[int, int]
    identity: str
    class_name: str = field(compare=False)
    role: str = field(compare=False)


@dataclass(slots=True, unsafe_hash=True)
class ClientTypeSpec:
    """A client type as plain data: all that the coordinator knows of it. Equal ones match the same adapters.

    :param type_name: the name in case ids.
    :param needs_endpoint: whether only a network proxy with an ``endpoint`` matches.
    :param custom: where to find the type if it defines its own `match`; None if the attributes decide.
    :ivar evaluate: calls the type's own `match`; set by the process that holds the plan.
    """

    type_name: str
    type: str = ""
    version: str = ""
    channel: str = ""
    labels: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    needs_endpoint: bool = False
    custom: CustomMatch | None = None
    evaluate: Evaluate = field(default=None, init=False, compare=False, repr=False)

    def name(self) -> str:
        """Return the name in case ids."""
        return self.type_name

    def match(self, adapter: Candidate) -> bool:
        """Return whether an adapter can fill the role.

        :raises LabError: the type has its own `match`, and its answer is not known.
        """
        if self.custom is None:
            return _matches(self, adapter.registration)
        if self.evaluate is None:
            raise LabError(f"the match() of {self.type_name} cannot be evaluated here")
        return self.evaluate(self, adapter.registration)


def _matches(wanted: ClientType | ClientTypeSpec, registration: Mapping[str, Any]) -> bool:
    if registration["type"] != wanted.type:
        return False
    if isinstance(wanted, ClientTypeSpec) and wanted.needs_endpoint and not _has_endpoint(registration):
        return False
    labels, actions = _words(registration.get("labels")), registration.get("actions")
    channels = _CHANNELS & labels
    if PINNED in labels and not wanted.version:
        return False
    return (
        wanted.labels <= labels
        and (not wanted.channel or not channels or wanted.channel in channels)
        and (actions is None or wanted.actions <= _words(actions))
        and (not wanted.version or _satisfies(registration, labels, wanted.version))
    )


def _has_endpoint(registration: Mapping[str, Any]) -> bool:
    endpoint = registration.get("endpoint")
    return isinstance(endpoint, str) and bool(endpoint)


def spec_of(kind: ClientType, path: Path, class_name: str, role: str) -> ClientTypeSpec:
    """Return a client type as plain data.

    :param path: the test file that uses it.
    :param class_name: the Test class that uses it.
    :param role: a role that it may fill there.
    """
    matchers = {cls for cls in type(kind).__mro__ if "match" in vars(cls)}
    custom = "match" in vars(kind) or not matchers <= {ClientType, NetworkProxy}
    if not custom:
        return ClientTypeSpec(
            str(kind.name()),
            str(kind.type or ""),
            str(kind.version or ""),
            str(kind.channel or ""),
            _words(kind.labels),
            _words(kind.actions),
            needs_endpoint=NetworkProxy in matchers,
        )
    origin = kind.matcher if isinstance(kind, _Adapted) else kind
    state = sorted(getattr(origin, "__dict__", {}).items())
    identity = f"{type(origin).__module__}.{type(origin).__qualname__} {state}"
    if "<locals>" in identity:  # a function may make several classes of this name
        identity += f" {id(type(origin))}"
    status = path.stat()
    spec = ClientTypeSpec(
        str(kind.name()),
        str(kind.type or ""),
        custom=CustomMatch(path, (status.st_mtime_ns, status.st_size), identity, class_name, role),
    )
    spec.evaluate = lambda _, registration: kind.match(SimpleNamespace(registration=registration))
    return spec


def as_client_type(kind: object) -> ClientType | None:
    """Return a client type given as an instance, a class, or any object with `name` and `match`.

    :return: None for anything else.
    :raises Exception: the constructor of the class raised it.
    """
    if isinstance(kind, type):
        kind = (
            kind()
            if callable(getattr(kind, "name", None)) and callable(getattr(kind, "match", None))
            else None
        )
    if isinstance(kind, ClientType):
        return kind
    return _Adapted(kind) if isinstance(kind, ClientMatcher) else None


def client_class(kind: ClientType, annotation: object = None) -> type[Client]:
    """Return the class of the client that `run()` receives.

    The type's own ``client`` wins, unless the annotation is a subclass of it; a type without one takes the
    annotation.

    :param kind: the client type.
    :param annotation: the annotation of the role's parameter.
    """
    annotated = annotation if isinstance(annotation, type) and issubclass(annotation, Client) else None
    origin = kind.matcher if isinstance(kind, _Adapted) else kind
    stated = next(
        (vars(c)["client"] for c in type(origin).__mro__ if c is not ClientType and "client" in vars(c)), None
    )
    if not (isinstance(stated, type) and issubclass(stated, Client)):
        return annotated if annotated not in (None, Client) else MatrixClient
    return annotated if annotated is not None and issubclass(annotated, stated) else stated


def _words(value: object) -> frozenset[str]:
    """Return the strings in a list of strings, or in a single one."""
    if isinstance(value, str):
        return frozenset({value})
    words = value if isinstance(value, Iterable) else ()
    return frozenset(word for word in words if isinstance(word, str))


def _constraint(version: str) -> str:
    version = version.replace(" ", "")
    if version and version[0] not in "<>=!~":
        version = f"=={version}"
    if version != DEVELOP:
        SpecifierSet(version)
    return version


def _satisfies(registration: Mapping[str, Any], labels: frozenset[str], constraint: str) -> bool:
    if constraint == DEVELOP:
        return "develop" in labels
    try:
        version = Version(str(registration.get("version")))
        return SpecifierSet(constraint).contains(version, prereleases=True)
    except InvalidVersion:
        return False
