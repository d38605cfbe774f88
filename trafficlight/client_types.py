"""What may fill a client role: a client type matches what an adapter said when it registered."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from trafficlight.clients import Client, ElementCallClient, MatrixClient
from trafficlight.clients import NetworkProxyClient as _NetworkProxyClient

__all__ = [
    "Candidate",
    "ClientMatcher",
    "ClientType",
    "ElementAndroid",
    "ElementCall",
    "ElementIos",
    "ElementWebDevelop",
    "ElementWebStable",
    "HydrogenWeb",
    "NetworkProxy",
    "Nio",
    "as_client_type",
    "client_class",
]

# Under another name, because `type` means something else inside of a client type.
ClientClass: TypeAlias = type[Client]

_CHANNELS = frozenset({"stable", "develop"})


class Candidate(Protocol):
    """What a client type is shown of an adapter: its registration, as it was sent."""

    @property
    def registration(self) -> Mapping[str, Any]:
        """The fields of the registration; ``registration["type"]`` is always there."""
        ...


@runtime_checkable
class ClientMatcher(Protocol):
    """The least that fills a client role. Any :class:`ClientType` does."""

    def name(self) -> str:
        """Return the name that stands in case ids."""
        ...

    def match(self, adapter: Any, /) -> bool:
        """Return whether an adapter can fill the role."""
        ...


class ClientType:
    """Names what fills a client role.

    A type of one's own needs the registration's ``type`` and nothing else::

        class MyClient(ClientType):
            type = "my-client"

    The parameters narrow a type down, and become part of its name; a subclass may set the attributes instead.

    :param version: which versions will do, e.g. ``>=0.26,<1``; a version that is none by PEP 440 never does.
    :param labels: words that the registration's ``labels`` must all contain.
    :param actions: what the adapter must be able to do; one that declares none is taken at its type's word.
    :raises packaging.specifiers.InvalidSpecifier: `version` is not a list of version constraints.

    :cvar type: what an adapter registers as.
    :cvar version: which versions will do; empty for any.
    :cvar labels: words that the registration's ``labels`` must all contain.
    :cvar actions: what the adapter must be able to do.
    :cvar channel: ``stable`` or ``develop``; refuses adapters that are labelled with the other one only.
    :cvar client: the class that `run()` receives.
    """

    type: str = ""
    version: str = ""
    labels: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    channel: str = ""
    client: ClientClass = MatrixClient

    def __init__(
        self, *, version: str | None = None, labels: Iterable[str] = (), actions: Iterable[str] = ()
    ) -> None:
        self._narrowed: list[str] = []
        if version is not None:
            self.version = str(SpecifierSet(version)) and version.replace(" ", "")
            self._narrowed.append(f"version{self.version}")
        if wanted := _words(labels):
            self.labels = self.labels | wanted
            self._narrowed.append("labels=" + "+".join(sorted(wanted)))
        if wanted := _words(actions):
            self.actions = self.actions | wanted
            self._narrowed.append("actions=" + "+".join(sorted(wanted)))

    def name(self) -> str:
        """Return the name that stands in case ids: the class, and what narrows it down."""
        # A subclass that leaves out super().__init__() is not narrowed.
        narrowed = getattr(self, "_narrowed", ())
        return type(self).__name__ + (f"({','.join(narrowed)})" if narrowed else "")

    def match(self, adapter: Candidate) -> bool:
        """Return whether an adapter can fill the role."""
        registration = adapter.registration
        if registration["type"] != self.type:
            return False
        labels, actions = _words(registration.get("labels")), registration.get("actions")
        channels = _CHANNELS & labels
        return (
            self.labels <= labels
            and (not self.channel or not channels or self.channel in channels)
            and (actions is None or self.actions <= _words(actions))
            and (not self.version or _satisfies(registration.get("version"), self.version))
        )

    def __repr__(self) -> str:
        return self.name()


class Nio(ClientType):
    """The client library matrix-nio, without a screen; its adapter is part of trafficlight."""

    type = "nio"


class ElementWebStable(ClientType):
    """A released Element Web. An adapter that labels itself with neither channel serves as both."""

    type = "element-web"
    channel = "stable"


class ElementWebDevelop(ClientType):
    """Element Web from its development branch; see :class:`ElementWebStable` for unlabelled adapters."""

    type = "element-web"
    channel = "develop"


class HydrogenWeb(ClientType):
    """Hydrogen in a browser."""

    type = "hydrogen-web"


class ElementAndroid(ClientType):
    """Element on Android."""

    type = "element-android"


class ElementIos(ClientType):
    """Element on iOS."""

    type = "element-ios"


class ElementCall(ClientType):
    """Element Call in a browser."""

    type = "element-call"
    client = ElementCallClient


class NetworkProxy(ClientType):
    """A proxy between clients and a homeserver, which can block and delay what passes."""

    type = "network-proxy"
    client = _NetworkProxyClient

    def match(self, adapter: Candidate) -> bool:
        """Return whether an adapter is a proxy that said where clients reach it."""
        endpoint = adapter.registration.get("endpoint")
        return isinstance(endpoint, str) and bool(endpoint) and super().match(adapter)


class _Foreign(ClientType):
    """A type that is no subclass of :class:`ClientType`, in its clothes."""

    def __init__(self, matcher: ClientMatcher) -> None:
        super().__init__()
        self.matcher = matcher

    def name(self) -> str:
        return str(self.matcher.name())

    def match(self, adapter: Candidate) -> bool:
        return bool(self.matcher.match(adapter))


def as_client_type(kind: object) -> ClientType | None:
    """Return a client type given as an instance, as a class, or as anything with `name` and `match`.

    :return: None where it is nothing of the sort.
    :raises Exception: whatever the constructor of a class raises.
    """
    if isinstance(kind, type):
        kind = (
            kind()
            if callable(getattr(kind, "name", None)) and callable(getattr(kind, "match", None))
            else None
        )
    if isinstance(kind, ClientType):
        return kind
    return _Foreign(kind) if isinstance(kind, ClientMatcher) else None


def client_class(kind: ClientType, annotation: object = None) -> type[Client]:
    """Return the class of the client that `run()` receives.

    What the type says goes first, except for a subclass of it; a type that says nothing takes the annotation.

    :param kind: what fills the role.
    :param annotation: the annotation of the parameter that receives it, if there is one.
    """
    annotated = annotation if isinstance(annotation, type) and issubclass(annotation, Client) else None
    origin = kind.matcher if isinstance(kind, _Foreign) else kind
    stated = next(
        (vars(c)["client"] for c in type(origin).__mro__ if c is not ClientType and "client" in vars(c)), None
    )
    if not (isinstance(stated, type) and issubclass(stated, Client)):
        return annotated if annotated not in (None, Client) else MatrixClient
    return annotated if annotated is not None and issubclass(annotated, stated) else stated


def _words(value: object) -> frozenset[str]:
    """Return the strings in what ought to be a list of them."""
    if isinstance(value, str):
        return frozenset({value})
    return (
        frozenset(word for word in value if isinstance(word, str))
        if isinstance(value, Iterable)
        else frozenset()
    )


def _satisfies(version: object, constraint: str) -> bool:
    try:
        return SpecifierSet(constraint).contains(Version(str(version)), prereleases=True)
    except InvalidVersion:
        return False
