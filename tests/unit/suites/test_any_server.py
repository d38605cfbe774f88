"""Roles for any homeserver, which the session fills."""

from tests.unit.suites.conftest import Write
from trafficlight.suites.expansion import expand_case
from trafficlight.suites.planning import plan
from trafficlight.suites.selection import Selection

ANY = """
from trafficlight.server_types import AnyHomeServer

class A(Test):
    servers = {"here": AnyHomeServer, "there": [AnyHomeServer(), Dendrite]}

    async def run(self, here, there): ...
"""


def cells(write: Write, **selection: object) -> list[str]:
    planned = plan([write("a_test.py", ANY)], Selection.model_validate(selection))
    assert planned.problems == ()
    for case in planned.cases:
        expand_case(case)
    return [case.id.partition("[")[2][:-1] for case in planned.cases]


def test_the_session_fills_roles_for_any_homeserver(write: Write) -> None:
    assert cells(write) == ["here=SynapseStable,there=SynapseStable", "here=SynapseStable,there=Dendrite"]
    slow = 'SynapseStable(turn_uris=["turn:a"])'
    quoted = '"SynapseStable(turn_uris=[\\"turn:a\\"])"'
    assert cells(write, server_types=["dendrite", slow]) == [
        "here=Dendrite,there=Dendrite",
        f"here=Dendrite,there={quoted}",
        f"here={quoted},there=Dendrite",
        f"here={quoted},there={quoted}",
    ]


def test_a_role_for_any_homeserver_is_one_role(write: Write) -> None:
    text = ANY.replace('"here": AnyHomeServer', '("here", "x"): AnyHomeServer')
    (problem,) = plan([write("a_test.py", text)]).problems
    assert "AnyHomeServer stands for 1 homeserver(s), but fills 2 roles" in str(problem)
