"""Services on nodes: folders of this machine, accounts behind three SSH servers, and containers."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import junitparser
import psutil
import pytest
import yaml

from tests.integration.homeservers.engine import engine_url
from tests.machines import Machine, machines
from tests.sshd import Sshd, start_sshd
from trafficlight.homeservers.recipes import postgres
from trafficlight.server_types import SynapseStable

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Running, Start

__all__ = ["machines", "start_sshd"]

_HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"

ENDINGS = """
import asyncio, os
from trafficlight import Log, Service, Test, cluster

class Daemon(Service):
    logs = {"kept": Log("daemon.log"), "unwanted": Log("daemon.log", collect="never")}

    async def start_node(self, node):
        async with node.account.monitor_log("daemon.log") as log:
            await node.account.start("echo ready; sleep 1000 & sleep 1000", name="daemon")
            await log.until("ready")

class Endings(Test):
    @cluster(num_nodes=2)
    async def test_good(self):
        async with Daemon(self, num_nodes=2):
            pass

    @cluster(num_nodes=2)
    async def test_dies(self):
        daemon = Daemon(self, num_nodes=2)
        await daemon.start()
        account = daemon.get_node(1).account
        await account.run(f"echo last words >> daemon.log; kill -s KILL -- -{account.pid('daemon')}")
        await asyncio.sleep(1000)

    @cluster(num_nodes=1)
    async def test_ends(self):
        class Short(Daemon):
            async def start_node(self, node):
                await node.account.start("sleep 0.2", name="short")

        await Short(self).start()
        await asyncio.sleep(1000)

    @cluster(num_nodes=1)
    async def test_killed(self):
        await Daemon(self).start()
        os.kill(os.getpid(), 9)

    @cluster(num_nodes=1)
    async def test_fails(self):
        await Daemon(self).start()
        raise AssertionError("wrong")

    @cluster(num_nodes=2)
    async def test_needs_more(self):
        Daemon(self, num_nodes=3)

    @cluster(num_nodes=1, labels="ssd")
    async def test_label(self):
        async with Daemon(self, labels={"ssd"}) as daemon:
            assert daemon.get_node(0).labels == {"ssd"}

    @cluster(num_nodes=1)
    async def test_asked_for(self):
        daemon = Daemon(self)
        async with daemon:
            await daemon.get_node(0).account.signal("daemon", "KILL")
            await daemon.bounce()
"""

RUNNING = f"""{ENDINGS}
class Running(Test):
    @cluster(num_nodes=2)
    async def run(self):
        async with Daemon(self, num_nodes=2) as daemon:
            await daemon.get_node(1).account.run("setsid sleep 1000 > /dev/null 2>&1 &")
            open("runs", "w").close()
            await asyncio.sleep(1000)
"""


@pytest.fixture(params=["local", "ssh", pytest.param("docker", marks=pytest.mark.docker)])
def cluster(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A value of the setting CLUSTER."""
    if request.param == "local":
        return "local"
    if request.param == "docker":
        monkeypatch.setenv("DOCKER_HOST", engine_url())
        return f"docker:{SynapseStable.image}"
    start: Callable[[], Sshd] = request.getfixturevalue("start_sshd")
    nodes = []
    for number in (1, 2, 3):
        folder = tmp_path / f"node-{number}"
        folder.mkdir()
        node = start().node(f"n{number}", str(folder), labels=["ssd"] if number == 3 else [])
        nodes.append(node.model_dump(mode="json", exclude_unset=True))
    (tmp_path / "nodes.yml").write_text(yaml.safe_dump(nodes))
    return str(tmp_path / "nodes.yml")


async def test_the_manual(start: "Start", tmp_path: Path, cluster: str) -> None:
    (code,) = _examples("write-a-service.md")
    (tmp_path / "under_load_test.py").write_text(code)
    running = await start(
        "run", tmp_path / "under_load_test.py", environment={"TRAFFICLIGHT_CLUSTER": cluster}
    )
    assert await running.ended(timeout=200) == 0, running.output + running.errors
    logs = list(_attempts(running).rglob("services/Sender-1/*/sender.log"))
    assert len(logs) == 3
    assert all("sending 4 to example.org" in log.read_text() for log in logs)


async def test_the_manual_for_those_who_come_from_ducktape(start: "Start", tmp_path: Path) -> None:
    (code,) = _examples("come-from-ducktape.md")
    (tmp_path / "echo_test.py").write_text(code)
    running = await start("run", tmp_path / "echo_test.py")
    assert await running.ended(timeout=200) == 0, running.output + running.errors
    assert [_outcome(case) for case in running.cases().values()] == ["success", "success"]
    assert len(list(_attempts(running).rglob("services/Echo-1/*/echo.log"))) == 4


@pytest.mark.parametrize("name", ["Fetched", "CredentialsWork", "DatabaseRestarts"])
async def test_the_manual_for_several_machines(start: "Start", tmp_path: Path, name: str) -> None:
    missing = {
        "CredentialsWork": None if shutil.which("turnserver") else "coturn",
        "DatabaseRestarts": None if postgres.program("initdb") else "postgresql",
    }
    if package := missing.get(name):
        pytest.skip(f"apt-get install {package}")
    (code,) = (one for one in _examples("test-several-machines.md") if f"class {name}(" in one)
    (tmp_path / "manual_test.py").write_text(code)
    running = await start("run", tmp_path / "manual_test.py")
    assert await running.ended(timeout=200) == 0, running.output + running.errors
    assert [_outcome(case) for case in running.cases().values()] == ["success"]
    assert not running.started()


async def test_every_ending_is_clean_and_says_why(start: "Start", tmp_path: Path, cluster: str) -> None:
    (tmp_path / "endings_test.py").write_text(ENDINGS)
    running = await start("run", tmp_path / "endings_test.py", environment={"TRAFFICLIGHT_CLUSTER": cluster})
    assert await running.ended(timeout=200) == 1, running.output + running.errors
    assert {id.rpartition(".")[2]: _outcome(case) for id, case in running.cases().items()} == {
        "test_good": "success",
        "test_dies": "error",
        "test_ends": "error",
        "test_killed": "error",
        "test_fails": "failure",
        "test_needs_more": "error",
        "test_label": "success" if cluster.endswith("nodes.yml") else "skipped",
        "test_asked_for": "success",
    }
    output = "\n".join(running.output)
    assert re.search(r"Daemon-1: node \S+: daemon ended \(signal 9\)", output)
    assert re.search(r"Short-1: node \S+: short ended \(exit code 0\)", output)
    assert "last words" in output
    assert "Daemon needs 3 nodes, and 2 of the 2 that the test asked for are free" in output
    kept = {path.parents[4].parent for path in _attempts(running).rglob("services/Daemon-1/*/kept")}
    assert len(kept) == 3, kept  # of the cases that failed after they had started it
    assert not list(_attempts(running).rglob("unwanted"))
    assert not running.started()
    assert not any(os.listdir(folder) for folder in tmp_path.glob("node-*"))  # noqa: ASYNC240


@pytest.mark.parametrize(
    ("cluster", "signals", "code"),
    [("local", 1, 130), ("ssh", 2, 130), ("ssh", 0, -9)],
    indirect=["cluster"],
)
async def test_nothing_is_left_on_nodes_by_a_lab_that_is_interrupted_or_killed(
    start: "Start", tmp_path: Path, cluster: str, signals: int, code: int
) -> None:
    (tmp_path / "running_test.py").write_text(RUNNING)
    (tmp_path / "tmp").mkdir()
    environment = {
        "TRAFFICLIGHT_CLUSTER": cluster,
        "TRAFFICLIGHT_GRACE": "0.5" if signals == 1 else "200",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    running = await start("run", "running_test.py::Running", environment=environment)
    async with asyncio.timeout(100):
        while not (tmp_path / "runs").exists():
            await asyncio.sleep(0.05)
    assert len(_of_services(tmp_path)) >= 5
    for number in range(signals):
        running.interrupt()
        if number + 1 < signals:
            await running.line("a second signal")
    if not signals:
        running.kill()
    assert await running.ended(timeout=100) == code, running.output + running.errors
    async with asyncio.timeout(100):
        while not signals and (_of_services(tmp_path) or _folders(tmp_path)):
            await asyncio.sleep(0.05)
    assert not _of_services(tmp_path)
    assert not _folders(tmp_path)
    if signals:
        assert len(list(_attempts(running).rglob("services/Daemon-1/*/kept"))) == 2
        assert _outcome(running.cases()["running_test.py::Running"]) == "error"


def _of_services(folder: Path) -> list[psutil.Process]:
    """Return the processes of services whose nodes have their folders below one."""
    found = []
    for process in psutil.process_iter():
        try:
            if "TRAFFICLIGHT_NODE" in process.environ() and process.cwd().startswith(f"{folder}/"):
                found.append(process)
        except psutil.Error:  # it has just exited
            continue
    return found


def _folders(folder: Path) -> list[Path]:
    """Return the folders of cases on nodes."""
    return [*folder.glob("tmp/trafficlight-*-local-*"), *folder.glob("node-*/*")]


@pytest.mark.slow
async def test_random_faults_leave_nothing(tmp_path: Path, start_sshd: object) -> None:
    script = Path(__file__).parents[2] / "scripts-dev" / "crash" / "faults.py"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), "--faults", "10", "--cases", "4", "--seed", "5"),
        stdout=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)  # it ends what it has started
            await process.wait()
    assert process.returncode == 0, output.decode()


def _examples(page: str) -> list[str]:
    """Return the test files in a how-to."""
    return re.findall(r"```python\n(.*?)```", (_HOW_TO / page).read_text(encoding="utf-8"), re.DOTALL)


def _outcome(case: junitparser.TestCase) -> str:
    return case.result[0].__class__.__name__.lower() if case.result else "success"


def _attempts(running: "Running") -> Path:
    return running.directory / "results" / "latest" / "cases"


BROKEN = """
import os
from trafficlight import Service, Test, cluster
from trafficlight.services import clock_offset, partition

class Sleeper(Service):
    async def start_node(self, node):
        await node.account.start("sleep 1000; true", name="sleeper")

@cluster(num_nodes=2)
class Broken(Test):
    async def setup(self):
        self.a, self.b = Sleeper(self), Sleeper(self)

    async def test_killed(self):
        async with partition(self.a, self.b), clock_offset(self.a, 3600):
            await self.a.start()
            os.kill(os.getpid(), 9)

    async def test_left(self):
        await partition(self.b, self.a).__aenter__()
        raise AssertionError("wrong")
"""


async def test_the_manual_on_faults(start: "Start", tmp_path: Path, machines: list[Machine]) -> None:
    (code,) = _examples("break-a-service.md")
    (tmp_path / "faults_test.py").write_text(code)
    environment = {"TRAFFICLIGHT_CLUSTER": _listed(machines, tmp_path)}
    running = await start("run", tmp_path / "faults_test.py", environment=environment)
    assert await running.ended(timeout=200) == 0, running.output + running.errors
    lacking = set() if shutil.which("faketime") else {"test_clock"}
    outcomes = {id.rpartition(".")[2]: _outcome(case) for id, case in running.cases().items()}
    assert {name for name, outcome in outcomes.items() if outcome != "success"} == lacking
    assert len(outcomes) == 4


async def test_faults_are_healed_in_every_ending(
    start: "Start", tmp_path: Path, machines: list[Machine]
) -> None:
    if shutil.which("faketime") is None:
        pytest.skip("there is no faketime: apt-get install faketime")
    (tmp_path / "broken_test.py").write_text(BROKEN)
    shared = set(Path("/dev/shm").glob("*faketime*"))  # noqa: ASYNC240 - in memory
    environment = {"TRAFFICLIGHT_CLUSTER": _listed(machines, tmp_path)}
    running = await start("run", tmp_path / "broken_test.py", environment=environment)
    assert await running.ended(timeout=200) == 1, running.output + running.errors
    assert {id.rpartition(".")[2]: _outcome(case) for id, case in running.cases().items()} == {
        "test_killed": "error",
        "test_left": "failure",
    }
    for machine in machines:
        assert "TRAFFICLIGHT" not in machine.run("iptables", "-S") + machine.run("ip6tables", "-S")
    assert set(Path("/dev/shm").glob("*faketime*")) <= shared  # noqa: ASYNC240 - in memory
    assert not any(os.listdir(folder) for folder in tmp_path.glob("node-*"))  # noqa: ASYNC240
    lines = (running.session() / "events.jsonl").read_text().splitlines()
    faults = [event for event in map(json.loads, lines) if event["kind"] == "network_changed"]
    assert [event["data"] for event in faults if event["case"].endswith("test_left")] == [
        {"rule": "partition Sleeper-2 from Sleeper-1", "active": active} for active in (True, False)
    ]


def _listed(machines: list[Machine], folder: Path) -> str:
    """Write a list of nodes; return its path."""
    nodes = []
    for number, machine in enumerate(machines, 1):
        (scratch := folder / f"node-{number}").mkdir()
        node = machine.sshd.node(f"n{number}", str(scratch))
        nodes.append(node.model_dump(mode="json", exclude_unset=True))
    (folder / "nodes.yml").write_text(yaml.safe_dump(nodes))
    return str(folder / "nodes.yml")
