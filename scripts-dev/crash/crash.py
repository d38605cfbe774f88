"""Kill the coordinator at random moments of a session, start it again, and see whether anything was lost."""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import junitparser
from evidence import MARK, events_of, free_port, still_running, verdicts

HERE = Path(__file__).parent
# Seconds after which a run is taken for stuck.
_STUCK = 120.0


class Crash:
    """One run of the crash test.

    :param folder: an empty folder.
    :param cases: how many cases the session has.
    :param kills: how often its coordinator is killed.
    :param delay: seconds that each action takes: a case has three, one after the other.
    """

    def __init__(self, folder: Path, cases: int, kills: int, delay: float, seed: int) -> None:
        self.folder = folder
        self.cases = cases
        self.kills = kills
        self.delay = delay
        self.killed = 0
        self.problems: list[str] = []
        self._random = random.Random(seed)
        self._port = free_port()
        self._mark = f"{os.getpid()}-{seed}-{self._port}"
        self._environment = {
            **os.environ,
            MARK: self._mark,
            "PYTHONUNBUFFERED": "1",
            "CASES": str(cases),
            # The kills come from outside: no case is to blame.
            "TRAFFICLIGHT_INTERRUPTION_LIMIT": str(kills + 1),
            "TRAFFICLIGHT_URL": f"http://127.0.0.1:{self._port}",
        }
        self._acknowledged = folder / "acknowledged.txt"
        self._seen: dict[str, str] = {}

    async def run(self) -> None:
        """Kill, restart, and look, until the session has ended."""
        config = {"PORT": self._port, "TESTS": [f"{HERE / 'noop_test.py'}"], "ACTION_DEADLINE": 20}
        (self.folder / "trafficlight.json").write_text(json.dumps(config))
        # They outlive every coordinator, as adapters on other machines do.
        adapters = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "adapters.py"), "16", "--delay", str(self.delay)),
            *("--acknowledged", str(self._acknowledged)),
            env=self._environment,
        )
        try:
            for kill in range(self.kills):
                if await self._once(kill):
                    break
            else:
                await self._once(None)
        finally:
            adapters.kill()
            await adapters.wait()
        self._check()

    async def _once(self, kill: int | None) -> bool:
        """Run the coordinator until it is killed or done; return whether the session has ended."""
        with (self.folder / "output.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "trafficlight", "serve", "--exit-when-done"),
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        limit = _STUCK if kill is None else self._random.uniform(0.3, 3.0)
        try:
            async with asyncio.timeout(limit):
                code = await process.wait()
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await process.wait()
            self.killed += 1
            if kill is None:
                self.problems.append(f"the session did not end within {_STUCK:g} s")
            self._look()
            return False
        if code != 0:
            self.problems.append(f"the coordinator ended with {code}: see {self.folder / 'output.log'}")
        return True

    def _look(self) -> None:
        for case, verdict in verdicts(events_of(self.folder / "results")):
            if self._seen.setdefault(case, verdict) != verdict:
                self.problems.append(f"{case} was {self._seen[case]}, and is {verdict} now")

    def _check(self) -> None:
        self._look()
        events = events_of(self.folder / "results")
        ended = Counter(case for case, _ in verdicts(events))
        twice = [case for case, times in ended.items() if times > 1]
        if twice:
            self.problems.append(f"{len(twice)} cases ended more than once, such as {twice[0]}")
        if len(ended) != self.cases:
            self.problems.append(f"{len(ended)} of {self.cases} cases ended")
        answered = {event["data"]["id"] for event in events if event["kind"] == "action_answered"}
        acknowledged = self._acknowledged.read_text().split()
        if lost := [id for id in acknowledged if id not in answered]:
            self.problems.append(f"{len(lost)} of {len(acknowledged)} acknowledged answers are not recorded")
        sequences = [event["sequence"] for event in events]
        if sequences != list(range(1, len(sequences) + 1)):
            self.problems.append("the events are not numbered from 1 without gaps")
        for path in (self.folder / "results").glob("2*/junit.xml"):
            report = junitparser.JUnitXml.fromfile(str(path))
            if (report.tests, report.failures, report.errors) != (self.cases, 0, 0):
                self.problems.append(f"junit.xml: {report.tests} tests, {report.errors} errors")
        if left := still_running(self._mark):
            self.problems.append(f"still running: {left}")


def main() -> None:
    """Run the crash test; exit code 1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how often the coordinator is killed")
    parser.add_argument("--runs", type=int, default=1, help="how often all of it is done")
    parser.add_argument("--seed", type=int, default=0, help="chooses the moments")
    parser.add_argument("--cases", type=int, default=1000, help="how many cases the session has")
    parser.add_argument(
        "--delay", type=float, default=0.1, help="seconds that an action takes on average; a case has three"
    )
    arguments = parser.parse_args()
    failed = False
    for run in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="trafficlight-crash-", ignore_cleanup_errors=True) as folder:
            crash = Crash(
                Path(folder), arguments.cases, arguments.kills, arguments.delay, arguments.seed + run
            )
            began = time.monotonic()
            asyncio.run(crash.run())
            verdict = crash.problems or "nothing was lost"
            print(
                f"run {run + 1}: {crash.killed} kills, {time.monotonic() - began:.0f} s, {verdict}",
                flush=True,
            )
            if crash.problems:
                failed = True
                print((Path(folder) / "output.log").read_text()[-3000:])
    sys.exit(failed)


if __name__ == "__main__":
    main()
