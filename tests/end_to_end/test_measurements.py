"""The load test that ships, what a test measures and returns, and where that is shown."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Start

_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "measure.md"


async def test_the_manual_and_the_load_test(start: "Start", tmp_path: Path) -> None:
    text = _PAGE.read_text(encoding="utf-8")
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
    assert {item["name"] for item in load["measurements"]} == {"until seen", "request"}
    logs = list((running.session() / load["folder"]).glob("services/Sender-1/*/sender.log"))
    assert len(logs) == 3
    sent = sum(item["name"] == "request" for item in load["measurements"])
    assert sum(len(log.read_text().splitlines()) for log in logs) == sent
    steps = [(step["what"], step["outcome"]) for step in load["timeline"] if step["kind"] == "service"]
    assert steps == [("start", "ok"), ("wait", "ok"), ("stop", "ok"), ("clean", "ok")]
    shown = (running.session() / "report.html").read_text()
    assert 'aria-label="latency over time"' in shown
    assert "bob: delay /sync by 0.2 s, " in shown
    assert "/services/" in shown
