"""What services cost on nodes over SSH, beside ducktape 0.17, in the same run and on the same server.

ducktape is installed in an environment of its own, below the user's cache.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import platformdirs
from tables import show

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.sshd import Sshd
from trafficlight.services.account import Account
from trafficlight.services.connections import NodeAddress, connect
from trafficlight.services.node import Guard, LogEntry, collect

_OTHER = "0.17.0"
_FILES = 500

# Runs in the other library's environment: connects, then prints seconds as JSON.
_THEIRS = """
import json, logging, sys, tempfile, time
from ducktape.cluster.remoteaccount import RemoteAccount, RemoteAccountSSHConfig

login = json.loads(sys.argv[1])
calls, folder = int(sys.argv[2]), sys.argv[3]
account = RemoteAccount(RemoteAccountSSHConfig(**login), logger=logging.getLogger("other"))
account.ssh("true")

def seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

no_op = sorted(seconds(lambda: account.ssh("true")) for _ in range(calls))[calls // 2]
with tempfile.TemporaryDirectory() as target:
    copied = seconds(lambda: account.copy_from(folder, target))
print(json.dumps({"no-op": no_op, "collect": copied}))
"""

_TESTS = """
import asyncio
from trafficlight import Test, matrix

class Seconds(Test):
    @matrix(number=range(64))
    async def run(self, number):
        await asyncio.sleep(1)
"""


def _other_python() -> Path:
    folder = platformdirs.user_cache_path("trafficlight") / "bench" / f"ducktape-{_OTHER}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"ducktape=={_OTHER}"], check=True)
    return python


async def _seconds(call: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def _ours(node: NodeAddress, calls: int, files: str, folder: Path) -> dict[str, float]:
    account = Account(node, str(folder / "case"), "bench")
    await account.run("true")
    no_op = median([await _seconds(lambda: account.run("true")) for _ in range(calls)])
    entry = LogEntry(service="S-1", name="files", path=files, collect="always")
    copied = await _seconds(lambda: collect(account, [entry], folder / "collected", failed=False))
    await account.close()
    return {"no-op": no_op, "collect": copied}


async def _start_and_stop(nodes: list[NodeAddress], ready: float = 0.0) -> tuple[float, float]:
    """Start and stop a process on nodes that are connected.

    :param ready: seconds until it says that it is ready; 0 if it is not waited for.
    :return: seconds, and seconds of CPU time of this process for each node.
    """
    accounts = [Account(one, f"{one.folder}/case", "bench") for one in nodes]
    await asyncio.gather(*(one.run("true") for one in accounts))

    async def start(one: Account) -> None:
        if not ready:
            await one.start("exec sleep 1000", name="sleeper")
            return
        async with one.monitor_log("sleeper.log") as log:
            await one.start(f"sleep {ready}; echo ready; exec sleep 1000", name="sleeper")
            await log.until("ready")

    async def turn() -> None:
        await asyncio.gather(*map(start, accounts))
        await asyncio.gather(*(one.stop("sleeper") for one in accounts))

    used = time.process_time()
    took = median([await _seconds(turn) for _ in range(5)])
    used = (time.process_time() - used) / 5 / len(nodes)
    await asyncio.gather(*(one.close() for one in accounts))
    return took, used


async def _cases(folder: Path, at_once: int) -> float:
    """Run 64 tests of one second and return how long they took, from the first to the last."""
    (folder / "seconds_test.py").write_text(_TESTS)
    command = [sys.executable, "-m", "trafficlight", "run", "seconds_test.py", "-n", str(at_once)]
    process = await asyncio.create_subprocess_exec(
        *command, "--workers", str(at_once), cwd=folder, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    times = []
    for line in (folder / "results/latest/events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event.get("case") and event["data"].get("state") in ("running", "success"):
            times.append(event["time"])
    first, last = min(times), max(times)
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


async def main(calls: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sshd").mkdir()
        (folder / "files").mkdir()
        for number in range(_FILES):
            (folder / "files" / f"{number}.log").write_bytes(b"x" * 1000)
        sshd = Sshd(folder / "sshd")
        try:
            listed = sshd.node("n1", str(folder))
            login = {"host": "n1", "hostname": "127.0.0.1", "port": listed.port, "user": listed.user}
            login["identityfile"] = str(listed.key)
            python = await asyncio.to_thread(_other_python)
            script = [str(python), "-c", _THEIRS, json.dumps(login), str(calls), str(folder / "files")]
            theirs = json.loads(
                (await asyncio.to_thread(lambda: subprocess.check_output(script))).splitlines()[-1]
            )
            ours = await _ours(listed.node(), calls, str(folder / "files"), folder)
            nodes = []
            for number in range(10):
                (folder / f"node-{number}").mkdir()
                nodes.append(sshd.node(f"n{number}", str(folder / f"node-{number}")).node())
            started = []
            for ready in (0.0, 0.5):
                one, _ = await _start_and_stop(nodes[:1], ready)
                ten, used = await _start_and_stop(nodes, ready)
                kind = f"ready after {ready:g} s" if ready else "not waited for"
                started.append([f"start and stop on 1 node, {kind}", f"{one:.3f}", "1", ""])
                row = [f"start and stop on 10 nodes, {kind}", f"{ten:.3f}", f"{ten / one:.2f}"]
                started.append([*row, f"{used * 1000:.1f} ms"])
            together = await _cases(folder, 64)
            for node in nodes:
                connection = connect(node)
                assert await Guard(node, "bench", connection).end() == ""
                await connection.close()
        finally:
            sshd.kill()
    rows = [
        ("a remote no-op, connected", ours["no-op"], theirs["no-op"]),
        (f"{_FILES} files of 1 kB collected", ours["collect"], theirs["collect"]),
    ]
    show(
        "On one server",
        ["", "ours", f"ducktape {_OTHER}", "ratio"],
        [[what, f"{a * 1000:.1f} ms", f"{b * 1000:.1f} ms", f"{a / b:.3f}"] for what, a, b in rows],
    )
    show(
        "Many at once",
        ["", "seconds", "ratio", "our CPU time a node"],
        [*started, ["64 tests of one second at once", f"{together:.2f}", f"{together:.2f}", ""]],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=50, help="no-ops of each")
    asyncio.run(main(parser.parse_args().calls))
