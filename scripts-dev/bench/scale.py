"""Run many cases on many machines that fail, in virtual time, with the lab's own scheduler.

A machine carries some cases at once. When it fails, its cases are interrupted and wait for another attempt,
once; a case that is interrupted a second time ends as an error. The time of decisions is CPU time. A decision
covers all that happened within a hundredth of a second.
"""

import argparse
import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

from tables import percentile, show

from trafficlight.client_types import JsSdk, MautrixGo, Nio, RustSdk, spec_of
from trafficlight.coordinator.scheduling.queues import WaitingCase, WaitingCases
from trafficlight.coordinator.scheduling.scheduler import MACHINE, Limits, Usage, decide
from trafficlight.server_types import SynapseStable
from trafficlight.suites.model import Case, ServerSlot

_TICK = 0.01  # seconds
_SESSIONS = ("nightly", "main", "branch")
_CLIENTS = [spec_of(kind, Path(), "A", "alice") for kind in (Nio(), JsSdk(), MautrixGo(), RustSdk())]
_SERVER = ServerSlot("SynapseStable", tuple(SynapseStable().homeservers()), ("server",))


@dataclass
class Running:
    """A case that runs on a machine."""

    session: str
    waiting: WaitingCase
    machine: int
    since: float


@dataclass
class Simulation:
    """Cases, machines, and the virtual time.

    :param slots: how many cases a machine carries at once.
    :param lasts: mean seconds for which a machine works before it fails.
    :param away: seconds until a machine that failed is back.
    :ivar busy: seconds for which slots were in use while cases waited.
    :ivar there: seconds for which there were slots while cases waited.
    """

    cases: int
    machines: int
    slots: int
    lasts: float
    away: float
    chance: random.Random
    now: float = 0.0
    busy: float = 0.0
    there: float = 0.0
    interrupted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    decisions: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting = {name: WaitingCases(name) for name in _SESSIONS}
        self._running: dict[str, Running] = {}
        self._rooms: list[int] = []
        self._up: set[int] = set()

    def run(self) -> None:
        """Run all cases to their end."""
        for number in range(self.cases):
            waiting = WaitingCase(self._case(str(number)), number, since=0.0)
            self._waiting[self.chance.choice(_SESSIONS)].add(waiting)
        for machine in range(self.machines):
            self._comes(machine)
        self.chance.shuffle(self._rooms)
        while self._running or any(self._waiting.values()):
            if self._rooms:
                self._decide()
            until = (self._events[0][0] // _TICK + 1) * _TICK
            while self._events and self._events[0][0] < until:
                at, _, happens = heapq.heappop(self._events)
                if any(self._waiting.values()):
                    self.busy += (at - self.now) * len(self._running)
                    self.there += (at - self.now) * len(self._up) * self.slots
                self.now = at
                happens()

    def _decide(self) -> None:
        machines = {MACHINE: len(self._up) * self.slots}
        limits = Limits(len(self._running) + len(self._rooms), types=machines, elsewhere=True)
        usage = Usage(
            Counter(one.session for one in self._running.values()), types={MACHINE: len(self._running)}
        )
        groups = [group for session in self._waiting.values() for group in session.groups]
        began = time.process_time()
        starts = decide(groups, self.now, (), (), limits, usage).starts
        self.decisions.append(time.process_time() - began)
        for start in starts:
            session = start.group.session
            waiting = self._waiting[session].remove(start.case, starts=True)
            one = self._running[start.case] = Running(session, waiting, self._rooms.pop(), self.now)
            self._after(self.chance.lognormvariate(2.0, 0.7), partial(self._ends, start.case, one))

    def _after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), happens))

    def _comes(self, machine: int) -> None:
        self._up.add(machine)
        self._rooms += [machine] * self.slots
        self._after(self.chance.expovariate(1 / self.lasts), partial(self._fails, machine))

    def _ends(self, case: str, one: Running) -> None:
        if self._running.get(case) is one:  # its machine has not failed meanwhile
            del self._running[case]
            self._rooms.append(one.machine)
            self.ended["success"] += 1

    def _fails(self, machine: int) -> None:
        self._up.discard(machine)
        self._rooms[:] = [room for room in self._rooms if room != machine]
        for case in [case for case, one in self._running.items() if one.machine == machine]:
            one = self._running.pop(case)
            self.interrupted += 1
            if (before := one.waiting).attempt > 1:
                self.ended["error"] += 1
            else:
                self._waiting[one.session].add(replace(before, attempt=2, since=self.now))
        self._after(self.away, partial(self._comes, machine))

    def _case(self, id: str) -> Case:
        clients = {"alice": self.chance.choice(_CLIENTS), "bob": self.chance.choice(_CLIENTS)}
        return Case(id, id, Path(), "a_test.py", "A", "run", 1, clients, (_SERVER,))


def main() -> None:
    """Simulate several sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100, help="cases for each machine (default 100)")
    parser.add_argument(
        "--machines", type=int, nargs="+", default=[1, 10, 100, 1000], help="how many (default 1 10 100 1000)"
    )
    parser.add_argument("--slots", type=int, default=2, help="cases at once on a machine (default 2)")
    parser.add_argument(
        "--lasts", type=float, default=1800, help="mean seconds until a machine fails (default 1800)"
    )
    parser.add_argument("--away", type=float, default=300, help="seconds until it is back (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default 1)")
    options = parser.parse_args()
    rows = [_row(machines, options) for machines in options.machines]
    columns = ("machines", "cases", "virtual s", "cases/s", "in use", "interrupted", "error", "lost")
    show(
        f"{options.slots} cases at once on a machine, which fails after {options.lasts:g} s on average",
        (*columns, "decisions", "p50 ms", "p99 ms", "of a core"),
        rows,
    )


def _row(machines: int, options: argparse.Namespace) -> tuple[object, ...]:
    cases = options.cases * machines
    chance = random.Random(options.seed)
    lab = Simulation(cases, machines, options.slots, options.lasts, options.away, chance)
    lab.run()
    times = [1000 * seconds for seconds in lab.decisions]
    return (
        f"{machines:,}",
        cases,
        lab.now,
        cases / lab.now,
        f"{100 * lab.busy / lab.there:.1f} %",
        lab.interrupted,
        lab.ended["error"],
        cases - lab.ended.total(),
        len(times),
        percentile(times, 0.5),
        percentile(times, 0.99),
        f"{100 * sum(lab.decisions) / lab.now:.2f} %",
    )


if __name__ == "__main__":
    main()
