"""Which adapters a client type takes."""

from dataclasses import dataclass
from typing import Any

import pytest

from trafficlight import client_types
from trafficlight.client_types import (
    ClientType,
    ElementCall,
    ElementWeb,
    ElementWebDevelop,
    ElementWebStable,
    HydrogenWeb,
    JsSdk,
    MautrixGo,
    NetworkProxy,
    Nio,
    RustSdk,
    as_client_type,
    client_class,
)
from trafficlight.clients import Client, ElementCallClient, MatrixClient, NetworkProxyClient


@dataclass
class Adapter:
    registration: dict[str, Any]


def adapter(kind: str, **fields: Any) -> Adapter:
    return Adapter({"type": kind, **fields})


class OfTheOriginal:
    def name(self) -> str:
        return "original"

    def match(self, candidate: Adapter) -> bool:
        return bool(candidate.registration["type"] == "original")


@pytest.mark.parametrize(
    ("kind", "registered"),
    [
        ("Nio", "nio"),
        ("ElementWeb", "element-web"),
        ("ElementWebStable", "element-web"),
        ("ElementWebDevelop", "element-web"),
        ("RustSdk", "rust-sdk"),
        ("HydrogenWeb", "hydrogen-web"),
        ("ElementAndroid", "element-android"),
        ("ElementIos", "element-ios"),
        ("ElementCall", "element-call"),
    ],
)
def test_the_types_that_ship_take_what_registers_under_their_name(kind: str, registered: str) -> None:
    made: ClientType = getattr(client_types, kind)()
    assert made.name() == kind
    assert made.match(adapter(registered, version="UNKNOWN"))
    assert not made.match(adapter("something-else"))


def test_an_unlabelled_element_web_serves_both_channels() -> None:
    stable, develop = adapter("element-web", labels=["stable"]), adapter("element-web", labels=["develop"])
    assert ElementWebStable().match(stable)
    assert not ElementWebStable().match(develop)
    assert ElementWebDevelop().match(develop)
    assert not ElementWebDevelop().match(stable)
    assert ElementWebDevelop().match(adapter("element-web", labels=["linux"]))
    assert all(ElementWeb().match(one) for one in (stable, develop, adapter("element-web")))


def test_a_network_proxy_needs_an_endpoint() -> None:
    assert NetworkProxy().match(adapter("network-proxy", endpoint="http://localhost:4040/"))
    for endpoint in ("", None, 5):
        assert not NetworkProxy().match(adapter("network-proxy", endpoint=endpoint))
    assert not NetworkProxy().match(adapter("network-proxy"))


@pytest.mark.parametrize(
    ("version", "matches"),
    [
        ("0.26", True),
        ("0.27.1rc1", True),
        ("0.25.9", False),
        ("1.0", False),
        ("UNKNOWN", False),
        (None, False),
        (5, False),
    ],
)
def test_a_version_can_be_asked_for(version: Any, *, matches: bool) -> None:
    assert Nio(version=">=0.26, <1").match(adapter("nio", version=version)) is matches


@pytest.mark.parametrize("kind", [JsSdk, MautrixGo, RustSdk, Nio])
def test_an_exact_version_is_the_first_argument(kind: type[ClientType]) -> None:
    wanted = kind("0.26.0")
    assert wanted.name() == kind(version="==0.26.0").name() == f"{kind.__name__}(version==0.26.0)"
    assert wanted.match(adapter(kind.type, version="0.26.0"))
    assert not wanted.match(adapter(kind.type, version="0.26.1"))


def test_develop_is_what_was_built_as_the_newest() -> None:
    assert JsSdk("develop").name() == "JsSdk(version==develop)"
    assert JsSdk("develop").match(adapter("js-sdk", version="44.0.0", labels=["pinned", "develop"]))
    assert not JsSdk("develop").match(adapter("js-sdk", version="44.0.0"))


def test_a_role_without_a_version_is_not_filled_by_what_was_built_for_another() -> None:
    pinned = adapter("js-sdk", version="42.4.0", labels=["pinned"])
    assert not JsSdk().match(pinned)
    assert JsSdk("42.4.0").match(pinned)
    assert JsSdk(version="<43").match(pinned)


def test_labels_and_actions_can_be_asked_for() -> None:
    kind = Nio(labels=["linux", "fast"], actions=["reload"])
    assert kind.match(adapter("nio", labels=["fast", "linux", "x"]))
    assert kind.match(adapter("nio", labels=["fast", "linux"], actions=["reload", "logout"]))
    assert not kind.match(adapter("nio", labels=["fast", "linux"], actions=["logout"]))
    assert not kind.match(adapter("nio", labels=["linux"]))
    assert not kind.match(adapter("nio"))


@pytest.mark.parametrize("odd", [5, "linux", None, [1, {}], {"linux": 1}])
def test_odd_registrations_do_no_harm(odd: Any) -> None:
    assert not Nio(labels=["linux", "fast"]).match(adapter("nio", labels=odd, actions=odd))
    Nio(actions=["reload"]).match(adapter("nio", actions=odd))


def test_what_narrows_a_type_down_is_in_its_name() -> None:
    assert Nio(version=">=0.26").name() == "Nio(version>=0.26)"
    assert Nio(version=">= 0.26, < 1", labels=["b", "a"]).name() == "Nio(version>=0.26,<1,labels=a+b)"
    assert Nio(actions=["reload"]).name() == repr(Nio(actions=["reload"])) == "Nio(actions=reload)"


def test_a_version_that_is_no_constraint_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid specifier"):
        Nio(version="new")


def test_a_type_of_ones_own_takes_three_lines() -> None:
    class Mine(ClientType):
        type = "mine"

    assert Mine().name() == "Mine"
    assert Mine().match(adapter("mine"))
    assert as_client_type(Mine) is not None


def test_a_type_may_state_what_it_asks_for_and_leave_out_the_constructor() -> None:
    class Mine(ClientType):
        type = "mine"
        version = ">=2"
        actions = frozenset({"reload"})

        def __init__(self) -> None:
            self.other = 1

    assert Mine().name() == "Mine"
    assert Mine().match(adapter("mine", version="2.1"))
    assert not Mine().match(adapter("mine", version="1"))


def test_types_of_the_original_are_taken_as_they_are() -> None:
    for kind in (as_client_type(OfTheOriginal), as_client_type(OfTheOriginal())):
        assert kind is not None
        assert kind.name() == "original"
        assert kind.match(adapter("original"))
        assert not kind.match(adapter("nio"))


@pytest.mark.parametrize("thing", [None, 5, "Nio", object, int, [Nio]])
def test_other_things_are_no_types(thing: object) -> None:
    assert as_client_type(thing) is None


def test_the_client_that_run_receives() -> None:
    class Special(MatrixClient): ...

    class Silent(ClientType):
        type = "silent"

    original = as_client_type(OfTheOriginal)
    assert original is not None
    assert client_class(Nio()) is MatrixClient
    assert client_class(HydrogenWeb(), Special) is Special
    assert client_class(ElementCall(), MatrixClient) is ElementCallClient
    assert client_class(NetworkProxy()) is NetworkProxyClient
    assert client_class(Silent(), ElementCallClient) is ElementCallClient
    assert client_class(original, ElementCallClient) is ElementCallClient
    assert client_class(original, Client) is MatrixClient
    assert client_class(original, "MatrixClient") is MatrixClient
