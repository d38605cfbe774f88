"""Roles for any Matrix client, which the session fills."""

import pytest

from tests.unit.suites.conftest import Write
from trafficlight.client_types import CLIENT_GROUPS, client_types_of
from trafficlight.drivers.recipes import RECIPES
from trafficlight.errors import UsageError
from trafficlight.suites.expansion import expand_case
from trafficlight.suites.planning import plan
from trafficlight.suites.selection import Selection

ANY = """
class A(Test):
    clients = {"alice": AnyMatrixClient, "bob": [ElementCall, AnyMatrixClient()]}

    async def run(self, alice, bob): ...
"""


def cells(write: Write, text: str = ANY, **selection: object) -> list[str]:
    planned = plan([write("a_test.py", text)], Selection.model_validate(selection))
    assert planned.problems == ()
    for case in planned.cases:
        _, clients, _ = expand_case(case)
        assert {role: kind.name() for role, kind in clients.items()} == {
            role: kind.name() for role, kind in case.clients.items()
        }
    return [case.id.partition("[")[2][:-1] for case in planned.cases]


def test_nio_fills_them_by_default(write: Write) -> None:
    assert cells(write) == ["alice=Nio,bob=ElementCall", "alice=Nio,bob=Nio"]


def test_the_session_names_types_classes_versions_and_clients_of_ones_own(write: Write) -> None:
    found = cells(write, client_types=["nio", "JsSdk==develop", "mine==43.0.0"])
    alice = ["Nio", "JsSdk(version==develop)", "mine(version==43.0.0)"]
    assert found == [f"alice={one},bob={other}" for one in alice for other in ["ElementCall", *alice]]


def test_a_type_is_taken_once() -> None:
    names = [kind.name() for kind in client_types_of(["nio", "sdk", "Nio", "nio==0.26.0"])]
    assert names == ["Nio", "JsSdk", "MautrixGo", "RustSdk", "Nio(version==0.26.0)"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("browser", ["HydrogenWeb", "ElementWeb", "ElementCall"]),
        ("hydrogen-web", ["HydrogenWeb"]),
        ("HydrogenWeb", ["HydrogenWeb"]),
        ("element-web", ["ElementWeb"]),
        ("ElementWebDevelop", ["ElementWebDevelop"]),
    ],
)
def test_clients_in_browsers_have_their_names_and_a_group(name: str, found: list[str]) -> None:
    assert [kind.name() for kind in client_types_of([name])] == found


def test_the_group_of_all_has_every_client_that_comes_along() -> None:
    assert set(CLIENT_GROUPS["all"]) == set(RECIPES) - {"network-proxy"}


@pytest.mark.parametrize("name", ["", "a b", "nio==", "nio>=1", "../nio"])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"--clients: .* is no client: write a type such as js-sdk"):
        Selection(client_types=["nio", name])


def test_a_type_that_the_test_names_too_fills_its_role_once(write: Write) -> None:
    text = ANY.replace("ElementCall", "Nio")
    assert cells(write, text, client_types=["nio", "js-sdk"]) == [
        "alice=Nio,bob=Nio",
        "alice=Nio,bob=JsSdk",
        "alice=JsSdk,bob=Nio",
        "alice=JsSdk,bob=JsSdk",
    ]


def test_what_a_role_needs_narrows_the_types(write: Write) -> None:
    text = ANY.replace("AnyMatrixClient()", "AnyMatrixClient(actions=['reload'])")
    found = cells(write, text, client_types=["js-sdk"])
    assert found == ["alice=JsSdk,bob=ElementCall", "alice=JsSdk,bob=JsSdk(actions=reload)"]


def test_an_ignored_type_need_not_be_chosen(write: Write) -> None:
    text = ANY.replace("    async def run", "    @ignore('slow', alice=JsSdk)\n    async def run")
    assert len(cells(write, text)) == 2
    planned = plan([write("a_test.py", text)], Selection(client_types=["nio", "js-sdk"]))
    assert [case.skip for case in planned.cases] == [None] * 3 + ["slow"] * 3


def test_a_client_for_calls_fills_roles_for_calls_only(write: Write) -> None:
    text = ANY.replace("[ElementCall, AnyMatrixClient()]", "AnyCallClient")
    chosen = ["nio", "element-call", "js-sdk"]
    assert cells(write, text, client_types=chosen) == [
        "alice=Nio,bob=ElementCall",
        "alice=JsSdk,bob=ElementCall",
    ]


@pytest.mark.parametrize(
    ("role", "chosen", "advice"),
    [("AnyCallClient", "nio", "element-call"), ("AnyMatrixClient", "element-call", "nio")],
)
def test_a_role_that_no_client_of_the_session_fits_is_skipped(
    write: Write, role: str, chosen: str, advice: str
) -> None:
    text = f"class A(Test):\n    clients = {{'alice': {role}}}\n    async def run(self, alice): ...\n"
    planned = plan([write("a_test.py", text)], Selection(client_types=[chosen]))
    assert planned.problems == ()
    (case,) = planned.cases
    assert case.id.endswith(f"[alice={role}]")
    assert f"--clients {advice} names one" in (case.skip or "")


def test_the_filter_of_types_applies_afterwards(write: Write) -> None:
    found = cells(write, client_types=["nio", "js-sdk"], clients=["js-sdk"])
    assert found == ["alice=JsSdk,bob=JsSdk"]
