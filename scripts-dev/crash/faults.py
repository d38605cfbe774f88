"""Kill workers, processes of services, SSH servers and labs at random moments; see that nothing is left.

Half of the faults hit nodes of this machine, the other half three SSH servers. Afterwards there must be no
process, no folder and no node that cannot be used, and no case without a verdict that says what happened.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from evidence import MARK, events_of, free_port, marked, still_running, verdicts

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.sshd import Sshd

HERE = Path(__file__).parent

# Seconds after which a lab is taken for stuck; that a fault waits for a service; that guards have.
_STUCK, _PATIENCE, _GRACE = 600.0, 60.0, 60.0
_LOCAL, _SSH = "local", "ssh"
_FAULTS = {_LOCAL: ("worker", "process", "lab"), _SSH: ("worker", "process", "lab", "connection", "sshd")}
# How every error has to begin: what has ended, or which node does not answer.
_EXPLAINED = re.compile(
    r"(Loop-1: )?node \S+: |the test (process ended|ended its process)|a worker did not start\b|interrupted"
)


class Faults:
    """Sessions on one kind of cluster until all faults have been made, and one without faults.

    :param folder: an empty folder.
    :param cases: how many cases of each number of nodes a session has.
    """

    def __init__(self, folder: Path, cluster: str, faults: int, cases: int, seed: int) -> None:
        self.folder, self.cluster, self.faults, self.cases = folder, cluster, faults, cases
        self.made: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.problems: list[str] = []
        self._random = random.Random(f"{seed} {cluster}")
        self._mark = f"{os.getpid()}-{cluster}-{seed}"
        self._sshd: list[Sshd] = []
        self._sessions = 0
        (folder / "tmp").mkdir(parents=True)
        self._environment = {
            **os.environ,
            MARK: self._mark,
            "CASES": str(cases),
            "TMPDIR": str(folder / "tmp"),
            "XDG_STATE_HOME": str(folder / "state"),
            # The kills come from outside: no case is to blame.
            "TRAFFICLIGHT_INTERRUPTION_LIMIT": str(faults + 1),
            "TRAFFICLIGHT_CLUSTER": _LOCAL,
        }

    def run(self) -> None:
        """Make all faults, and look at what they left."""
        try:
            if self.cluster == _SSH:
                self._start_servers()
            while self.made.total() < self.faults and not self.problems:
                self._session()
            self._session()
            if self.states["last"] != 3 * self.cases:
                self.problems.append("not every case succeeded after the last fault")
            self._check()
        finally:
            for one in marked(self._mark):
                with contextlib.suppress(psutil.Error):
                    one.kill()
            for server in self._sshd:
                server.kill()

    def _start_servers(self) -> None:
        nodes = []
        for number in (1, 2, 3):
            place = self.folder / f"node-{number}"
            (place / "tmp").mkdir(parents=True)
            self._sshd.append(Sshd(place, {MARK: self._mark}))
            node = self._sshd[-1].node(f"n{number}", str(place / "tmp"))
            nodes.append(node.model_dump(mode="json", exclude_unset=True))
        path = self.folder / "nodes.json"
        path.write_text(json.dumps(nodes))
        self._environment["TRAFFICLIGHT_CLUSTER"] = str(path)

    def _session(self) -> None:
        """Run one session to its end, with faults as long as some are left."""
        self._sessions += 1
        folder = self.folder / f"session-{self._sessions}"
        folder.mkdir()
        config = {"PORT": free_port(), "TESTS": [str(HERE / "loops_test.py")]}
        (folder / "trafficlight.json").write_text(json.dumps(config))
        faultless = self.made.total() >= self.faults
        lab = self._start(folder)
        try:
            while lab.poll() is None and self.made.total() < self.faults:
                if self._fault(lab) == "lab":
                    lab = self._start(folder)
            if lab.wait(_STUCK) not in (0, 3):  # success, or errors of the lab only
                self.problems.append(f"the coordinator ended with {lab.returncode}")
        except subprocess.TimeoutExpired:
            self.problems.append(f"the session did not end within {_STUCK:g} s")
        finally:
            lab.kill()
            lab.wait()
        self._look(folder / "results", "last" if faultless else "")

    def _start(self, folder: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "trafficlight", "serve", "--exit-when-done"]
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=folder,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _fault(self, lab: "subprocess.Popen[bytes]") -> str:
        """Kill something while a service runs, and return what."""
        kind = self._random.choice(_FAULTS[self.cluster])
        deadline = time.monotonic() + _PATIENCE
        while not (services := [one for one in marked(self._mark) if _of_a_service(one)]):
            if lab.poll() is not None or time.monotonic() > deadline:
                return ""
            time.sleep(0.1)
        time.sleep(self._random.uniform(0, 0.5))
        match kind:
            case "worker":
                _kill(self._random, [one for one in marked(self._mark) if _is_worker(one)])
            case "process":
                _kill(self._random, services)
            case "connection":
                pids = self._random.choice(self._sshd).connections()
                _kill(self._random, [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)])
            case "sshd":
                server = self._random.choice(self._sshd)
                server.kill()
                time.sleep(self._random.uniform(0, 2))
                server.start()
            case _:
                lab.kill()
                lab.wait()
        self.made[kind] += 1
        return kind

    def _look(self, results: Path, note: str) -> None:
        """Look at the verdicts of a lab's sessions."""
        events = events_of(results)
        # A lab that was killed when its session had ended begins another one.
        for session in {event["session"] for event in events}:
            own = [event for event in events if event["session"] == session]
            planned = {event["case"] for event in own if event["kind"] == "case_planned"}
            ended = Counter(case for case, _ in verdicts(own))
            if len(planned) != 3 * self.cases or planned != set(ended) or set(ended.values()) - {1}:
                counts = f"{len(planned)} cases planned, {len(ended)} ended, {ended.total()} times"
                self.problems.append(f"{session}: {counts}")
        for event in events:
            if event["kind"] == "case_ended" and not event["data"].get("will_retry"):
                state, message = event["data"]["state"], event["data"].get("message", "").split("\n")[0]
                self.states[state] += 1
                if state == "success":
                    self.states["last"] += note == "last"
                    continue
                self.messages[re.sub(r"\b(n|local-)\d+\b|\d\d+", "N", message)] += 1
                if state != "error" or not _EXPLAINED.match(message):
                    self.problems.append(f"{event['case']}: {state}: {message}")

    def _check(self) -> None:
        """Look for what is left."""
        if left := still_running(self._mark, _GRACE):
            self.problems.append(f"still running: {left}")
        for place in (self.folder / "tmp", *self.folder.glob("node-*/tmp")):
            if names := os.listdir(place):
                self.problems.append(f"left in {place}: {names}")


def _of_a_service(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return "TRAFFICLIGHT_NODE" in process.environ() and "while :" in " ".join(process.cmdline())
    return False


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return "trafficlight.worker" in process.cmdline()
    return False


def _kill(chooser: random.Random, processes: list[psutil.Process]) -> None:
    if processes:
        with contextlib.suppress(psutil.Error):
            chooser.choice(processes).send_signal(signal.SIGKILL)


def main() -> None:
    """Run the sessions; exit code 1 when something was left, or lost, or badly explained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--cases", type=int, default=8, help="a third of the cases of a session (default 8)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="chooses the faults")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    failed = False
    shares = {_LOCAL: arguments.faults // 2, _SSH: arguments.faults - arguments.faults // 2}
    for cluster, faults in shares.items():
        with tempfile.TemporaryDirectory(prefix="trafficlight-faults-", ignore_cleanup_errors=True) as name:
            run = Faults(Path(name), cluster, faults, arguments.cases, arguments.seed)
            began = time.monotonic()
            run.run()
            made = ", ".join(f"{count} {kind}" for kind, count in sorted(run.made.items()))
            states = ", ".join(f"{count} {state}" for state, count in run.states.items() if state != "last")
            print(f"{cluster}: {made}; {time.monotonic() - began:.0f} s; {states}")
            for message, count in run.messages.most_common():
                print(f"  {count} times: {message}")
            print("  " + ("\n  ".join(run.problems[:20]) or "nothing was left"), flush=True)
            if run.problems:
                failed = True
                print((Path(name) / "output.log").read_text()[-5000:])
    sys.exit(failed)


if __name__ == "__main__":
    main()
