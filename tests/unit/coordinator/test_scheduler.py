"""What starts first, what waits, and what is said of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest

from tests.unit.coordinator.waiting import NOW, case_of, grouped
from trafficlight.client_types import (
    ClientType,
    ElementAndroid,
    ElementWebDevelop,
    ElementWebStable,
    Nio,
    as_client_type,
    client_types_of,
)
from trafficlight.coordinator.scheduling import scheduler
from trafficlight.coordinator.scheduling.inventory import AvailableAdapter, MissingAdapter
from trafficlight.coordinator.scheduling.queues import WaitingCase
from trafficlight.coordinator.scheduling.scheduler import Limits, Start, Usage
from trafficlight.homeservers.provider import all_of
from trafficlight.parameters import NodeRequest

NIO, STABLE, DEVELOP, ANDROID = Nio(), ElementWebStable(), ElementWebDevelop(), ElementAndroid()


class Waiting(NamedTuple):
    """A case that waits in a session; `lacking` are the seconds for which its needs cannot be satisfied."""

    session: str
    case: WaitingCase
    lacking: float = 0.0


class Outcome(NamedTuple):
    """A decision, by the ids of cases instead of groups."""

    starts: tuple[Start, ...]
    reasons: dict[str, str]
    unsatisfiable: set[str]


def case(
    key: str,
    *kinds: ClientType,
    session: str = "s",
    order: int = 0,
    age: float = 0.0,
    servers: int = 0,
    server_types: Sequence[str] = (),
    lacking: float = 0.0,
) -> Waiting:
    clients = {f"role{n}": kind for n, kind in enumerate(kinds)}
    found = case_of(key, clients, server_types or ["Any"] * servers)
    return Waiting(session, WaitingCase(found, order, NOW - age), lacking)


@dataclass(frozen=True)
class Machine:
    """A node of a cluster."""

    labels: tuple[str, ...]
    os: str = "linux"


def needing(key: str, num_nodes: int, *kinds: ClientType, labels: tuple[str, ...] = ()) -> Waiting:
    """Return a case that needs nodes."""
    waiting = case(key, *kinds)
    request = NodeRequest(num_nodes, labels) if num_nodes else None
    return waiting._replace(case=replace(waiting.case, case=replace(waiting.case.case, nodes=request)))


def decide(
    waiting: Iterable[Waiting],
    free: Iterable[AvailableAdapter],
    busy: Iterable[AvailableAdapter] = (),
    limits: Limits | None = None,
    usage: Usage | None = None,
    known: tuple[str, ...] = (),
) -> Outcome:
    waiting = list(waiting)
    groups = grouped((one.session, one.case) for one in waiting)
    for group in groups:
        if lacking := max(one.lacking for one in waiting if one.case.case.id in group.cases):
            group.unsatisfiable_since = NOW - lacking
    decision = scheduler.decide(groups, NOW, free, busy, limits, usage, known=known)
    started = {start.case for start in decision.starts}
    reasons = {
        key: reason for group, reason in decision.reasons.items() for key in group.cases if key not in started
    }
    unsatisfiable = {key for group in decision.unsatisfiable for key in group.cases}
    return Outcome(decision.starts, reasons, unsatisfiable)


def free(*types: str, **registration: Any) -> list[AvailableAdapter]:
    return [AvailableAdapter(f"{kind}-{n}", {"type": kind, **registration}) for n, kind in enumerate(types)]


def started(decision: Outcome) -> list[str]:
    return [start.case for start in decision.starts]


def test_a_case_without_clients_starts_at_once() -> None:
    assert started(decide([case("a")], [])) == ["a"]


class TestNodes:
    """Nodes of a cluster are leased together with the adapters."""

    NODES = (
        [AvailableAdapter(f"node plain{n}", {}, node=Machine(())) for n in range(3)]
        + [AvailableAdapter(f"node ssd{n}", {}, node=Machine(("ssd",))) for n in range(2)]
    )  # fmt: skip

    def test_all_or_nothing_with_the_adapters(self) -> None:
        wants = needing("a", 2, NIO)
        assert not decide([wants], self.NODES, limits=Limits(nodes=True)).starts
        (start,) = decide([wants], [*free("nio"), *self.NODES], limits=Limits(nodes=True)).starts
        assert sorted(start.adapters.values()) == ["nio-0", "node plain0", "node plain1"]

    def test_a_label_is_kept_for_those_that_ask_for_it(self) -> None:
        both = [needing("any", 3), needing("ssd", 2, labels=("ssd",))]
        assert sorted(started(decide(both, self.NODES, limits=Limits(nodes=True)))) == ["any", "ssd"]

    def test_why_one_waits(self) -> None:
        outcome = decide([needing("a", 3, labels=("ssd",))], self.NODES, limits=Limits(nodes=True))
        assert outcome.reasons == {"a": "needs 3 nodes with label ssd (2 free of 2)"}
        assert outcome.unsatisfiable == {"a"}

    def test_a_cluster_that_makes_nodes_is_no_limit(self) -> None:
        assert started(decide([needing("a", 1000)], [])) == ["a"]

    def test_no_client_type_is_asked_about_a_node(self) -> None:
        class Anything(ClientType):
            def match(self, adapter: object) -> bool:
                return True

        assert not decide([needing("a", 0, Anything())], self.NODES, limits=Limits(nodes=True)).starts


def test_all_or_nothing() -> None:
    decision = decide([case("a", NIO, NIO)], free("nio"))
    assert not decision.starts
    assert decision.reasons == {"a": "needs 2 x Nio (1 free, 1 registered)"}


def test_overlapping_types_do_not_block_each_other() -> None:
    """The adapter that labels itself with neither channel serves as both."""
    adapters = [
        AvailableAdapter("both", {"type": "element-web"}),
        AvailableAdapter("stable", {"type": "element-web", "labels": ["stable"]}),
    ]
    decision = decide([case("a", STABLE), case("b", DEVELOP, order=1)], adapters)
    assert {start.case: start.adapters["role0"] for start in decision.starts} == {"a": "stable", "b": "both"}


def test_the_roles_of_one_case_share_what_overlaps() -> None:
    adapters = [
        AvailableAdapter("both", {"type": "element-web"}),
        AvailableAdapter("dev", {"type": "element-web", "labels": ["develop"]}),
    ]
    (start,) = decide([case("a", DEVELOP, STABLE)], adapters).starts
    assert start.adapters == {"role0": "dev", "role1": "both"}


def test_the_case_that_needs_the_scarcest_adapters_comes_first() -> None:
    waiting = [case("common", NIO, order=1), case("scarce", NIO, ANDROID, order=2)]
    decision = decide(waiting, free("nio", "element-android"))
    assert started(decision) == ["scarce"]


def test_among_equals_the_plan_decides() -> None:
    waiting = [case(key, NIO, order=order) for key, order in (("z", 1), ("a", 2), ("m", 3))]
    assert started(decide(waiting, free("nio", "nio"))) == ["z", "a"]


def test_adapters_that_are_known_to_be_there_are_taken_first() -> None:
    adapters = [
        AvailableAdapter("a-silent", {"type": "nio"}, rank=1),
        AvailableAdapter("z-polling", {"type": "nio"}, rank=0),
    ]
    (start,) = decide([case("a", NIO)], adapters).starts
    assert start.adapters == {"role0": "z-polling"}


class TestSessions:
    def test_the_one_with_the_fewest_running_cases_comes_first(self) -> None:
        waiting = [case("a", NIO, session="s1"), case("b", NIO, session="s2")]
        assert started(decide(waiting, free("nio"), usage=Usage(cases={"s1": 1}))) == ["b"]
        assert started(decide(waiting, free("nio"), usage=Usage(cases={"s2": 1}))) == ["a"]

    def test_they_take_turns(self) -> None:
        waiting = [case(f"{s}{n}", NIO, session=s, order=n) for s in ("s1", "s2") for n in range(5)]
        decision = decide(waiting, free(*["nio"] * 6))
        assert sorted(started(decision)) == ["s10", "s11", "s12", "s20", "s21", "s22"]

    def test_one_that_cannot_use_its_turn_holds_nobody_up(self) -> None:
        waiting = [
            case("a", ANDROID, session="s1"),
            *(case(f"b{n}", NIO, session="s2", order=n) for n in range(3)),
        ]
        assert started(decide(waiting, free(*["nio"] * 3))) == ["b0", "b1", "b2"]

    def test_the_one_that_has_waited_longer_breaks_a_tie(self) -> None:
        waiting = [case("a", NIO, session="s1", age=1), case("b", NIO, session="s2", age=2)]
        assert started(decide(waiting, free("nio"))) == ["b"]


class TestAging:
    def test_what_a_big_case_needs_is_kept_back_for_it(self) -> None:
        waiting = [case("big", NIO, NIO, age=61, order=9), case("small", NIO, age=5)]
        decision = decide(waiting, free("nio"), busy=[AvailableAdapter("busy", {"type": "nio"})])
        assert not decision.starts
        assert decision.reasons["big"] == "needs 2 x Nio (1 free, 2 registered)"
        kept = "needs 1 x Nio (0 free, 1 reserved for an older case, 2 registered)"
        assert decision.reasons["small"] == kept

    def test_before_that_smaller_ones_go_on(self) -> None:
        waiting = [case("big", NIO, NIO, age=59), case("small", NIO)]
        assert started(decide(waiting, free("nio"), free("nio"))) == ["small"]

    def test_what_it_does_not_need_is_not_kept(self) -> None:
        waiting = [case("big", NIO, NIO, age=61), case("small", ANDROID)]
        assert started(decide(waiting, free("nio", "element-android"), free("nio"))) == ["small"]

    def test_the_oldest_comes_first_though_others_are_scarcer(self) -> None:
        waiting = [case("old", NIO, age=100, order=2), case("scarce", NIO, ANDROID, age=61, order=1)]
        assert started(decide(waiting, free("nio", "element-android"))) == ["old"]

    def test_only_the_oldest_has_anything_kept_back(self) -> None:
        waiting = [
            case("oldest", NIO, NIO, age=100),
            case("older", ANDROID, ANDROID, age=90),
            case("small", ANDROID, age=80, order=1),
        ]
        assert started(decide(waiting, free("nio", "element-android"), free("nio", "element-android"))) == [
            "small"
        ]

    def test_nothing_is_kept_for_a_case_that_nobody_can_play(self) -> None:
        waiting = [case("never", NIO, ANDROID, age=100), case("small", NIO, age=70)]
        assert started(decide(waiting, free("nio"))) == ["small"]

    def test_nor_for_one_that_has_been_short_of_adapters_for_long(self) -> None:
        """One adapter for two roles: otherwise it would keep the only one for ever."""
        small = case("small", NIO, age=70)
        never, leaving = (case("big", NIO, NIO, age=100, lacking=seconds) for seconds in (31, 1))
        assert started(decide([never, small], free("nio"))) == ["small"]
        assert started(decide([leaving, small], free("nio"))) == []

    def test_homeserver_slots_are_kept_too(self) -> None:
        waiting = [case("big", servers=3, age=61), case("small", servers=1, order=1)]
        decision = decide(waiting, [], limits=Limits(homeservers=4), usage=Usage(homeservers=2))
        assert not decision.starts
        assert decision.reasons == {
            "big": "waiting for 3 homeserver slots (2 of 4 in use)",
            "small": "waiting for a homeserver slot (2 of 4 in use, 3 reserved for an older case)",
        }

    def test_places_for_a_client_type_are_kept_too(self) -> None:
        waiting = [case("big", NIO, NIO, age=61), case("small", NIO, order=1)]
        limits, usage = Limits(types={"Nio": 2}), Usage(types={"Nio": 1})
        assert started(decide(waiting, free("nio", "nio"), limits=limits, usage=usage)) == []
        assert started(decide(waiting[1:], free("nio", "nio"), limits=limits, usage=usage)) == ["small"]


class TestLimits:
    def test_cases(self) -> None:
        decision = decide(
            [case("a"), case("b", order=1)], [], limits=Limits(cases=3), usage=Usage(cases={"x": 2})
        )
        assert started(decision) == ["a"]
        assert decision.reasons == {"b": "waiting for other cases to end (3 of 3 are running)"}

    def test_cases_that_are_held_ready(self) -> None:
        decision = decide(
            [case("a"), case("b", order=1)], [], limits=Limits(cases=3, ahead=2), usage=Usage(cases={"x": 4})
        )
        assert started(decision) == ["a"]
        assert decision.reasons == {"b": "waiting for other cases to end (3 of 3 are running)"}

    @pytest.mark.parametrize("age", [0, 61])
    def test_what_cannot_be_had_is_the_reason_while_a_limit_is_reached(self, age: float) -> None:
        limits = Limits(cases=1, homeservers=1, unreachable=frozenset({"Docker"}))
        waiting = [
            case("a", NIO, NIO, age=age),
            case("b", servers=1, server_types=["Docker"], order=1, age=age),
            case("c", NIO, order=2, age=age),
        ]
        decision = decide(waiting, free("nio"), limits=limits, usage=Usage(cases={"x": 1}, homeservers=1))
        assert decision.reasons == {
            "a": "needs 2 x Nio (1 free, 1 registered)",
            "b": "waiting for Docker (none is reachable)",
            "c": "waiting for other cases to end (1 of 1 are running)",
        }
        assert decision.unsatisfiable == {"a", "b"}

    def test_homeservers(self) -> None:
        waiting = [case("a", servers=2), case("b", servers=2, order=1), case("c", order=2)]
        decision = decide(waiting, [], limits=Limits(homeservers=3))
        assert started(decision) == ["a", "c"]
        assert decision.reasons == {"b": "waiting for 2 homeserver slots (2 of 3 in use)"}

    def test_homeservers_that_cases_share_count_once(self) -> None:
        waiting = [case(key, server_types=["Synapse"], order=order) for order, key in enumerate("abc")]
        waiting += [case("other", server_types=["Dendrite"], order=3)]
        limits = Limits(homeservers=1, types={"Synapse": 1}, shares=lambda _: True)
        decision = decide(waiting, [], limits=limits)
        assert started(decision) == ["a", "b", "c"]
        assert decision.reasons == {"other": "waiting for a homeserver slot (1 of 1 in use)"}

    def test_homeservers_that_running_cases_share_need_no_other(self) -> None:
        alone = case("alone", server_types=["Synapse"])
        alone = alone._replace(case=replace(alone.case, case=replace(alone.case.case, isolated=True)))
        limits = Limits(homeservers=1, shares=lambda one: not one.isolated)
        usage = Usage(homeservers=1, shared={("Synapse",)})
        decision = decide([alone, case("b", server_types=["Synapse"])], [], limits=limits, usage=usage)
        assert started(decision) == ["b"]
        assert decision.reasons == {"alone": "waiting for a homeserver slot (1 of 1 in use)"}

    def test_a_case_that_needs_more_than_there_may_be_runs_alone(self) -> None:
        limits = Limits(homeservers=2)
        assert started(decide([case("a", servers=5)], [], limits=limits)) == ["a"]
        assert started(decide([case("a", servers=5)], [], limits=limits, usage=Usage(homeservers=1))) == []

    def test_client_types(self) -> None:
        limits = Limits(types={"Nio": 2})
        waiting = [
            case("a", NIO),
            case("b", NIO, order=1),
            case("c", NIO, order=2),
            case("d", ANDROID, order=3),
        ]
        decision = decide(waiting, free("nio", "nio", "nio", "element-android"), limits=limits)
        assert set(started(decision)) == {"a", "b", "d"}
        assert decision.reasons == {"c": "waiting for Nio (2 of 2 in use)"}


def hosted(key: str, *types: str, **rest: Any) -> Waiting:
    return case(key, server_types=types, **rest)


def carried(docker: int) -> Limits:
    """Return the limit of one provider, which carries all types but `Elsewhere`; 0: it is not reachable."""
    label = all_of("docker")
    return Limits(
        types={label: docker},
        unreachable=frozenset([] if docker else [label]),
        provider_of=lambda name: "static" if name == "Elsewhere" else "docker",
    )


class TestProviders:
    def test_a_provider_carries_so_many(self) -> None:
        waiting = [hosted(f"{n}", "Synapse", order=n) for n in range(5)]
        decision = decide(waiting, [], limits=carried(4))
        assert started(decision) == ["0", "1", "2", "3"]
        assert decision.reasons == {"4": "waiting for docker homeservers (4 of 4 in use)"}

    def test_all_homeservers_of_a_case_count(self) -> None:
        pair = hosted("pair", "Synapse", "Dendrite")
        usage = Usage(types={"docker homeservers": 4})
        decision = decide([pair], [], limits=carried(5), usage=usage)
        assert decision.reasons == {"pair": "waiting for docker homeservers (4 of 5 in use)"}
        assert started(decide([pair], [], limits=carried(6), usage=usage)) == ["pair"]

    def test_a_case_that_needs_more_than_it_carries_runs_alone(self) -> None:
        large = hosted("large", *["Synapse"] * 4)
        assert started(decide([large], [], limits=carried(3))) == ["large"]
        usage = Usage(types={"docker homeservers": 1})
        assert not decide([large], [], limits=carried(3), usage=usage).starts

    def test_a_provider_without_a_capacity_sets_no_limit(self) -> None:
        waiting = [hosted(f"{n}", "Elsewhere", order=n) for n in range(5)]
        assert len(decide(waiting, [], limits=carried(1)).starts) == 5

    def test_while_it_is_not_reachable_cases_wait_and_not_for_ever(self) -> None:
        decision = decide([hosted("a", "Synapse"), hosted("b", "Elsewhere", order=1)], [], limits=carried(0))
        assert started(decision) == ["b"]
        assert decision.reasons == {"a": "waiting for docker homeservers (none is reachable)"}
        assert decision.unsatisfiable == {"a"}

    def test_nothing_is_kept_for_one_that_cannot_start_now(self) -> None:
        waiting = [hosted("old", "Synapse", "Elsewhere", age=61), hosted("new", "Elsewhere", order=1)]
        assert started(decide(waiting, [], limits=replace(carried(0), homeservers=2))) == ["new"]

    def test_room_is_kept_for_the_oldest(self) -> None:
        waiting = [hosted("pair", "Synapse", "Synapse", age=61), hosted("one", "Synapse", order=1)]
        decision = decide(waiting, [], limits=carried(2), usage=Usage(types={"docker homeservers": 1}))
        assert not decision.starts
        kept = "waiting for docker homeservers (1 of 2 in use, 2 reserved for an older case)"
        assert decision.reasons["one"] == kept

    def test_the_total_holds_over_all_providers(self) -> None:
        waiting = [hosted("a", "Synapse"), hosted("b", "Elsewhere", order=1)]
        decision = decide(waiting, [], limits=replace(carried(4), homeservers=1))
        assert started(decision) == ["a"]
        assert decision.reasons == {"b": "waiting for a homeserver slot (1 of 1 in use)"}


class TestReasons:
    def test_every_type_that_is_short(self) -> None:
        decision = decide([case("a", NIO, NIO, ANDROID)], free("nio"), free("element-android"))
        assert decision.reasons["a"] == (
            "needs 1 x ElementAndroid (0 free, 1 registered); needs 2 x Nio (1 free, 1 registered)"
        )

    def test_roles_that_need_the_same_adapter(self) -> None:
        adapters = [AvailableAdapter("both", {"type": "element-web"})]
        decision = decide([case("a", STABLE, DEVELOP)], adapters)
        assert decision.reasons["a"] == "needs an adapter for two of its roles"

    def test_why_adapters_are_missing_is_told_of_types_that_are_short(self) -> None:
        missing = [
            MissingAdapter({"type": "nio"}, "nio is being built"),
            MissingAdapter({"type": "element-android"}, "it exits"),
        ]
        groups = grouped([("s", case("a", NIO, ANDROID).case)])
        decision = scheduler.decide(groups, NOW, free("nio"), missing=missing)
        assert list(decision.reasons.values()) == [
            "needs 1 x ElementAndroid (0 free, 0 registered); it exits"
        ]

    def test_unfilled_says_that_waiting_for_others_to_end_does_not_help(self) -> None:
        waiting = [case("two", NIO, NIO), case("one", NIO, order=1)]
        assert decide(waiting, [], free("nio")).unsatisfiable == {"two"}


class Careless(ClientType):
    """A type whose author did not think of adapters without a version."""

    def match(self, adapter: Any) -> bool:
        return bool(adapter.registration["version"].startswith("1"))


def test_a_type_whose_match_raises_costs_only_its_own_cases() -> None:
    decision = decide([case("careless", Careless()), case("other", NIO)], free("nio"))
    assert started(decision) == ["other"]
    assert decision.reasons["careless"] == (
        "needs 1 x Careless (0 free, 0 registered; its match() raised KeyError: 'version')"
    )


def test_foreign_types_of_one_name_are_kept_apart() -> None:
    def foreign(type: str) -> ClientType:
        class Custom:
            def name(self) -> str:
                return "Custom"

            def match(self, adapter: Any) -> bool:
                return bool(adapter.registration["type"] == type)

        found = as_client_type(Custom)
        assert found is not None
        return found

    decision = decide([case("a", foreign("one")), case("b", foreign("two"))], free("two"))
    assert started(decision) == ["b"]


@pytest.mark.parametrize("waiting", [[], [case("a", NIO)]])
def test_nothing_to_decide(waiting: list[Waiting]) -> None:
    assert decide(waiting, []).starts == ()


def test_homeservers_of_a_type_are_limited_like_clients() -> None:
    waiting = [case(str(number), order=number, server_types=["Shared"]) for number in range(3)]
    decision = decide(waiting, [], limits=Limits(types={"Shared": 2}))
    assert len(decision.starts) == 2
    assert list(decision.reasons.values()) == ["waiting for Shared (2 of 2 in use)"]


@pytest.mark.parametrize(
    ("type", "known", "hint"),
    [
        ("mautrix-pyton", (), ", did you mean mautrix-go?"),
        ("mautrix-python", ("mautrix-python",), ""),  # between two cases
        ("mautrix-pyton", ("mautrix-python",), ", did you mean mautrix-python?"),
    ],
)
def test_a_reason_suggests_the_types_that_are_known(type: str, known: tuple[str, ...], hint: str) -> None:
    (kind,) = client_types_of([type])
    decision = decide([case("a", kind)], [], known=known)
    assert decision.reasons == {"a": f"needs 1 x {type} (0 free, 0 registered{hint})"}


def test_a_case_that_runs_elsewhere_needs_nothing_here() -> None:
    waiting = [case("a", NIO, servers=2), case("b", NIO, ANDROID)]
    there = decide(waiting, [], limits=Limits(cases=1, homeservers=1, elsewhere=True))
    assert started(there) == ["a"]
    assert there.starts[0].adapters == {}
    assert there.unsatisfiable == set()

    nowhere = Limits(unreachable=frozenset([scheduler.MACHINE]), elsewhere=True)
    waits = decide(waiting, [], limits=nowhere)
    assert waits.starts == ()
    assert waits.unsatisfiable == {"a", "b"}
    assert set(waits.reasons.values()) == {"waiting for a Dask worker (none is reachable)"}
