"""How long one decision of the scheduler takes."""

import argparse
import random
import time
from pathlib import Path

from tables import percentile, show

from trafficlight.client_types import (
    ElementAndroid,
    ElementCall,
    ElementIos,
    ElementWebDevelop,
    ElementWebStable,
    HydrogenWeb,
    NetworkProxy,
    Nio,
    spec_of,
)
from trafficlight.coordinator.scheduling.inventory import AvailableAdapter
from trafficlight.coordinator.scheduling.queues import WaitingCase, WaitingCases
from trafficlight.coordinator.scheduling.scheduler import Limits, decide
from trafficlight.server_types import SynapseStable
from trafficlight.suites.model import Case, ServerSlot

TYPES = [
    Nio(),
    Nio(version=">=0.26"),
    Nio(labels=["fast"]),
    ElementWebStable(),
    ElementWebDevelop(),
    HydrogenWeb(),
    ElementAndroid(),
    ElementIos(),
    ElementCall(),
    NetworkProxy(),
]
REGISTRATIONS: list[dict[str, object]] = [
    {"type": "nio", "version": "0.26.0"},
    {"type": "nio", "version": "0.25.0", "labels": ["fast"]},
    {"type": "element-web", "version": "1.12.0", "labels": ["stable"]},
    {"type": "element-web", "version": "UNKNOWN"},
    {"type": "hydrogen-web", "version": "UNKNOWN"},
    {"type": "element-android"},
    {"type": "element-ios"},
    {"type": "element-call"},
    {"type": "network-proxy", "endpoint": "http://127.0.0.1:4040"},
]

SERVERS = (ServerSlot("SynapseStable", tuple(SynapseStable().homeservers()), ("server",)),)


def main() -> None:
    """Measure decisions of several sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="how often each is measured (default 20)")
    parser.add_argument("--cases", type=int, default=10_000, help="cases that wait (default 10,000)")
    options = parser.parse_args()
    chance = random.Random(1)
    rows = [
        _measured(chance, options.cases, free, age, options.repeat)
        for free in (0, 3, 100, 1000)
        for age in (0.0, 120.0)
    ]
    show(
        f"One decision, {options.cases:,} two-client cases waiting, 10 client types",
        ("free adapters", "aged", "start", "best ms", "p50 ms", "p99 ms"),
        rows,
    )


def _measured(chance: random.Random, cases: int, free: int, age: float, repeat: int) -> tuple[object, ...]:
    sessions = {name: WaitingCases(name) for name in ("s0", "s1", "s2")}
    types = [spec_of(kind, Path(), "A", "alice") for kind in TYPES]
    for n in range(cases):
        clients = {"alice": chance.choice(types), "bob": chance.choice(types)}
        case = Case(str(n), str(n), Path(), "a_test.py", "A", "run", 1, clients, SERVERS)
        sessions[f"s{n % 3}"].add(WaitingCase(case, n, since=-age))
    waiting = [group for session in sessions.values() for group in session.groups]
    adapters = [AvailableAdapter(f"u{n}", dict(chance.choice(REGISTRATIONS)), n % 2) for n in range(free)]
    times, starts = [], 0
    for _ in range(repeat):
        began = time.perf_counter()
        starts = len(decide(waiting, 0.0, adapters, (), Limits(homeservers=2000)).starts)
        times.append((time.perf_counter() - began) * 1000)
    return (f"{free:,}", "yes" if age else "no", starts, min(times), percentile(times, 0.5), max(times))


if __name__ == "__main__":
    main()
