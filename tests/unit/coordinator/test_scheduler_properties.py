"""What holds for every decision, whatever waits and whatever is free."""

import functools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.coordinator.waiting import NOW, case_of, grouped
from trafficlight.client_types import ClientType
from trafficlight.coordinator.scheduling import scheduler
from trafficlight.coordinator.scheduling.inventory import AvailableAdapter, match
from trafficlight.coordinator.scheduling.queues import WaitingCase
from trafficlight.coordinator.scheduling.scheduler import Limits, Usage


class Letters(ClientType):
    """Matches adapters of any of some types, so that types overlap."""

    def __init__(self, letters: str) -> None:
        super().__init__()
        self.letters = letters

    def name(self) -> str:
        return f"Letters-{self.letters}"

    def match(self, adapter: Any) -> bool:
        return adapter.registration["type"] in self.letters


KINDS = st.sampled_from(["a", "b", "c", "ab", "bc", "abc"]).map(Letters)
CLIENTS = st.lists(KINDS, max_size=4).map(lambda kinds: {f"role{n}": kind for n, kind in enumerate(kinds)})
SERVERS = st.lists(st.sampled_from(["D", "E", "L", "S"]), max_size=3).map(tuple)
SHAPES = st.tuples(st.sampled_from(["s1", "s2", "s3"]), CLIENTS, SERVERS)
FREE = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 1)), max_size=12).map(
    lambda some: [AvailableAdapter(f"u{n}", {"type": letter}, rank) for n, (letter, rank) in enumerate(some)]
)
AGES = st.sampled_from([0.0, 61.0, 200.0])


@dataclass(frozen=True)
class Waiting:
    """A case that waits."""

    key: str
    session: str
    order: int
    clients: Mapping[str, ClientType]
    server_types: tuple[str, ...]
    age: float = 0.0


@dataclass(frozen=True)
class Decided:
    """A decision, by the ids of cases instead of groups."""

    starts: list[tuple[str, Mapping[str, str]]]
    reasons: dict[str, str]
    unsatisfiable: set[str]
    no_adapter: set[str]


def decide(
    waiting: list[Waiting],
    free: list[AvailableAdapter],
    busy: Sequence[AvailableAdapter] = (),
    limits: Limits | None = None,
    usage: Usage | None = None,
    *,
    shuffled: random.Random | None = None,
) -> Decided:
    groups = grouped(
        (one.session, WaitingCase(case_of(one.key, one.clients, one.server_types), one.order, NOW - one.age))
        for one in waiting
    )
    if shuffled is not None:
        shuffled.shuffle(groups)
    decision = scheduler.decide(groups, NOW, free, busy, limits, usage)
    started = {start.case for start in decision.starts}
    return Decided(
        [(start.case, start.adapters) for start in decision.starts],
        {key: why for group, why in decision.reasons.items() for key in group.cases if key not in started},
        {key for group in decision.unsatisfiable for key in group.cases},
        {key for group in decision.no_adapter for key in group.cases},
    )


def _waiting(shapes: list[tuple[str, dict[str, Letters], tuple[str, ...]]]) -> list[Waiting]:
    return [
        Waiting(str(n), session, n, clients, servers) for n, (session, clients, servers) in enumerate(shapes)
    ]


WAITING = st.lists(SHAPES, max_size=12).map(_waiting)
OF_ALL_AGES = st.lists(st.tuples(SHAPES, AGES), max_size=12).map(
    lambda some: [
        replace(case, age=age)
        for case, (_, age) in zip(_waiting([shape for shape, _ in some]), some, strict=True)
    ]
)
TYPES = ["Letters-a", "Letters-ab", "S", "docker homeservers", "local homeservers"]


def _limits(**limits: Any) -> Limits:
    """Return limits in which D and E come from docker, L from local, S from a provider without any."""
    providers = {"L": "local", "S": "static"}
    return Limits(provider_of=functools.partial(_provider, providers), **limits)


def _provider(providers: Mapping[str, str], name: str) -> str:
    return providers.get(name, "docker")


UNREACHABLE = st.frozensets(st.sampled_from(["docker homeservers", "local homeservers"]), max_size=1)
LIMITS = st.builds(
    _limits,
    cases=st.none() | st.integers(1, 5),
    homeservers=st.none() | st.integers(1, 5),
    types=st.dictionaries(st.sampled_from(TYPES), st.integers(1, 3)),
    unreachable=UNREACHABLE,
)
OF_TYPES = st.builds(
    _limits, types=st.dictionaries(st.sampled_from(TYPES), st.integers(1, 4)), unreachable=UNREACHABLE
)
USAGE = st.builds(
    Usage,
    cases=st.dictionaries(st.sampled_from(["s1", "s2"]), st.integers(0, 3)),
    homeservers=st.integers(0, 4),
    types=st.dictionaries(st.sampled_from(TYPES), st.integers(0, 3)),
)


def needs(case: Waiting, limits: Limits) -> Counter[str]:
    """How many of everything that may be limited a case needs."""
    return limits.needs(case_of(case.key, case.clients, case.server_types), case.server_types)


def taken_by(decision: Decided, waiting: list[Waiting], limits: Limits) -> Counter[str]:
    """How many of everything a decision takes."""
    cases = {case.key: case for case in waiting}
    return sum((needs(cases[key], limits) for key, _ in decision.starts), Counter[str]())


def check(decision: Decided, waiting: list[Waiting], free: list[AvailableAdapter]) -> None:
    """What holds in every case."""
    cases = {case.key: case for case in waiting}
    adapters = {adapter.key: adapter for adapter in free}
    taken = Counter(key for _, chosen in decision.starts for key in chosen.values())
    assert all(count == 1 for count in taken.values()), "an adapter is in two leases"
    for case, chosen in decision.starts:
        clients = cases[case].clients
        assert list(chosen) == list(clients)
        assert all(clients[role].match(adapters[key]) for role, key in chosen.items())
    started = [case for case, _ in decision.starts]
    assert len(started) == len(set(started))
    assert {*started, *decision.reasons} == set(cases), "a case neither starts nor has a reason to wait"
    assert not set(started) & set(decision.reasons)
    assert all(decision.reasons.values())
    assert decision.unsatisfiable <= set(decision.reasons)


@given(OF_ALL_AGES, FREE, FREE, LIMITS, USAGE)
def test_a_decision_is_sound(
    waiting: list[Waiting],
    free: list[AvailableAdapter],
    busy: list[AvailableAdapter],
    limits: Limits,
    usage: Usage,
) -> None:
    check(decide(waiting, free, busy, limits, usage), waiting, free)


@given(WAITING, FREE, OF_TYPES, USAGE)
def test_no_feasible_case_is_left_waiting(
    waiting: list[Waiting], free: list[AvailableAdapter], limits: Limits, usage: Usage
) -> None:
    usage = Usage(types=usage.types)
    decision = decide(waiting, free, (), limits, usage)
    used = Counter(usage.types) + taken_by(decision, waiting, limits)
    taken = {key for _, chosen in decision.starts for key in chosen.values()}
    left = [adapter for adapter in free if adapter.key not in taken]
    for case in waiting:
        if case.key in decision.reasons:
            could = {
                role: [adapter.key for adapter in left if kind.match(adapter)]
                for role, kind in case.clients.items()
            }
            room = limits.unreachable.isdisjoint(needed := needs(case, limits)) and all(
                name not in limits.types or used[name] + many <= max(limits.types[name], many)
                for name, many in needed.items()
            )
            assert not room or match(could, {adapter.key: 1 for adapter in left}) is None, case


@given(WAITING, FREE, FREE, OF_TYPES)
def test_unfilled_are_those_that_all_there_is_cannot_fill(
    waiting: list[Waiting], free: list[AvailableAdapter], busy: list[AvailableAdapter], limits: Limits
) -> None:
    everybody = free + [AvailableAdapter(f"busy-{adapter.key}", adapter.registration) for adapter in busy]
    decision = decide(waiting, free, busy, limits)
    for case in waiting:
        could = {
            role: [adapter.key for adapter in everybody if kind.match(adapter)]
            for role, kind in case.clients.items()
        }
        satisfiable = match(could, {adapter.key: 1 for adapter in everybody}) is not None
        satisfiable = satisfiable and limits.unreachable.isdisjoint(needs(case, limits))
        assert satisfiable == (case.key not in decision.unsatisfiable)


@given(OF_ALL_AGES, FREE, FREE, LIMITS, USAGE, st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_matter(
    waiting: list[Waiting],
    free: list[AvailableAdapter],
    busy: list[AvailableAdapter],
    limits: Limits,
    usage: Usage,
    shuffled: random.Random,
) -> None:
    first = decide(waiting, free, busy, limits, usage)
    for some in (free, busy):
        shuffled.shuffle(some)
    again = decide(waiting, free, busy, limits, usage, shuffled=shuffled)
    assert first == again
    assert first.starts == again.starts


@given(OF_ALL_AGES, FREE, LIMITS, USAGE)
def test_limits_are_kept(
    waiting: list[Waiting], free: list[AvailableAdapter], limits: Limits, usage: Usage
) -> None:
    cases = {case.key: case for case in waiting}
    started = [cases[key] for key, _ in decide(waiting, free, (), limits, usage).starts]
    if not started:
        return
    running = sum(usage.cases.values()) + len(started)
    assert limits.cases is None or running <= limits.cases
    servers = [len(case.server_types) for case in started if case.server_types]
    if limits.homeservers is not None and servers:
        # One that needs more than there may be runs alone.
        alone = servers == [max(servers)] and not usage.homeservers
        assert usage.homeservers + sum(servers) <= limits.homeservers or alone
    for name, limit in limits.types.items():
        wanted = [many for case in started if (many := needs(case, limits)[name])]
        if wanted:
            alone = len(wanted) == 1 and not usage.types.get(name)
            assert usage.types.get(name, 0) + sum(wanted) <= limit or alone


@given(WAITING, FREE, OF_TYPES)
def test_what_starts_at_once_starts_one_at_a_time_too(
    waiting: list[Waiting], free: list[AvailableAdapter], limits: Limits
) -> None:
    """Deciding again changes nothing until something happens."""
    decision = decide(waiting, free, (), limits)
    taken = {key for _, chosen in decision.starts for key in chosen.values()}
    still = [case for case in waiting if case.key in decision.reasons]
    usage = Usage(types=taken_by(decision, waiting, limits))
    again = decide(still, [adapter for adapter in free if adapter.key not in taken], (), limits, usage)
    assert not again.starts
