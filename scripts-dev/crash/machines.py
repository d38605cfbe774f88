"""Kill the workers of a Dask cluster at random, and its scheduler once, while a session runs on it.

``machines.py --cases 500 --kills 50 --seed 1`` checks that every case succeeds in the end, and that no
process is left of what the killed workers had started.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

TEST = """
import asyncio
import subprocess

from trafficlight import Test, matrix

class Waits(Test):
    @matrix(n=range({cases}))
    async def run(self, n) -> None:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        await asyncio.sleep({seconds})
"""
_MARK = "CRASH_MARK"


class Cluster:
    """A scheduler and workers of one slot each.

    :param folder: for their files.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self._folder, self._number = folder, 0
        #: By which :meth:`left` knows what was started.
        self.environment = {**os.environ, _MARK: folder.name, "DASK_TEMPORARY_DIRECTORY": str(folder)}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--port", self.port)

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return f"tcp://127.0.0.1:{self.port}"

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        self._number += 1
        command = (sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments)
        with (self._folder / f"{what}-{self._number}.log").open("wb") as log:
            return subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--no-dashboard"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def grow(self) -> None:
        """Start a worker."""
        self.workers.append(self._start("worker", self.address, "--no-nanny", "--nthreads", "1"))

    def restart_scheduler(self) -> None:
        """Kill the scheduler and start another one; its workers end by themselves."""
        self.scheduler.kill()
        self.scheduler.wait()
        self.scheduler = self._start("scheduler", "--port", self.port)

    def replace_dead(self) -> None:
        """Start a worker for each that has ended."""
        for worker in [one for one in self.workers if one.poll() is not None]:
            self.workers.remove(worker)
            self.grow()

    def close(self) -> None:
        """Kill everything."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        for left in self.left():
            left.kill()

    def left(self) -> list[psutil.Process]:
        """Return what runs of what they started, themselves excepted."""
        own = {process.pid for process in (*self.workers, self.scheduler)}
        return [one for one in psutil.process_iter() if one.pid not in own and self._has_started(one)]

    def _has_started(self, process: psutil.Process) -> bool:
        try:
            running = process.status() != psutil.STATUS_ZOMBIE
            return running and process.environ().get(_MARK) == self._folder.name
        except psutil.Error:
            return False


def main() -> int:
    """Run it; return 1 if something is lost or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a case takes")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two kills, on average")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="crash-") as name:
        folder = Path(name)
        (folder / "waits_test.py").write_text(TEST.format(cases=options.cases, seconds=options.seconds))
        cluster = Cluster(folder)
        try:
            for _ in range(options.workers):
                cluster.grow()
            environment = {**cluster.environment, "TRAFFICLIGHT_INTERRUPTION_LIMIT": "1000"}
            command = [
                sys.executable,
                "-m",
                "trafficlight",
                "run",
                "--dask",
                cluster.address,
                "waits_test.py",
            ]
            with (folder / "run.log").open("wb") as log:
                for _ in range(120):  # the scheduler may not listen yet
                    running = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
                    if _begins(running, folder):
                        break
                else:
                    print((folder / "run.log").read_text())
                    return 1
            kills = 0
            while running.poll() is None:
                time.sleep(chance.uniform(0, 2 * options.pause))
                cluster.replace_dead()
                if kills == options.kills // 2:
                    cluster.restart_scheduler()
                if kills < options.kills:
                    chance.choice(cluster.workers).kill()
                    kills += 1
            ends = _ends(folder)
            verdicts = Counter(end["state"] for end in ends.values())
            print(f"exit code {running.returncode}, {kills} workers killed, verdicts {dict(verdicts)}")
            time.sleep(2)
            left = cluster.left()
            print(f"left: {[one.cmdline() for one in left] or 'nothing'}")
            return int(running.returncode != 0 or verdicts != {"success": options.cases} or bool(left))
        finally:
            cluster.close()


def _begins(running: "subprocess.Popen[bytes]", folder: Path) -> bool:
    """Return whether a session begins, before its command ends."""
    while running.poll() is None:
        if (folder / "results" / "latest" / "events.jsonl").exists():
            return True
        time.sleep(0.2)
    return False


def _ends(folder: Path) -> dict[str, dict[str, str]]:
    """Return how each case ended, in its last attempt."""
    lines = (folder / "results" / "latest" / "events.jsonl").read_text().splitlines()
    events = (json.loads(line) for line in lines)
    return {event["case"]: event["data"] for event in events if event["kind"] == "case_ended"}


if __name__ == "__main__":
    sys.exit(main())
