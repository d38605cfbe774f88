"""Every cell of the matrix, once."""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficlight.client_types import ClientType
from trafficlight.parameters import matrix, parametrize
from trafficlight.server_types import ServerType
from trafficlight.suites.case_ids import Cell, read_symbol
from trafficlight.suites.discovery import FileFound
from trafficlight.suites.expansion import MatrixFilter, expand
from trafficlight.suites.model import Case, Suite
from trafficlight.suites.planning import plan
from trafficlight.suites.rendering import render_value
from trafficlight.suites.source import SourceLines
from trafficlight.test import Test

Write = Callable[..., Path]

HERE = Path(__file__)
CLIENTS = [type(name, (ClientType,), {"type": name.lower()}) for name in ("Ant", "Bee", "Cat", "Dog")]
SERVERS = [type(name, (ServerType,), {"image": name.lower()}) for name in ("Elm", "Fir")]

client_lists = st.lists(st.sampled_from(CLIENTS), min_size=1, unique=True)
server_lists = st.lists(st.sampled_from(SERVERS), min_size=1, unique=True)
client_roles = st.dictionaries(st.sampled_from(["alice", "bob", "carol"]), client_lists)
server_roles = st.dictionaries(st.sampled_from(["here", "there"]), server_lists)
value_lists = st.lists(
    st.text() | st.integers() | st.booleans(), min_size=1, max_size=3, unique_by=render_value
)
parameters = st.dictionaries(st.sampled_from(["size", "text"]), value_lists)


def made(
    clients: Mapping[str, Any], servers: Mapping[str, Any], values: Mapping[str, Any], **more: Any
) -> type[Test]:
    async def run(self: Test, **arguments: Any) -> None: ...

    decorated = matrix(**values)(run) if values else run
    return type("A", (Test,), {"clients": clients, "servers": servers, "run": decorated, **more})


def expanded(cls: type[Test], wanted: MatrixFilter | None = None) -> Suite:
    suites, problems = expand(
        cls, "A", FileFound(HERE, "a_test.py"), SourceLines(HERE), wanted or MatrixFilter()
    )
    assert problems == []
    (suite,) = suites
    return suite


def cell(case: Case) -> tuple[object, ...]:
    values = tuple((name, render_value(value)) for name, value in case.parameters.items())
    return (*case.roles.items(), *values)


@given(client_roles, server_roles, parameters)
@settings(deadline=None)
def test_every_cell_once_with_an_id_that_reads_back(
    clients: Mapping[str, Any], servers: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    cases = expanded(made(clients, servers, values)).cases
    dimensions = [[(role, kind.__name__) for kind in kinds] for role, kinds in {**clients, **servers}.items()]
    dimensions += [[(name, render_value(value)) for value in stated] for name, stated in values.items()]
    assert [cell(case) for case in cases] == list(itertools.product(*dimensions))
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        file, _, symbol = case.id.partition("::")
        parsed = read_symbol(symbol)
        assert tuple((one.key, one.value) for one in parsed.cells) == cell(case)
        assert (file, parsed.class_name, parsed.method or "run") == (case.file, case.class_name, case.method)


@given(client_roles, server_roles, parameters)
@settings(deadline=None)
def test_the_order_is_stable(
    clients: Mapping[str, Any], servers: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    first, second = (expanded(made(clients, servers, values)) for _ in range(2))
    assert [case.id for case in first.cases] == [case.id for case in second.cases]


@given(client_lists, client_lists, server_roles, parameters)
@settings(deadline=None)
def test_of_mirrored_cells_the_first_is_kept(
    alice: list[Any], bob: list[Any], servers: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    clients = {"alice": alice, "bob": bob}
    every = expanded(made(clients, servers, values)).cases
    suite = expanded(made(clients, servers, values, interchangeable=("alice", "bob")))

    def mirror(case: Case) -> object:
        return (frozenset({case.roles["alice"], case.roles["bob"]}), cell(case)[2:])

    first = {mirror(case): case.id for case in reversed(every)}
    assert [case.id for case in suite.cases] == [case.id for case in every if first[mirror(case)] == case.id]
    assert suite.pruned == len(every) - len(suite.cases)


@given(client_roles, server_roles, parameters, st.booleans())
@settings(deadline=None)
def test_pairwise_holds_every_pair_of_the_whole_plan(
    clients: Mapping[str, Any], servers: Mapping[str, Any], values: Mapping[str, Any], mirrored: bool
) -> None:
    more = {"interchangeable": ("alice", "bob")} if mirrored and {"alice", "bob"} <= set(clients) else {}
    whole = expanded(made(clients, servers, values, **more))
    suite = expanded(made(clients, servers, values, **more), MatrixFilter(pairwise=True))

    def pairs(cases: tuple[Case, ...]) -> set[frozenset[object]]:
        found: set[frozenset[object]] = set()
        for case in cases:
            images = [case.roles]
            if more:
                exchanged = {"alice": case.roles["bob"], "bob": case.roles["alice"]}
                images.append({**case.roles, **exchanged})
            for roles in images:
                items = [*roles.items(), *cell(case)[len(roles) :]]
                found |= {frozenset({one, other}) for one in items for other in items}
        return found

    if not more or clients["alice"] == clients["bob"]:
        assert pairs(suite.cases) == pairs(whole.cases)
    assert {case.id for case in suite.cases} <= {case.id for case in whole.cases}
    assert len(suite.cases) + suite.unpaired + suite.pruned == len(whole.cases) + whole.pruned


def test_pairwise_is_far_fewer() -> None:
    roles = dict.fromkeys(("a", "b", "c", "d", "e"), CLIENTS)
    suite = expanded(made(roles, {}, {}), MatrixFilter(pairwise=True))
    assert len(suite.cases) < 20
    assert len(suite.cases) + suite.unpaired == 1024


def test_a_pairwise_plan_of_very_many_cells() -> None:
    roles = {f"r{number}": CLIENTS for number in range(15)}
    suite = expanded(made(roles, {}, {}), MatrixFilter(pairwise=True))
    assert len(suite.cases) < 50
    assert len(suite.cases) + suite.unpaired == 4**15


def test_what_is_ignored_takes_no_part_in_the_pairs_of_the_rest(write: Write) -> None:
    path = write(
        "a_test.py",
        """\
        class A(Test):
            clients = {"alice": [Nio, HydrogenWeb], "bob": [Nio, HydrogenWeb]}

            @ignore("slow", size=2)
            @matrix(size=[1, 2])
            async def run(self, alice, bob, size): ...
        """,
    )
    from trafficlight.suites.selection import Selection

    cases = plan([path], Selection(pairwise=True)).cases
    assert {(case.roles["alice"], case.roles["bob"]) for case in cases if case.skip is None} == set(
        itertools.product(["Nio", "HydrogenWeb"], repeat=2)
    )
    assert {case.skip for case in cases if case.parameters["size"] == 2} == {"slow"}


def test_types_can_be_ignored(write: Write) -> None:
    """`@ignore(server=Dendrite)` was a problem: it fitted none of the values."""
    path = write(
        "a_test.py",
        """
        @ignore("no verification", bob=HydrogenWeb, server=[Dendrite, "Synapse-1.98.0"])
        class A(Test):
            clients = {"alice": Nio, "bob": [Nio(version=">=0.26"), HydrogenWeb]}
            servers = {"server": [SynapseStable, Synapse("1.98.0"), Dendrite]}

            @ignore(bob=Nio, size=2)
            @matrix(size=[1, 2])
            async def test_send(self, bob, server, size): ...

            async def test_alone(self, alice): ...
        """,
    )
    found = plan([path])
    assert found.problems == ()
    skipped = {case.id.partition("A.")[2]: case.skip for case in found.cases if case.skip}
    assert {reason: [*skipped.values()].count(reason) for reason in skipped.values()} == {
        "no verification": 4,
        "ignored for bob=Nio, size=2": 3,
    }
    assert skipped["test_send[bob=HydrogenWeb,server=Dendrite,size=1]"] == "no verification"
    assert len(found.cases) == 12 + 1


def test_the_example_of_the_manual(write: Write) -> None:
    path = write(
        "chat/send_messages_test.py",
        '''\
        class SendMessages(Test):
            """Two users exchange
            encrypted messages.

            More of it.
            """

            clients = {"alice": [Nio, ElementWebStable], "bob": [Nio, ElementWebStable]}
            servers = {"server": [SynapseStable, Dendrite]}

            async def run(self, alice, bob, server) -> None: ...
        ''',
    )
    (suite,) = plan([path.parent.parent]).suites
    assert len(suite.cases) == 8
    assert suite.documentation == "Two users exchange encrypted messages."
    case = suite.cases[2]
    assert case.id == (
        "chat/send_messages_test.py::SendMessages[alice=Nio,bob=ElementWebStable,server=SynapseStable]"
    )
    assert (case.path, case.file, case.suite) == (path, "chat/send_messages_test.py", suite.id)
    assert (case.class_name, case.method, case.line, case.skip) == ("SendMessages", "run", 12, None)
    assert case.roles == {"alice": "Nio", "bob": "ElementWebStable", "server": "SynapseStable"}


def test_the_older_form_with_two_servers_and_a_proxy(write: Write) -> None:
    path = write(
        "a_test.py",
        """\
        from trafficlight.internals.test import Test

        class Mine:
            def name(self): return "mine 1.0"
            def match(self, adapter): return True

        class A(Test):
            def __init__(self) -> None:
                super().__init__()
                self._server_under_test(TwoSynapseFederation(), ["server1", "server2"])
                self._server_under_test([SynapseStable(), Dendrite], ["extra"])
                self._client_under_test([ElementWebStable(), Mine()], "alice")
                self._network_proxy("proxy")

            async def test_one(self, alice, server1, server2, proxy, extra) -> None: ...
            async def test_two(self, **everything) -> None: ...
        """,
    )
    one, two = plan([path]).suites
    assert (one.id, two.id) == ("a_test.py::A.test_one", "a_test.py::A.test_two")
    assert [case.id.partition("[")[2] for case in one.cases] == [
        "alice=ElementWebStable,proxy=NetworkProxy,server1+server2=TwoSynapseFederation,extra=SynapseStable]",
        "alice=ElementWebStable,proxy=NetworkProxy,server1+server2=TwoSynapseFederation,extra=Dendrite]",
        'alice="mine 1.0",proxy=NetworkProxy,server1+server2=TwoSynapseFederation,extra=SynapseStable]',
        'alice="mine 1.0",proxy=NetworkProxy,server1+server2=TwoSynapseFederation,extra=Dendrite]',
    ]
    assert [slot.roles for slot in one.cases[0].servers] == [("server1", "server2"), ("extra",)]


def test_several_groups_of_interchangeable_roles() -> None:
    roles = dict.fromkeys(("a", "b", "c", "d"), CLIENTS[:2])
    suite = expanded(made(roles, {}, {}, interchangeable=[("a", "b"), ("c", "d")]))
    assert (len(suite.cases), suite.pruned) == (9, 7)


def test_a_test_without_roles_and_parameters() -> None:
    assert [case.id for case in expanded(made({}, {}, {})).cases] == ["a_test.py::A"]


@pytest.mark.parametrize("value", [{"a": [1, 2]}, ["x,y", "]"], 'a"b', "ü ☃", float("nan"), None])
def test_any_value_makes_an_id_that_reads_back(value: Any) -> None:
    async def run(self: Test, value: Any) -> None: ...

    cls = type("A", (Test,), {"run": parametrize(value=value)(run)})
    (case,) = expanded(cls).cases
    (cell,) = read_symbol(case.id.partition("::")[2]).cells
    assert cell == Cell("value", render_value(value))
    assert json.loads(json.dumps(case.parameters["value"])) == ("nan" if value != value else value)
