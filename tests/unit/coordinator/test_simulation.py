"""A lab in virtual time: thousands of cases, adapters that leave after each and come back."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from tests.unit.coordinator.waiting import case_of
from trafficlight.client_types import ClientType, ElementAndroid, ElementWebStable, Nio
from trafficlight.coordinator.scheduling.inventory import AvailableAdapter
from trafficlight.coordinator.scheduling.queues import WaitingCase, WaitingCases
from trafficlight.coordinator.scheduling.scheduler import Limits, Usage, decide
from trafficlight.homeservers.provider import all_of

NIO, STABLE, ANDROID = Nio(), ElementWebStable(), ElementAndroid()


@dataclass
class Job:
    """A case to come: when it comes, what it needs, how long it takes."""

    key: str
    session: str
    order: int
    clients: dict[str, ClientType]
    seconds: float
    servers: int = 0
    at: float = 0.0
    server_types: tuple[str, ...] = ()
    started: float | None = None


@dataclass
class Simulation:
    """Runs jobs to their end. An adapter is gone after a case, and another comes after a while.

    The engine comes and goes: `engine` says from what time on it carries how many homeservers.
    """

    adapters: dict[str, int]
    limits: Limits = field(default_factory=Limits)
    returns: float = 0.5
    now: float = 0.0
    queues: dict[str, WaitingCases] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    running: dict[str, tuple[Job, list[AvailableAdapter]]] = field(default_factory=dict)
    free: dict[str, AvailableAdapter] = field(default_factory=dict)
    decisions: int = 0
    engine: dict[float, int] = field(default_factory=dict)

    def run(self, jobs: list[Job]) -> None:
        """Run until nothing happens any more."""
        numbers = count()
        events: list[tuple[float, int, str, str]] = [
            (job.at, next(numbers), "comes", job.key) for job in jobs
        ]
        self.jobs = {job.key: job for job in jobs}
        for kind, many in self.adapters.items():
            events += [(0.0, next(numbers), "registers", kind) for _ in range(many)]
        events += [(at, next(numbers), "changes", "") for at in self.engine]
        heapq.heapify(events)
        while events:
            self.now, number, what, about = heapq.heappop(events)
            if what == "comes":
                job = self.jobs[about]
                servers = job.server_types or ["Any"] * job.servers
                waiting = WaitingCase(case_of(job.key, job.clients, servers), job.order, since=job.at)
                self.queues.setdefault(job.session, WaitingCases(job.session)).add(waiting)
            elif what == "registers":
                self.free[f"{about}-{number}"] = AvailableAdapter(f"{about}-{number}", {"type": about})
            elif what == "changes":
                most, label = self.engine[self.now], all_of("docker")
                down = frozenset([] if most else [label])
                self.limits = replace(
                    self.limits, types={label: most}, unreachable=down, provider_of=lambda _: "docker"
                )
            else:
                _, gone = self.running.pop(about)
                for adapter in gone:
                    back = self.now + self.returns
                    heapq.heappush(events, (back, next(numbers), "registers", adapter.registration["type"]))
            if not events or events[0][0] > self.now:
                for job in self.look():
                    heapq.heappush(events, (self.now + job.seconds, next(numbers), "ends", job.key))

    @property
    def waiting(self) -> list[str]:
        """The cases that wait."""
        return [case for queue in self.queues.values() for case in queue]

    def look(self) -> list[Job]:
        """Decide once, as the engine does."""
        self.decisions += 1
        waiting = [group for queue in self.queues.values() for group in queue.groups]
        jobs = [job for job, _ in self.running.values()]
        on = {all_of("docker"): sum(len(job.server_types) for job in jobs)}
        usage = Usage(Counter(job.session for job in jobs), sum(job.servers for job in jobs), types=on)
        busy = [adapter for _, held in self.running.values() for adapter in held]
        decision = decide(waiting, self.now, self.free.values(), busy, self.limits, usage)
        for group, reason in decision.reasons.items():
            group.note_waiting(
                reason,
                self.now,
                unsatisfiable=group in decision.unsatisfiable,
                no_adapter=group in decision.no_adapter,
            )
        begun = []
        for start in decision.starts:
            self.queues[start.group.session].remove(start.case, starts=True)
            job = self.jobs[start.case]
            job.started = self.now
            self.running[job.key] = (job, [self.free.pop(key) for key in start.adapters.values()])
            begun.append(job)
        if any(job.server_types for job in begun):  # nothing starts without room
            on_it = sum(len(job.server_types) for job, _ in self.running.values())
            assert on_it <= self.limits.types[all_of("docker")]
        return begun


def _clients(*kinds: ClientType) -> dict[str, ClientType]:
    return {f"role{n}": kind for n, kind in enumerate(kinds)}


@pytest.mark.parametrize("cases", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_all_cases_run(cases: int) -> None:
    chance = random.Random(5)
    shapes = [_clients(NIO), _clients(NIO, NIO), _clients(NIO, STABLE), _clients(STABLE, ANDROID, NIO), {}]
    jobs = [
        Job(
            f"s{n % 3}\n{n}",
            f"s{n % 3}",
            n,
            chance.choice(shapes),
            chance.uniform(0.1, 20.0),
            chance.randint(0, 2),
            at=(n % 3) * 30.0,
        )
        for n in range(cases)
    ]
    lab = Simulation({"nio": 30, "element-web": 12, "element-android": 5}, Limits(homeservers=40))
    lab.run(jobs)
    assert not lab.waiting
    assert not lab.running
    assert all(job.started is not None for job in jobs)
    # As fast as the scarcest adapters allow: nothing waits for a sweep.
    busiest = sum(job.seconds + lab.returns for job in jobs if len(job.clients) == 3) / 5
    assert lab.now < 1.5 * max(busiest, sum(len(job.clients) * job.seconds for job in jobs) / 47)


def test_a_big_case_is_not_starved_by_an_endless_flow_of_small_ones() -> None:
    big = Job("s\nbig", "s", 0, _clients(NIO, NIO, NIO, NIO), 10.0)
    flow = [Job(f"s\n{n}", "s", n + 1, _clients(NIO), 7.0 + n % 5, at=n * 1.5) for n in range(1000)]
    Simulation({"nio": 4}).run([big, *flow])
    assert big.started is not None
    assert big.started < 60 + 30, "it has to wait for its age and for those that run by then"


def test_nor_by_those_of_another_session_that_has_less_running() -> None:
    long = Job("s1\nlong", "s1", 0, _clients(ANDROID), 500.0)
    big = Job("s1\nbig", "s1", 1, _clients(NIO, NIO), 10.0, at=1.0)
    flow = [Job(f"s2\n{n}", "s2", n, _clients(NIO), 8.0, at=n * 5.0) for n in range(400)]
    Simulation({"nio": 2, "element-android": 1}).run([long, big, *flow])
    assert big.started is not None
    assert big.started < 600


def test_a_case_that_needs_many_homeservers_is_not_starved() -> None:
    big = Job("s\nbig", "s", 0, {}, 10.0, servers=4)
    flow = [Job(f"s\n{n}", "s", n + 1, {}, 7.0 + n % 5, servers=1, at=n * 1.5) for n in range(500)]
    flow[0].at = big.at - 0.5
    Simulation({}, Limits(homeservers=4)).run([big, *flow])
    assert big.started is not None
    assert big.started < 60 + 30


def test_a_case_that_can_never_run_holds_nobody_up() -> None:
    """Two roles and one adapter: the others go on one after the other, without a pause."""
    never = Job("s\nnever", "s", 0, _clients(NIO, NIO), 1.0)
    others = [Job(f"s\n{n}", "s", n + 1, _clients(NIO), 2.0) for n in range(100)]
    lab = Simulation({"nio": 1})
    lab.run([never, *others])
    assert lab.waiting == ["s\nnever"]
    assert lab.now <= 100 * (2.0 + lab.returns) + 1


def test_a_small_session_does_not_wait_for_a_huge_one() -> None:
    huge = [Job(f"s1\n{n}", "s1", n, _clients(NIO, NIO), 2.0) for n in range(1000)]
    small = [Job(f"s2\n{n}", "s2", n, _clients(NIO, NIO), 2.0, at=200.0) for n in range(10)]
    lab = Simulation({"nio": 8})
    lab.run([*huge, *small])
    last = max(job.started or float("inf") for job in small)
    assert last < 200 + 60
    assert last < lab.now / 2


def test_decisions_are_as_many_as_there_is_news() -> None:
    jobs = [Job(f"s\n{n}", "s", n, _clients(NIO), 1.0) for n in range(100)]
    lab = Simulation({"nio": 1})
    lab.run(jobs)
    assert lab.decisions <= 2 * len(jobs) + 1


def _on_engine(key: str, order: int, seconds: float, servers: int = 1, at: float = 0.0) -> Job:
    return Job(f"s\n{key}", "s", order, {}, seconds, servers, at, server_types=("Synapse",) * servers)


def test_no_room_of_an_engine_stays_empty() -> None:
    chance = random.Random(7)
    jobs = [_on_engine(str(n), n, chance.uniform(5, 15), chance.choice([1, 1, 2])) for n in range(500)]
    lab = Simulation({}, engine={0.0: 16})
    lab.run(jobs)
    assert not lab.waiting
    work = sum(job.seconds * job.servers for job in jobs)
    assert lab.now < 1.1 * work / 16


def test_an_engine_that_goes_away_and_comes_back() -> None:
    jobs = [_on_engine(str(n), n, 10.0, 1 + n % 2) for n in range(200)]
    lab = Simulation({}, engine={0.0: 8, 95.0: 0, 145.0: 8})
    lab.run(jobs)
    assert not lab.waiting
    assert not [job for job in jobs if 95 <= (job.started or 0) < 145]
    assert [job for job in jobs if (job.started or 0) >= 145]


def test_a_pair_is_not_starved_by_those_that_fit_alone() -> None:
    pair = _on_engine("pair", 0, 10.0, servers=2, at=20.0)
    flow = [_on_engine(str(n), n + 1, 9.0, at=n * 1.4) for n in range(500)]
    Simulation({}, engine={0.0: 6}).run([pair, *flow])
    assert pair.started is not None
    assert pair.started < 20 + 60 + 10
