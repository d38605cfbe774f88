"""What is told of a test file needs none of its code, and says the same."""

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trafficlight.client_types import ClientType
from trafficlight.coordinator.scheduling.inventory import type_key
from trafficlight.errors import LabError
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.model import Case, Plan
from trafficlight.suites.planning import PlanBuilder
from trafficlight.suites.portable import PORTABLE, ClientTypeSpec, OwnMatch, Shown, portable, unsealed
from trafficlight.suites.reading import read_file
from trafficlight.worker.pickling import Classes, dumped, loaded

CLASSES = Classes((*PORTABLE, type(Path())))
Write = Callable[..., Path]

TEST = """
class A(Test):
    clients = {{"alice": {types}}}
    servers = {{"server": {servers}}}
    @matrix(value={values})
    async def run(self, alice, server, value): ...
"""


def plans(*targets: Path) -> tuple[Plan, Plan]:
    """Return a plan as it is, and as it is told."""
    whole, told = PlanBuilder(targets), PlanBuilder(targets)
    for asked in whole.files:
        found = read_file(asked)
        whole.add(found)
        for part in portable(found):
            told.add(loaded(dumped(part, CLASSES), CLASSES))
    return whole.plan(), told.plan()


def told(write: Write, prelude: str = "", **stated: str) -> list[Case]:
    text = TEST.format(**{"types": "Nio", "servers": "SynapseStable", "values": "[1]", **stated})
    whole, plan = plans(write("a_test.py", f"{prelude}\n{text}"))
    assert not whole.problems
    assert [case.id for case in plan.cases] == [case.id for case in whole.cases]
    assert [case.roles for case in plan.cases] == [case.roles for case in whole.cases]
    for one, other in zip(whole.cases, plan.cases, strict=True):
        assert unsealed(other).parameters == one.parameters
    return list(plan.cases)


def matches(kind: ClientType, **registration: Any) -> bool:
    return kind.match(SimpleNamespace(registration=registration))


@pytest.mark.parametrize("path", [SHIPPED, Path(__file__).parents[2] / "interop"])
def test_the_suites_that_there_are(path: Path) -> None:
    whole, plan = plans(path)
    assert [suite.id for suite in plan.suites] == [suite.id for suite in whole.suites]
    for one, other in zip(whole.cases, plan.cases, strict=True):
        assert (one.id, one.line, one.roles, one.skip) == (other.id, other.line, other.roles, other.skip)
        assert other.sealed is None or unsealed(other).parameters == one.parameters


def test_what_ships_travels_as_it_is(write: Write) -> None:
    (narrow, proxy) = told(write, types='[Nio(version=">=1", labels=["linux"]), NetworkProxy]')
    assert narrow.sealed is proxy.sealed is None
    assert matches(narrow.clients["alice"], type="nio", version="2", labels=["linux"])
    assert not matches(narrow.clients["alice"], type="nio", version="0.5", labels=["linux"])
    assert matches(proxy.clients["alice"], type="network-proxy", endpoint="http://x")
    assert not matches(proxy.clients["alice"], type="network-proxy")


def test_types_of_a_test_file_are_told_by_their_attributes(write: Write) -> None:
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
    mine, proxy = told(write, prelude, types="[Mine, Proxy]")
    kind = mine.clients["alice"]
    assert type(kind) is ClientTypeSpec
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
    real = unsealed(mine).clients["alice"]
    assert (type(real).__name__, isinstance(real, ClientTypeSpec)) == ("Mine", False)


def test_types_are_the_same_where_they_say_the_same(write: Write) -> None:
    def of(name: str, attribute: str) -> object:
        text = f"class Mine(ClientType):\n    type = '{attribute}'\n"
        text += "class A(Test):\n    clients = {'alice': Mine}\n    async def run(self, alice): ...\n"
        (case,) = plans(write(f"{name}_test.py", text))[1].cases
        return type_key(case.clients["alice"])

    assert of("a", "one") == of("b", "one")
    assert of("a", "one") != of("c", "two")


@pytest.mark.parametrize("types", ["Own", "Between", "Foreign", "instance"])
def test_a_match_of_ones_own_is_asked_for(write: Write, types: str) -> None:
    prelude = """\
class Own(ClientType):
    def match(self, adapter): return True
class Between(NetworkProxy, Own):
    pass
class Foreign:
    def name(self): return "Foreign"
    def match(self, adapter): return True
def anything(adapter): return True
instance = Nio()
instance.match = anything
"""
    (case,) = told(write, prelude, types=types)
    kind = case.clients["alice"]
    assert isinstance(kind, OwnMatch)
    with pytest.raises(LabError, match="nobody to ask"):
        matches(kind, type="nio")
    kind.ask = lambda asked, registration: asked is kind and registration == {"type": "nio"}
    assert matches(kind, type="nio")
    assert not matches(kind, type="other")
    with pytest.raises(LabError, match="nobody to ask"):
        matches(pickle.loads(pickle.dumps(kind)), type="nio")


def test_servers_are_told_by_what_they_stand_for(write: Write) -> None:
    prelude = "class Own(ServerType):\n    recipe, version, image = 'synapse', '1.2', 'img'\n"
    own, stable = told(write, prelude, servers="[Own, SynapseStable]")
    (spec,) = own.servers[0].type.homeservers()
    assert (spec.type_name, spec.recipe, spec.version, spec.image) == ("Own", "synapse", "1.2", "img")
    assert own.servers[0].type.complement_types() == ["img"]
    assert stable.sealed is None


def test_values(write: Write) -> None:
    prelude = """\
import enum
class Colour(enum.Enum):
    RED = 1
class Word(str): pass
class Size(enum.IntEnum):
    BIG = 3
"""
    cases = told(
        write, prelude, values="[7, Colour.RED, [Colour.RED, {'a': (Word('w'),)}], Word('v'), Size.BIG]"
    )
    plain, red, nested, word, size = (case.parameters["value"] for case in cases)
    assert plain == 7
    assert cases[0].sealed is None
    assert (repr(red), red.rendered, red.scalar) == ("<Colour.RED: 1>", "<Colour.RED>", None)
    assert repr(nested) == "[<Colour.RED: 1>, {'a': ('w',)}]"
    assert (word.scalar, size.scalar) == ("v", 3)
    assert all(isinstance(one, Shown) for one in (red, nested[0], word, size))


def test_what_cannot_travel_says_so(write: Write) -> None:
    path = write("a_test.py", TEST.format(types="Nio", servers="SynapseStable", values="[lambda: 1]"))
    (case,) = plans(path)[1].cases
    assert case.sealed is not None
    assert case.sealed.problem.startswith("the case cannot be sent to a worker, try --workers 0: ")


def test_many_cases_come_in_pieces(write: Write) -> None:
    path = write(
        "a_test.py", TEST.format(types="[Nio, HydrogenWeb]", servers="SynapseStable", values="range(400)")
    )
    (asked,) = PlanBuilder([path]).files
    sizes = [len(suite.cases) for part in portable(read_file(asked)) for suite in part.suites.values()]
    assert sum(sizes) == 800
    assert max(sizes) <= 250
    whole, plan = plans(path)
    assert [case.id for case in plan.cases] == [case.id for case in whole.cases]
