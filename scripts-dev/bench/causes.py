"""What the causes of a session cost: 10,000 cases with 542 failures, and the share of one factor's naming."""

import argparse
import gc
import time
from collections.abc import Callable

from tables import show

from trafficlight.results.case import AttemptRecord, CaseRecord
from trafficlight.results.events import ServerReady, State
from trafficlight.results.reports.causes import causes, factors_of

CLIENTS = ("ElementWebStable", "ElementWebDevelop", "HydrogenWeb", "Nio", "JsSdk", "MautrixGo")
SERVERS = ("SynapseStable", "SynapseDevelop", "Dendrite")


def session(cases: int) -> list[CaseRecord]:
    """Return cases of every pair of clients on every server; 1 in 18 fails, mostly for one reason."""
    found = []
    for number in range(cases):
        alice, bob = CLIENTS[number % 6], CLIENTS[number // 6 % 6]
        server, test = SERVERS[number // 36 % 3], f"chat/many_test.py::Many.test_{number // 108 % 30}"
        fails = bob == "HydrogenWeb" and server == "Dendrite" and number % 41 > 6
        odd = number % 117 == 0
        message = f"bob: message {number} from @alice-{number:x}:localhost:{40_000 + number} is undecryptable"
        attempt = AttemptRecord(1, "", state=State.FAILURE if fails or odd else State.SUCCESS)
        for role, kind in (("alice", alice), ("bob", bob)):
            attempt.adapters[role] = {"type": kind, "version": "1.12.4", "instance": f"lab-{number % 25}"}
        attempt.servers["server"] = ServerReady(server_name="", cs_api="", type=server, version="1.140")
        found.append(
            CaseRecord(
                id=f"{test}[alice={alice},bob={bob},server={server},n={number // 3240}]",
                suite=test,
                file="chat/many_test.py",
                clients={"alice": alice, "bob": bob},
                servers={"server": server},
                parameters={"n": number // 3240},
                state=attempt.state,
                message=message if fails else f"odd: wait {number % 5} of room" if odd else "",
                attempts=[attempt],
            )
        )
    return found


def cpu(work: Callable[[], object], times: int) -> float:
    """Return the least CPU time, in seconds."""
    found = []
    for _ in range(times):
        gc.collect()
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    cases = session(options.cases)
    failed = sum(case.state is State.FAILURE for case in cases)
    listing = cpu(lambda: [list(factors_of(case)) for case in cases], options.times)
    whole = cpu(lambda: causes(cases), options.times)
    head = ("cases", "failed", "causes", "factors alone (s)", "causes (s)", "ratio")
    title = "CPU time of the causes of a session"
    show(title, head, [(len(cases), failed, len(causes(cases)), listing, whole, whole / listing)])
    for cause in causes(cases):
        print(f"  {len(cause.cases):,} x {cause.message}: {cause.factors}, {cause.matching} of {cause.total}")


if __name__ == "__main__":
    main()
