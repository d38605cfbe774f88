"""The names that test files written for the original import."""

import importlib

import pytest

CLIENT_TYPES = (
    "ElementWebStable",
    "ElementWebDevelop",
    "HydrogenWeb",
    "ElementAndroid",
    "ElementIos",
    "ElementCall",
    "NetworkProxy",
)
DOORS = {
    "trafficlight.internals.test": {"Test": "trafficlight.test"},
    "trafficlight.internals.client": dict.fromkeys(
        (
            "MatrixClient",
            "ElementCallClient",
            "NetworkProxyClient",
            "VideoImage",
            "VideoTile",
            "LobbyData",
            "CallData",
        ),
        "trafficlight.clients",
    ),
    "trafficlight.homerunner": {"HomeServer": "trafficlight.clients"},
    "trafficlight.client_types": dict.fromkeys(CLIENT_TYPES, "trafficlight.client_types"),
    "trafficlight.server_types": dict.fromkeys(
        ("SynapseStable", "SynapseDevelop", "Dendrite", "TwoSynapseFederation"), "trafficlight.server_types"
    ),
}


@pytest.mark.parametrize(("door", "names"), DOORS.items())
def test_a_door_hands_on_the_very_same_thing(door: str, names: dict[str, str]) -> None:
    for name, home in names.items():
        assert getattr(importlib.import_module(door), name) is getattr(importlib.import_module(home), name)


def test_errors_have_their_older_names() -> None:
    from trafficlight import errors
    from trafficlight.internals import exceptions

    assert exceptions.ActionException is errors.ActionError
    assert exceptions.AdapterException is errors.AdapterError
    assert exceptions.RemoteException is errors.RemoteError
    error = exceptions.ActionException("timed out", "cypress/spec.js")
    assert (error.path, error.formatted_message) == ("cypress/spec.js", "timed out [cypress/spec.js]")


def test_match_receives_an_adapter() -> None:
    from trafficlight.client_types import Candidate
    from trafficlight.internals.adapter import Adapter

    assert Adapter is Candidate
