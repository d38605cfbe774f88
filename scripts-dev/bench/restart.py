"""How long a coordinator takes to go on with a session of many cases after it was killed."""

import argparse
import asyncio
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tables import show

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.session import Session
from trafficlight.results.events import (
    ActionAnswered,
    ActionDelivered,
    ActionSent,
    AdapterLeased,
    AdapterReleased,
    CaseState,
    State,
)
from trafficlight.suites.selection import SessionRequest
from trafficlight.worker.assignment import Verdict

TEST = """
from trafficlight import Test, matrix
from trafficlight.client_types import Nio


class NoOp(Test):
    clients = {{"alice": Nio, "bob": Nio}}

    @matrix(n=range({count}))
    async def run(self, n, alice, bob) -> None:
        await alice.perform("dance")
"""


def settings_of(folder: Path) -> Settings:
    """Return the settings of every coordinator here."""
    return Settings.model_validate(
        {
            "results_folder": folder / "results",
            "tests": [str(folder / "no_op_test.py")],
            "workers": 0,
            "adapters": {},
            "grace": 0.1,
        }
    )


async def leave_behind(folder: Path, ended: int) -> None:
    """Run a coordinator until so many cases have ended, and keep what a kill would leave in ``killed``."""
    settings = settings_of(folder)
    async with Lab.open(settings, resumable=True) as lab:
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="bench")
        for number, case in enumerate(session.plan.cases[:ended]):
            _play(lab, session, case.id)
            if number % 100 == 0:
                await asyncio.sleep(0)
        shutil.copytree(folder / "results", folder / "killed", symlinks=True)
    shutil.rmtree(folder / "results")
    (folder / "killed").rename(folder / "results")


def _play(lab: Lab, session: Session, case: str) -> None:
    """Record what an attempt of two clients with one action leaves in the journal."""
    entry = session.start(case)
    about: dict[str, Any] = {"session": session.id, "case": case, "attempt": 1}
    append = lab.journal.append
    for role in ("alice", "bob"):
        append(AdapterLeased(**about, role=role, adapter=f"{role} of {case}", registration={}))
    append(CaseState(**about, state=State.PREPARING))
    append(CaseState(**about, state=State.RUNNING))
    action: dict[str, Any] = {"id": "1", "action": "dance", "role": "alice", "adapter": f"alice of {case}"}
    append(ActionSent(**about, **action, data={}))
    append(ActionDelivered(**about, **action))
    append(ActionAnswered(**about, **action, response={"response": "done"}, seconds=0.01))
    for role in ("alice", "bob"):
        append(AdapterReleased(**about, role=role, adapter=f"{role} of {case}", reason="ended"))
    session.finish(entry, Verdict(State.SUCCESS), 0.1)


async def go_on(folder: Path) -> None:
    """Start the next coordinator, as a process of its own does, and print what it took."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    began = time.perf_counter()
    async with Lab.open(settings_of(folder), resumable=True) as lab:
        opened = time.perf_counter() - began
        watching = asyncio.create_task(watch())
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="bench")
        went_on = time.perf_counter() - began
        watching.cancel()
        waiting, cases = len(session.waiting), len(session.record.cases)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(opened, went_on, 1000 * longest, memory, waiting, cases, flush=True)
        os._exit(0)  # what comes at a session's end is no part of a restart


def main() -> None:
    """Measure restarts of several sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        asyncio.run(go_on(options.folder))
        return
    rows: list[tuple[object, ...]] = []
    for count in options.cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "no_op_test.py").write_text(TEST.format(count=count))
            asyncio.run(leave_behind(folder, count // 2))
            (log,) = (folder / "results").glob("2*/events.jsonl")
            size = log.stat().st_size / 1e6
            arguments = [sys.executable, __file__, "--folder", str(folder)]
            rows.append((f"{count:,} cases", size, *asyncio.run(_printed(arguments))))
    show(
        "Restart after a kill in the middle of a session, half of its cases ended",
        ("session", "log MB", "open s", "goes on s", "longest turn ms", "peak MB", "waiting", "cases"),
        rows,
    )


async def _printed(arguments: list[str]) -> list[float]:
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return [float(word) for word in output.split()]


if __name__ == "__main__":
    main()
