"""Services on nodes: folders of this machine, and accounts behind three SSH servers."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import junitparser
import pytest
import yaml

from tests.sshd import Sshd, start_sshd

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Running, Start

__all__ = ["start_sshd"]

_PAGES = Path(__file__).parents[2] / "docs" / "how-to"
_PAGE = _PAGES / "write-a-service.md"

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


@pytest.fixture(params=["local", "ssh"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A value of the setting CLUSTER."""
    if request.param == "local":
        return "local"
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
    (code, *_) = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "under_load_test.py").write_text(code)
    running = await start(
        "run", tmp_path / "under_load_test.py", environment={"TRAFFICLIGHT_CLUSTER": cluster}
    )
    assert await running.ended(timeout=200) == 0, running.output + running.errors
    logs = list(_attempts(running).rglob("services/Sender-1/*/sender.log"))
    assert len(logs) == 3
    assert all("sending 4 to example.org" in log.read_text() for log in logs)


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
        "test_label": "skipped" if cluster == "local" else "success",
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


async def test_the_load_test_and_what_is_shown_of_it(start: "Start", tmp_path: Path) -> None:
    text = (_PAGES / "measure.md").read_text(encoding="utf-8")
    latency, heavy = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "latency_test.py").write_text(latency)
    heavy = re.sub(r"=10, labels=.*?\)", "=1)", heavy)
    heavy = heavy.replace("[10], rate=[100], seconds=[60]", "[1], rate=[5], seconds=[1]")
    (tmp_path / "heavy_test.py").write_text(heavy)
    assert "$ trafficlight run load\n" in text
    running = await start("run", tmp_path / "latency_test.py", tmp_path / "heavy_test.py", "load")
    assert await running.ended(timeout=280) == 0, running.output + running.errors
    report = json.loads((running.session() / "report.json").read_text())
    found = {case["class"]: case["attempts"][0] for case in report["cases"]}
    assert set(found) == {"Latency", "HeavyLoad", "ChatUnderLoad"}
    assert found["Latency"]["returned"] == {"result": {"value": {"messages": 3}}, "problem": ""}
    for name, messages in (("HeavyLoad", 5), ("ChatUnderLoad", 90)):
        assert found[name]["returned"]["result"]["value"]["asked for"] == messages
    load = found["ChatUnderLoad"]
    names = {item["name"] for item in load["measurements"]}
    assert names == {"until seen", "request"}
    logs = list((running.session() / load["folder"]).glob("services/Sender-1/*/sender.log"))
    assert len(logs) == 3
    sent = sum(item["name"] == "request" for item in load["measurements"])
    assert sum(len(log.read_text().splitlines()) for log in logs) == sent
    steps = [(step["what"], step["outcome"]) for step in load["timeline"] if step["kind"] == "service"]
    assert steps == [("start", "ok"), ("wait", "ok"), ("stop", "ok"), ("clean", "ok")]
    shown = (running.session() / "report.html").read_text()
    assert 'aria-label="latency over time"' in shown
    assert "bob: delay /sync by 0.2 s, " in shown
    assert "services/" in shown


def _outcome(case: junitparser.TestCase) -> str:
    return case.result[0].__class__.__name__.lower() if case.result else "success"


def _attempts(running: "Running") -> Path:
    return running.directory / "results" / "latest" / "cases"
