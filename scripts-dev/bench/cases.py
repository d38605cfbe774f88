"""How fast cases go through the lab: cases per second, start latency, and the coordinator's own share."""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tables import percentile, show

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.http.app import app_of
from trafficlight.http.server import bind, serving
from trafficlight.results.events import (
    AdapterLeased,
    AdapterRegistered,
    CaseEnded,
    CaseState,
    Event,
    SessionStarted,
    State,
)
from trafficlight.suites.planning import plan
from trafficlight.suites.selection import SessionRequest

TEST = """
from trafficlight import Test, matrix
from trafficlight.client_types import Nio


class NoOp(Test):
    clients = {clients}

    @matrix(n=range({count}))
    async def run(self, n, {roles}) -> None:
        {body}
"""


@dataclass
class Outcome:
    """What one session took."""

    cases: int
    seconds: float
    cpu: float
    latencies: list[float]
    ending: float

    @property
    def row(self) -> tuple[object, ...]:
        """Its cells in the table."""
        return (
            self.cases,
            self.seconds,
            self.cases / self.seconds,
            1000 * self.cpu / self.cases,
            f"{100 * self.cpu / self.seconds:.0f} %",
            1000 * percentile(self.latencies, 0.5) if self.latencies else "-",
            1000 * percentile(self.latencies, 0.99) if self.latencies else "-",
            self.ending,
        )


class Latencies:
    """From the moment that the last adapter of a case is there to its start; a reader of the journal."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._session: datetime | None = None
        self._registered: dict[str, datetime] = {}
        self._last: dict[str, datetime] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, AdapterRegistered):
            self._registered[event.adapter] = event.time
        elif isinstance(event, SessionStarted):
            self._session = event.time
        elif isinstance(event, AdapterLeased) and event.case:
            came = max(self._registered.pop(event.adapter), self._session or event.time)
            self._last[event.case] = max(came, self._last.get(event.case, came))
        elif (
            isinstance(event, CaseState)
            and event.state is State.PREPARING
            and (last := self._last.pop(event.case, None)) is not None
        ):
            self.seconds.append((event.time - last).total_seconds())


@asynccontextmanager
async def looping(url: str, count: int) -> AsyncIterator[None]:
    """Run adapters in a process of their own."""
    program = Path(__file__).parent / "looping.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), url, str(count), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def measure(cases: int, clients: int, adapters: int, workers: int, actions: int) -> Outcome:
    """Run one session of no-op cases.

    :param clients: of each case.
    :param actions: that each client is asked for.
    :param workers: processes for test code that are started ahead; 0 for none.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roles = [f"client{n}" for n in range(clients)]
        body = "\n        ".join(f"await {role}.perform('dance')" for role in roles * actions) or "pass"
        text = TEST.format(
            clients="{" + ", ".join(f"{role!r}: Nio" for role in roles) + "}",
            count=cases,
            roles=", ".join(roles),
            body=body,
        )
        (folder / "no_op_test.py").write_text(text)
        settings = Settings.model_validate(
            {
                "results_folder": folder / "results",
                "workers": workers,
                "adapters": {},
                "grace": 0.1,
            }
        )
        planned = plan([folder / "no_op_test.py"], directory=folder)
        async with Lab.open(settings, resumable=True) as lab:
            latencies = Latencies()
            lab.journal.subscribe(latencies)
            async with serving(app_of(lab), bind("127.0.0.1", 0)) as url, looping(url, adapters):
                await asyncio.sleep(1)  # until adapters and workers have started
                began, cpu = time.perf_counter(), time.process_time()
                session = await lab.start(SessionRequest(), plan=planned)
                last = asyncio.Event()
                left = cases

                def count(event: Event) -> None:
                    nonlocal left
                    left -= isinstance(event, CaseEnded)
                    if not left:
                        last.set()

                lab.journal.subscribe(count)
                await last.wait()
                seconds, used = time.perf_counter() - began, time.process_time() - cpu
                await session.ended.wait()
                ending = time.perf_counter() - began - seconds
                lab.engine.pool.close("done")
            good = session.record.counts[State.SUCCESS]
            if good != cases:
                raise SystemExit(f"only {good} of {cases} cases succeeded")
    return Outcome(cases, seconds, used, latencies.seconds, ending)


def main() -> None:
    """Measure sessions of several kinds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="cases of each session (default 1,000)")
    parser.add_argument("--adapters", type=int, default=100, help="looping adapters (default 100)")
    parser.add_argument("--workers", type=int, default=2, help="workers started ahead (default 2)")
    options = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    for title, clients, workers, actions in (
        ("no clients, in the coordinator", 0, 0, 0),
        ("no clients, in workers", 0, options.workers, 0),
        ("two clients, in the coordinator", 2, 0, 0),
        ("two clients, in workers", 2, options.workers, 0),
        ("two clients, 5 actions each, in workers", 2, options.workers, 5),
    ):
        adapters = options.adapters if clients else 0
        outcome = asyncio.run(measure(options.cases, clients, adapters, workers, actions))
        rows.append((title, *outcome.row))
        print(title, "measured", file=sys.stderr)
    head = ("cases", "seconds", "cases/s", "own ms/case", "own CPU", "start p50 ms", "p99 ms", "ending s")
    show(
        f"Sessions of no-op cases, {options.adapters} looping adapters, {options.workers} workers ahead",
        ("session", *head),
        rows,
    )


if __name__ == "__main__":
    main()
