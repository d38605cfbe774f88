"""What holds for every decision, whatever waits and whatever is free."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.coordinator.waiting import NOW, case_of, grouped
from trafficlight.client_types import ClientType
from trafficlight.coordinator.scheduling import scheduler
from trafficlight.coordinator.scheduling.bipartite import match
from trafficlight.coordinator.scheduling.inventory import AvailableAdapter
from trafficlight.coordinator.scheduling.queues import WaitingCase
from trafficlight.coordinator.scheduling.scheduler import Limits, Usage
from trafficlight.homeservers.provider import Hosting


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

    starts: list[tuple[str, Mapping[str, str], Mapping[str, str]]]
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
        [(start.case, start.adapters, start.hosts) for start in decision.starts],
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
# D and E come from engines, L from one machine, S from a provider without a limit.
HOSTING = st.builds(
    lambda docker, local: Hosting(
        {
            "docker": {f"docker{n}": most for n, most in enumerate(docker)},
            "local": {f"local{n}": most for n, most in enumerate(local)},
        },
        {"L": "local", "S": "static"},
        "docker",
    ),
    st.lists(st.integers(1, 4), max_size=3),
    st.lists(st.integers(1, 4), max_size=1),
)
LIMITS = st.builds(
    Limits,
    cases=st.none() | st.integers(1, 5),
    homeservers=st.none() | st.integers(1, 5),
    types=st.dictionaries(st.sampled_from(["Letters-a", "Letters-ab", "S"]), st.integers(1, 3)),
    hosting=HOSTING,
)
HOST_USE = st.dictionaries(st.sampled_from(["docker0", "docker1", "docker2", "local0"]), st.integers(0, 5))
USAGE = st.builds(
    Usage,
    cases=st.dictionaries(st.sampled_from(["s1", "s2"]), st.integers(0, 3)),
    homeservers=st.integers(0, 4),
    types=st.dictionaries(st.sampled_from(["Letters-a", "Letters-ab", "S"]), st.integers(0, 3)),
    hosts=HOST_USE,
)


def needs(case: Waiting, hosting: Hosting) -> Counter[str]:
    """How many homeservers a case needs of each provider that counts them."""
    needed = Counter(hosting.provider(name) for name in case.server_types)
    return Counter({provider: many for provider, many in needed.items() if provider in hosting.hosts})


def has_room(provider: str, many: int, hosting: Hosting, used: Counter[str]) -> bool:
    """Whether there is a host for so many homeservers; if no host can ever be, then one that is idle."""
    hosts = hosting.hosts[provider]
    largest = max(hosts.values(), default=0)
    return any(
        used[host] + many <= most or (many > largest == most and not used[host])
        for host, most in hosts.items()
    )


def hosts_taken(decision: Decided, waiting: list[Waiting]) -> Counter[str]:
    """How many homeservers a decision puts on each host."""
    cases = {case.key: case for case in waiting}
    return Counter(
        hosts[name] for key, _, hosts in decision.starts for name in cases[key].server_types if name in hosts
    )


def check(decision: Decided, waiting: list[Waiting], free: list[AvailableAdapter]) -> None:
    """What holds in every case."""
    cases = {case.key: case for case in waiting}
    adapters = {adapter.key: adapter for adapter in free}
    taken = Counter(key for _, chosen, _ in decision.starts for key in chosen.values())
    assert all(count == 1 for count in taken.values()), "an adapter is in two leases"
    for case, chosen, _ in decision.starts:
        clients = cases[case].clients
        assert list(chosen) == list(clients)
        assert all(clients[role].match(adapters[key]) for role, key in chosen.items())
    started = [case for case, _, _ in decision.starts]
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


@given(WAITING, FREE, HOSTING, USAGE)
def test_no_feasible_case_is_left_waiting(
    waiting: list[Waiting], free: list[AvailableAdapter], hosting: Hosting, usage: Usage
) -> None:
    usage = Usage(hosts=usage.hosts)
    decision = decide(waiting, free, (), Limits(hosting=hosting), usage)
    used = Counter(usage.hosts) + hosts_taken(decision, waiting)
    taken = {key for _, chosen, _ in decision.starts for key in chosen.values()}
    left = [adapter for adapter in free if adapter.key not in taken]
    for case in waiting:
        if case.key in decision.reasons:
            could = {
                role: [adapter.key for adapter in left if kind.match(adapter)]
                for role, kind in case.clients.items()
            }
            room = all(has_room(one, many, hosting, used) for one, many in needs(case, hosting).items())
            assert not room or match(could, {adapter.key: 1 for adapter in left}) is None, case


@given(WAITING, FREE, FREE, HOSTING)
def test_unfilled_are_those_that_all_there_is_cannot_fill(
    waiting: list[Waiting], free: list[AvailableAdapter], busy: list[AvailableAdapter], hosting: Hosting
) -> None:
    everybody = free + [AvailableAdapter(f"busy-{adapter.key}", adapter.registration) for adapter in busy]
    for case in waiting:
        could = {
            role: [adapter.key for adapter in everybody if kind.match(adapter)]
            for role, kind in case.clients.items()
        }
        satisfiable = match(could, {adapter.key: 1 for adapter in everybody}) is not None
        satisfiable = satisfiable and all(hosting.hosts[provider] for provider in needs(case, hosting))
        decision = decide(waiting, free, busy, Limits(hosting=hosting))
        assert satisfiable == (case.key not in decision.unsatisfiable)


@settings(max_examples=4 * settings().max_examples)
@given(OF_ALL_AGES, FREE, LIMITS, USAGE)
def test_every_case_has_room_where_it_is_put(
    waiting: list[Waiting], free: list[AvailableAdapter], limits: Limits, usage: Usage
) -> None:
    cases = {case.key: case for case in waiting}
    decision = decide(waiting, free, (), limits, usage)
    hosting, used = limits.hosting, Counter(usage.hosts)
    for key, _, hosts in decision.starts:  # in the order in which it was decided
        case = cases[key]
        counted = {name for name in case.server_types if hosting.provider(name) in hosting.hosts}
        assert set(hosts) == counted
        for provider, many in needs(case, hosting).items():
            # On one host, because elsewhere they would not find each other.
            (host,) = {hosts[name] for name in counted if hosting.provider(name) == provider}
            most = hosting.hosts[provider][host]
            largest = max(hosting.hosts[provider].values())
            assert used[host] + many <= most or (many > largest == most and not used[host])
            used[host] += many


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
    started = [cases[key] for key, _, _ in decide(waiting, free, (), limits, usage).starts]
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
        wanted = [
            many
            for case in started
            if (many := Counter([*(kind.name() for kind in case.clients.values()), *case.server_types])[name])
        ]
        if wanted:
            alone = len(wanted) == 1 and not usage.types.get(name)
            assert usage.types.get(name, 0) + sum(wanted) <= limit or alone


@given(WAITING, FREE, HOSTING)
def test_what_starts_at_once_starts_one_at_a_time_too(
    waiting: list[Waiting], free: list[AvailableAdapter], hosting: Hosting
) -> None:
    """Deciding again changes nothing until something happens."""
    limits = Limits(hosting=hosting)
    decision = decide(waiting, free, (), limits)
    taken = {key for _, chosen, _ in decision.starts for key in chosen.values()}
    still = [case for case in waiting if case.key in decision.reasons]
    usage = Usage(hosts=hosts_taken(decision, waiting))
    again = decide(still, [adapter for adapter in free if adapter.key not in taken], (), limits, usage)
    assert not again.starts
