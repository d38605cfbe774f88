"""Server types: their settings, and the names that say them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.errors import DeployError, UsageError
from trafficlight.homeservers.recipes.recipe import Place
from trafficlight.server_types import (
    Dendrite,
    Synapse,
    SynapseStable,
    TwoSynapseFederation,
    merged,
    server_types_of,
)
from trafficlight.suites.selection import Selection

KEYS = st.text("abz_09-", min_size=1, max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.lists(st.text(max_size=3), max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
)


def test_settings_are_part_of_the_name_and_of_what_is_deployed() -> None:
    slow = SynapseStable(config={"rc_message": {"per_second": 0.2, "burst_count": 3}, "presence": None})
    assert slow.name() == "SynapseStable(presence=null,rc_message.burst_count=3,rc_message.per_second=0.2)"
    (spec,) = slow.homeservers()
    assert (spec.type_name, spec.config) == (slow.name(), slow.config)
    assert Synapse("1.98.0", config={"a": "b c"}).name() == 'Synapse-1.98.0(a="b c")'
    assert len({spec, *TwoSynapseFederation(config={"a": 1}).homeservers()}) == 2


def test_a_subclass_names_its_settings_itself() -> None:
    class Quiet(SynapseStable):
        config = {"presence": {"enabled": True}}

    assert Quiet().name() == "Quiet"
    assert Quiet(config={"presence": {"x": 1}}).config == {"presence": {"enabled": True, "x": 1}}


def test_settings_that_are_no_json_are_refused() -> None:
    with pytest.raises(TypeError):
        SynapseStable(config={"a": object()}).name()


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_a_name_means_the_type_that_has_it(config: dict[str, Any]) -> None:
    (found,) = server_types_of([Dendrite(config=config).name()])
    assert found.name() == Dendrite(config=config).name()
    assert found.config == config


def test_servers_have_short_names() -> None:
    names = ["synapse", "SynapseStable", "synapse==1.98.0", "Synapse-1.98.0", "DENDRITE", "synapse-workers"]
    found = [kind.name() for kind in server_types_of(names)]
    assert found == ["SynapseStable", "Synapse-1.98.0", "Dendrite", "SynapseWorkers"]


@pytest.mark.parametrize(
    "name", ["", "conduit", "dendrite==1.0", "synapse(presence)", "synapse(a..b=1)", "a(b"]
)
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"--servers: '.*' is no (server|setting): write "):
        Selection(server_types=[name])


def test_mappings_are_merged_and_all_else_is_replaced() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merged(base, {"a": {"c": [3]}, "d": {"e": 5}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 5}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


def test_a_recipe_merges_them_and_none_removes(place: Place) -> None:
    assert place.configured(
        {"rc_message": {"per_second": 1}, "presence": {"enabled": False, "x": 1}}, None
    ) == {"presence": {"enabled": True, "x": 1}}


@pytest.mark.parametrize("known", [{"presence", "rc_message"}, {"enabled", "rc_message", "presenze"}])
def test_a_setting_that_the_homeserver_does_not_know_is_refused(place: Place, known: set[str]) -> None:
    with pytest.raises(DeployError, match=r"has no setting (enabled|presence; did you mean presenze\?)"):
        place.configured({}, frozenset(known))


@pytest.fixture
def place(tmp_path: Any) -> Place:
    files = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    return Place(
        tmp_path, tmp_path / "log", 1, 2, *files, {"rc_message": None, "presence": {"enabled": True}}
    )
