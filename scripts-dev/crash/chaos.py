"""Kill adapters in the middle of their actions, all through a session, and see that no case is stuck."""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from evidence import MARK, events_of, free_port, still_running, verdicts

HERE = Path(__file__).parent
# Seconds after which a session is taken for stuck.
_STUCK = 900.0
# How every error has to begin: who, and doing what.
_EXPLAINED = re.compile(r"(alice|bob): did not (fetch|answer) noop within|.*(alice|bob) was performing noop")


class Chaos:
    """One session whose adapters are processes that die without a word.

    :param folder: an empty folder.
    :param cases: how many two-client cases of six actions the session has.
    :param adapters: how many processes.
    :param dies: the share of the actions that kill their process.
    """

    def __init__(self, folder: Path, cases: int, adapters: int, dies: float) -> None:
        self.folder = folder
        self.cases = cases
        self.adapters = adapters
        self.dies = dies
        self.deaths = 0
        self.problems: list[str] = []
        self.states: Counter[str] = Counter()
        port = free_port()
        self._mark = f"{os.getpid()}-{port}"
        self._environment = {
            **os.environ,
            MARK: self._mark,
            "CASES": str(cases),
            "TRAFFICLIGHT_URL": f"http://127.0.0.1:{port}",
        }
        config = {
            "PORT": port,
            "TESTS": [str(HERE / "noop_test.py")],
            # The lab learns of the exit of a process on another machine only from its deadlines.
            "ACTION_DEADLINE": 3,
            "ALIVE_DEADLINE": 5,
        }
        (folder / "trafficlight.json").write_text(json.dumps(config))

    async def run(self) -> None:
        """Run the session to its end and look at what it left."""
        loops = [asyncio.create_task(self._adapter()) for _ in range(self.adapters)]
        try:
            await self._session()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
        self._check()

    async def _session(self) -> None:
        with (self.folder / "output.log").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "trafficlight", "serve", "--exit-when-done"),
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        try:
            async with asyncio.timeout(_STUCK):
                code = await process.wait()
        except TimeoutError:
            self.problems.append(f"the session did not end within {_STUCK:g} s")
            process.kill()
            await process.wait()
            return
        if code not in (0, 3):  # success, or errors of the lab only
            self.problems.append(f"the coordinator ended with {code}")

    async def _adapter(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(HERE / "adapters.py"), "1", "--dies", str(self.dies)),
                *("--delay", "0.02"),
                env=self._environment,
            )
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
            self.deaths += code < 0

    def _check(self) -> None:
        events = events_of(self.folder / "results")
        ended = Counter(case for case, _ in verdicts(events))
        self.states = Counter(state for _, state in verdicts(events))
        if len(ended) != self.cases or set(ended.values()) != {1}:
            self.problems.append(f"{len(ended)} of {self.cases} cases ended, {ended.total()} times")
        if set(self.states) - {"success", "error"}:
            self.problems.append(f"the lab took its own faults for others': {dict(self.states)}")
        for event in events:
            if event["kind"] == "case_ended" and event["data"]["state"] == "error":
                message = event["data"]["message"]
                if not _EXPLAINED.match(message):
                    self.problems.append(f"an error that does not say whose fault it was: {message}")
        if left := still_running(self._mark):
            self.problems.append(f"still running: {left}")


def main() -> None:
    """Run a session under fire; exit code 1 when a case was stuck, or lost, or badly explained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500, help="cases of the session (default 500)")
    parser.add_argument("--adapters", type=int, default=16, help="adapter processes (default 16)")
    parser.add_argument("--dies", type=float, default=0.1, help="share of deadly actions (default 0.1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trafficlight-chaos-", ignore_cleanup_errors=True) as folder:
        chaos = Chaos(Path(folder), arguments.cases, arguments.adapters, arguments.dies)
        began = time.monotonic()
        asyncio.run(chaos.run())
        print(
            f"{arguments.cases} cases, {chaos.deaths} adapters killed, {time.monotonic() - began:.0f} s: "
            f"{dict(chaos.states)}; {chaos.problems[:10] or 'no case was stuck'}"
        )
        if chaos.problems:
            print((Path(folder) / "output.log").read_text()[-3000:])
    sys.exit(bool(chaos.problems))


if __name__ == "__main__":
    main()
