"""What holds for every decision, whatever waits and whatever is free."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trafficlight.client_types import ClientType
from trafficlight.coordinator.matching import assign
from trafficlight.coordinator.scheduler import Decision, Free, Limits, Usage, Waiting, decide


class Letters(ClientType):
    """Matches adapters of any of some types, so that types overlap."""

    def __init__(self, letters: str) -> None:
        super().__init__()
        self.letters = letters

    def name(self) -> str:
        return f"Letters-{self.letters}"

    def match(self, adapter: object) -> bool:
        assert isinstance(adapter, Free)
        return adapter.registration["type"] in self.letters


KINDS = st.sampled_from(["a", "b", "c", "ab", "bc", "abc"]).map(Letters)
CLIENTS = st.lists(KINDS, max_size=4).map(lambda kinds: {f"role{n}": kind for n, kind in enumerate(kinds)})
SHAPES = st.tuples(st.sampled_from(["s1", "s2", "s3"]), CLIENTS, st.integers(0, 3))
FREE = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 1)), max_size=12).map(
    lambda some: [Free(f"u{n}", {"type": letter}, rank) for n, (letter, rank) in enumerate(some)]
)
AGES = st.sampled_from([0.0, 61.0, 200.0])


def _waiting(shapes: list[tuple[str, dict[str, Letters], int]]) -> list[Waiting]:
    return [
        Waiting(f"{session}\n{n}", session, n, clients, servers)
        for n, (session, clients, servers) in enumerate(shapes)
    ]


WAITING = st.lists(SHAPES, max_size=12).map(_waiting)
OF_ALL_AGES = st.lists(st.tuples(SHAPES, AGES), max_size=12).map(
    lambda some: [
        Waiting(f"{session}\n{n}", session, n, clients, servers, age)
        for n, ((session, clients, servers), age) in enumerate(some)
    ]
)
LIMITS = st.builds(
    Limits,
    cases=st.none() | st.integers(1, 5),
    homeservers=st.none() | st.integers(1, 5),
    types=st.dictionaries(st.sampled_from(["Letters-a", "Letters-ab"]), st.integers(1, 3)),
)
USAGE = st.builds(
    Usage,
    cases=st.dictionaries(st.sampled_from(["s1", "s2"]), st.integers(0, 3)),
    homeservers=st.integers(0, 4),
    types=st.dictionaries(st.sampled_from(["Letters-a", "Letters-ab"]), st.integers(0, 3)),
)


def check(decision: Decision, waiting: list[Waiting], free: list[Free]) -> None:
    """What holds in every case."""
    cases = {case.key: case for case in waiting}
    adapters = {adapter.key: adapter for adapter in free}
    taken = Counter(key for start in decision.starts for key in start.adapters.values())
    assert all(count == 1 for count in taken.values()), "an adapter is in two leases"
    for start in decision.starts:
        clients = cases[start.key].clients
        assert list(start.adapters) == list(clients)
        assert all(clients[role].match(adapters[key]) for role, key in start.adapters.items())
    started = [start.key for start in decision.starts]
    assert len(started) == len(set(started))
    assert {*started, *decision.reasons} == set(cases), "a case neither starts nor is told why it waits"
    assert not set(started) & set(decision.reasons)
    assert all(decision.reasons.values())
    assert decision.unfilled <= set(decision.reasons)


@settings(deadline=None)  # the machine may be busy
@given(OF_ALL_AGES, FREE, FREE, LIMITS, USAGE)
def test_a_decision_is_sound(
    waiting: list[Waiting], free: list[Free], busy: list[Free], limits: Limits, usage: Usage
) -> None:
    check(decide(waiting, free, busy, limits, usage), waiting, free)


@settings(deadline=None)  # the machine may be busy
@given(WAITING, FREE)
def test_no_feasible_case_is_left_waiting(waiting: list[Waiting], free: list[Free]) -> None:
    decision = decide(waiting, free)
    taken = {key for start in decision.starts for key in start.adapters.values()}
    left = [adapter for adapter in free if adapter.key not in taken]
    for case in waiting:
        if case.key in decision.reasons:
            could = {
                role: [adapter.key for adapter in left if kind.match(adapter)]
                for role, kind in case.clients.items()
            }
            assert assign(could, {adapter.key: 1 for adapter in left}) is None, case


@settings(deadline=None)  # the machine may be busy
@given(WAITING, FREE, FREE)
def test_unfilled_are_those_that_all_adapters_together_cannot_fill(
    waiting: list[Waiting], free: list[Free], busy: list[Free]
) -> None:
    everybody = free + [Free(f"busy-{adapter.key}", adapter.registration) for adapter in busy]
    for case in waiting:
        could = {
            role: [adapter.key for adapter in everybody if kind.match(adapter)]
            for role, kind in case.clients.items()
        }
        fillable = assign(could, {adapter.key: 1 for adapter in everybody}) is not None
        assert fillable == (case.key not in decide(waiting, free, busy).unfilled)


@settings(deadline=None)  # the machine may be busy
@given(OF_ALL_AGES, FREE, FREE, LIMITS, USAGE, st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_matter(
    waiting: list[Waiting],
    free: list[Free],
    busy: list[Free],
    limits: Limits,
    usage: Usage,
    shuffled: random.Random,
) -> None:
    first = decide(waiting, free, busy, limits, usage)
    for some in (waiting, free, busy):
        shuffled.shuffle(some)
    again = decide(waiting, free, busy, limits, usage)
    assert first == again
    assert first.starts == again.starts


@settings(deadline=None)  # the machine may be busy
@given(OF_ALL_AGES, FREE, LIMITS, USAGE)
def test_limits_are_kept(waiting: list[Waiting], free: list[Free], limits: Limits, usage: Usage) -> None:
    cases = {case.key: case for case in waiting}
    started = [cases[start.key] for start in decide(waiting, free, (), limits, usage).starts]
    if not started:
        return
    running = sum(usage.cases.values()) + len(started)
    assert limits.cases is None or running <= limits.cases
    servers = [case.servers for case in started if case.servers]
    if limits.homeservers is not None and servers:
        # One that needs more than there may be runs alone.
        alone = servers == [max(servers)] and not usage.homeservers
        assert usage.homeservers + sum(servers) <= limits.homeservers or alone
    for name, limit in limits.types.items():
        wanted = [
            Counter(kind.name() for kind in case.clients.values())[name]
            for case in started
            if name in {kind.name() for kind in case.clients.values()}
        ]
        if wanted:
            alone = len(wanted) == 1 and not usage.types.get(name)
            assert usage.types.get(name, 0) + sum(wanted) <= limit or alone


@settings(deadline=None)  # the machine may be busy
@given(WAITING, FREE)
def test_what_starts_at_once_starts_one_at_a_time_too(waiting: list[Waiting], free: list[Free]) -> None:
    """Deciding again changes nothing until something happens."""
    decision = decide(waiting, free)
    taken = {key for start in decision.starts for key in start.adapters.values()}
    still = [case for case in waiting if case.key in decision.reasons]
    again = decide(still, [adapter for adapter in free if adapter.key not in taken])
    assert not again.starts
