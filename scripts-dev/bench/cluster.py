"""A session on many Dask workers: how busy they are kept, and what a case costs the coordinator.

``cluster.py --cases 10000 --workers 100`` runs cases of one second, of which the workers only say that they
run. Each worker is a process: 100 of them need some 8 GB. Before that, cases of no length, for the CPU time
of the coordinator: on this machine, and on the workers.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tables import show

from trafficlight.cli.runtime import lab_for_others
from trafficlight.config import Settings
from trafficlight.coordinator.dask import plugin
from trafficlight.coordinator.dask.host import Ended
from trafficlight.coordinator.dask.machines import Machines, setup_of
from trafficlight.coordinator.lab import Lab
from trafficlight.results.events import CaseEnded, CaseState, State, event_line
from trafficlight.results.journal import read_events
from trafficlight.suites.model import Case
from trafficlight.suites.selection import SessionRequest
from trafficlight.worker.assignment import Verdict

TEST = """
from trafficlight import Test, matrix

class NoOp(Test):
    @matrix(n=range({count}))
    async def run(self, n) -> None:
        pass
"""
_CLUSTER = """
import sys
import dask
from distributed import LocalCluster

# So many workers on one machine leave it to the others if they do not watch themselves all the time.
dask.config.set({
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.admin.tick.interval": "10s",
})

if __name__ == "__main__":
    with LocalCluster(
        n_workers=int(sys.argv[1]), threads_per_worker=1, memory_limit=0, dashboard_address=None,
        silence_logs="CRITICAL",
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


class Quick(plugin.HostPlugin):
    """A host whose cases only take time.

    :param seconds: how long each takes.
    :param session: the session's id.
    """

    seconds = 0.0
    session = ""

    def host(self) -> Any:
        """Return itself."""
        return self

    def run(self, case: Case, attempt: int, cancelled: Callable[[], bool]) -> Ended:
        """Say that a case runs, and wait."""
        states = (State.PREPARING, State.RUNNING)
        events = [
            CaseState(session=self.session, case=case.id, attempt=attempt, state=state) for state in states
        ]
        self.send({"lines": [event_line(event) for event in events]})
        time.sleep(self.seconds)
        return Ended(Verdict(State.SUCCESS), self.seconds)


async def _run(count: int, seconds: float, address: str | None) -> tuple[float, float, float]:
    """Run a session; return the seconds that it and its cases took, and the CPU seconds of this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "noop_test.py").write_text(TEST.format(count=count))
        async with AsyncExitStack() as stack:
            settings = Settings(results_folder=folder / "results", adapters={}, workers=1)
            machines = None
            if address is not None:
                machines = await stack.enter_async_context(Machines.connected(address, print))
            lab = await stack.enter_async_context(Lab.open(settings, elsewhere=machines))
            request = SessionRequest(targets=[str(folder / "noop_test.py")])
            planned, place = await lab.plan(request), await lab.new_folder()
            if machines is not None:
                Quick.seconds, Quick.session = seconds, place.id
                setup = setup_of(settings, place.id, planned.cases, lab_for_others)
                await stack.enter_async_context(machines.hosting(setup, lab.engine, place))
            began, cpu = time.monotonic(), time.process_time()
            session = await lab.start(request, plan=planned, folder=place)
            await session.ended.wait()
            took, cpu = time.monotonic() - began, time.process_time() - cpu
            assert session.record.counts[State.SUCCESS] == count
            ends = [one.time for one in read_events(place.events) if isinstance(one, CaseEnded)]
            return took, (max(ends) - min(ends)).total_seconds() + seconds, cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--quick-cases", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    plugin.HostPlugin = Quick  # type: ignore[misc]
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _CLUSTER, str(options.workers)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as cluster:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        rows = []
        for _ in range(options.rounds):
            for where in (None, address):
                took, _, cpu = asyncio.run(_run(options.quick_cases, 0.0, where))
                name = "on this machine" if where is None else "on Dask workers"
                rows.append((name, options.quick_cases, took, 1000 * cpu / options.quick_cases))
        show("cases of no length", ("where", "cases", "seconds", "CPU ms per case"), rows)
        took, ran, cpu = asyncio.run(_run(options.cases, options.seconds, address))
        busy = options.cases * options.seconds / (options.workers * ran)
        row = (options.workers, options.cases, took, ran, f"{100 * busy:.1f} %", 1000 * cpu / options.cases)
        show(
            f"cases of {options.seconds:g} s",
            ("workers", "cases", "session s", "cases s", "slots busy", "CPU ms per case"),
            [row],
        )
        cluster.communicate()


if __name__ == "__main__":
    main()
