"""A plan is plain data, and a worker finds each of its cases again by the id."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trafficlight.client_types import ClientType, ClientTypeSpec
from trafficlight.errors import LabError, TestFileError
from trafficlight.suites.expansion import expand_case, find_client_type
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.model import Case
from trafficlight.suites.planning import FileResult, PlanBuilder, collect_file, plan

Write = Callable[..., Path]

TEST = """
class A(Test):
    clients = {{"alice": {types}}}
    servers = {{"server": {servers}}}
    @matrix(value={values})
    async def run(self, alice, server, value): ...
"""


def planned(write: Write, prelude: str = "", **stated: str) -> list[Case]:
    text = TEST.format(**{"types": "Nio", "servers": "SynapseStable", "values": "[1]", **stated})
    found = plan([write("a_test.py", f"{prelude}\n{text}")])
    assert not found.problems
    return list(found.cases)


def matches(kind: ClientTypeSpec | ClientType, **registration: Any) -> bool:
    return kind.match(SimpleNamespace(registration=registration))


@pytest.mark.parametrize("path", [SHIPPED, Path(__file__).parents[2] / "interop"])
def test_every_case_is_found_again(path: Path) -> None:
    cases = plan([path]).cases
    assert len(cases) > 3
    for case in cases:
        _, clients, parameters = expand_case(case)
        assert {role: kind.name() for role, kind in clients.items()} == {
            role: kind.type_name for role, kind in case.clients.items()
        }
        assert list(parameters) == list(case.parameters)


def test_types_of_a_test_file_match_by_their_attributes(write: Write) -> None:
    prelude = """\
class Mine(ClientType):
    type = "mine"
    version = ">=2"
    labels = {"linux"}
    actions = ["reload"]
    channel = "develop"

class Proxy(NetworkProxy):
    type = "my-proxy"
"""
    mine, proxy = planned(write, prelude, types="[Mine, Proxy]")
    kind = mine.clients["alice"]
    fitting = {"type": "mine", "version": "2.1", "labels": ["linux", "develop"], "actions": ["reload"]}
    assert matches(kind, **fitting)
    wrong: list[dict[str, Any]] = [
        {"type": "nio"},
        {"version": "1"},
        {"labels": ["linux", "stable"]},
        {"labels": []},
        {"actions": []},
    ]
    for part in wrong:
        assert not matches(kind, **{**fitting, **part}), part
    assert matches(proxy.clients["alice"], type="my-proxy", endpoint="http://x")
    assert not matches(proxy.clients["alice"], type="my-proxy"), "a proxy says where it is"
    assert type(expand_case(mine)[1]["alice"]).__name__ == "Mine"


def test_types_are_equal_if_their_attributes_are(write: Write) -> None:
    def of(name: str, attribute: str) -> ClientTypeSpec:
        text = f"class Mine(ClientType):\n    type = '{attribute}'\n"
        text += "class A(Test):\n    clients = {'alice': Mine}\n    async def run(self, alice): ...\n"
        (case,) = plan([write(f"{name}_test.py", text)]).cases
        return case.clients["alice"]

    assert of("a", "one") == of("b", "one")
    assert of("a", "one") != of("c", "two")


@pytest.mark.parametrize("types", ["Own", "Between", "Foreign", "instance"])
def test_a_match_of_its_own_is_evaluated(write: Write, types: str) -> None:
    prelude = """\
class Own(ClientType):
    def match(self, adapter): return adapter.registration["type"] == "odd"
class Between(NetworkProxy, Own):
    match = Own.match
class Foreign:
    def name(self): return "Foreign"
    def match(self, adapter): return adapter.registration["type"] == "odd"
def odd(adapter): return adapter.registration["type"] == "odd"
instance = Nio()
instance.match = odd
"""
    (case,) = planned(write, prelude, types=types)
    kind = case.clients["alice"]
    assert kind.custom is not None
    assert matches(kind, type="odd")
    assert not matches(kind, type="nio")
    real = find_client_type(case.path, case.class_name, "alice", kind.type_name)
    assert matches(real, type="odd")
    elsewhere = replace(kind)
    assert elsewhere == kind
    with pytest.raises(LabError, match="cannot be evaluated here"):
        matches(elsewhere, type="odd")
    with pytest.raises(TestFileError, match="no longer names Gone for the role 'alice'"):
        find_client_type(case.path, case.class_name, "alice", "Gone")


def test_types_with_a_match_are_equal_only_with_equal_state(write: Write) -> None:
    text = """
class Own(ClientType):
    def __init__(self, size): self.size = size
    def match(self, adapter): return self.size
class A(Test):
    clients = {"alice": Own(1), "bob": Own(1), "carol": Own(2)}
    async def run(self, alice, bob, carol): ...
"""
    (case,) = plan([write("a_test.py", text)]).cases
    alice, bob, carol = case.clients.values()
    assert alice == bob != carol


def test_servers_are_described_by_their_homeservers(write: Write) -> None:
    prelude = "class Own(ServerType):\n    recipe, version, image = 'synapse', '1.2', 'img'\n"
    own, stable = planned(write, prelude, servers="[Own, SynapseStable]")
    (spec,) = own.servers[0].homeservers
    assert (spec.type_name, spec.recipe, spec.version, spec.image) == ("Own", "synapse", "1.2", "img")
    assert stable.servers[0].type_name == "SynapseStable"


def test_parameters_are_json_in_a_plan_and_themselves_in_a_test(write: Write) -> None:
    prelude = """\
import enum, threading
class Colour(enum.Enum):
    RED = 1
class Word(str): pass
def local():
    class Local:
        def __repr__(self): return "local"
    return Local()
"""
    values = (
        "[7, Colour.RED, [Colour.RED, {'a': (Word('w'),)}], Word('v'), lambda: 5, threading.Lock(), local()]"
    )
    cases = planned(write, prelude, values=values)
    stated = [case.parameters["value"] for case in cases]
    assert stated[:5] == [7, "<Colour.RED>", ["<Colour.RED>", {"a": ["w"]}], "v", '<"A.<lambda>">']
    assert type(stated[3]) is str
    real = [expand_case(case)[2]["value"] for case in cases]
    assert type(real[1]).__name__ == "Colour"
    assert real[4]() == 5
    assert not real[5].locked()
    assert repr(real[6]) == "local"


def test_a_changed_parameter_is_not_that_of_the_next_case(write: Write) -> None:
    (case,) = planned(write, values="[[{'a': {1}}]]")
    expand_case(case)[2]["value"][0]["a"].add(2)
    assert expand_case(case)[2]["value"] == [{"a": {1}}]


def test_a_case_of_a_test_with_other_parameters_is_found(write: Write) -> None:
    path = write("a_test.py", TEST.format(types="Nio", servers="Dendrite", values="[1]"))
    (case,) = plan([f'{path}::A@{{"value": [8]}}']).cases
    assert expand_case(case)[2] == {"value": [8]}


def test_a_case_of_a_huge_matrix_is_found_at_once(write: Write) -> None:
    roles = [f"r{number}" for number in range(12)]
    text = f"class A(Test):\n    clients = {{role: [Nio, HydrogenWeb, ElementCall] for role in {roles}}}\n"
    path = write("a_test.py", text + f"    async def run(self, {', '.join(roles)}): ...\n")
    cells = ",".join(f"{role}={random.choice(['Nio', 'HydrogenWeb', 'ElementCall'])}" for role in roles)
    case = Case(f"a_test.py::A[{cells}]", "a_test.py::A", path, "a_test.py", "A", "run", 1)
    _, clients, _ = expand_case(case)
    assert ",".join(f"{role}={kind.name()}" for role, kind in clients.items()) == cells


def test_a_case_that_is_no_longer_produced_is_an_error(write: Write) -> None:
    path = write("a_test.py", TEST.format(types="Nio", servers="Dendrite", values="[1]"))
    (case,) = plan([path]).cases
    gone = replace(case, id=case.id.replace("value=1", "value=2"))
    wrong = "the test file produced this case when it was collected and no longer does: "
    with pytest.raises(TestFileError, match=wrong):
        expand_case(gone)


def test_many_cases_come_in_parts(write: Write) -> None:
    path = write(
        "a_test.py", TEST.format(types="[Nio, HydrogenWeb]", servers="SynapseStable", values="range(400)")
    )
    builder = PlanBuilder([path])
    (request,) = builder.files
    sizes = []
    for part in collect_file(request).parts():
        assert isinstance(part, FileResult)
        sizes += [len(suite.cases) for suite in part.suites.values()]
        builder.add(part)
    assert sum(sizes) == 800
    assert max(sizes) <= 250
    assert [case.id for case in builder.plan().cases] == [case.id for case in plan([path]).cases]


def test_two_files_of_a_package_share_its_state(write: Write) -> None:
    """The `__init__` of a package runs once, however many test files are in it."""
    write("shared/__init__.py", "imported = []\n", prelude=False)
    for name in ("a", "b"):
        write(
            f"shared/{name}_test.py",
            f"from . import imported\nimported.append({name!r})\nclass T(Test):\n"
            "    @matrix(seen=[list(imported)])\n    async def run(self, seen): ...\n",
        )
    found = plan([write("shared/helper.py", "").parent])
    assert [case.parameters["seen"] for case in found.cases] == [["a"], ["a", "b"]]
