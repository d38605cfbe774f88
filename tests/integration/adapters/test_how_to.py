"""The adapter of the how-to does what the how-to says."""

import re
import sys
from pathlib import Path

from trafficlight.adapters.conformance import CheckOptions, Level, check, render

DOCS = Path(__file__).parents[3] / "docs" / "how-to"


async def test_adapter_of_the_how_to_passes_the_check(tmp_path: Path) -> None:
    text = (DOCS / "write-an-adapter-with-the-sdk.md").read_text()
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    program = tmp_path / "thermometer.py"
    program.write_text(block[1])
    options = CheckOptions(action="heat", data={"by": 2}, hold=0.4, grace=5, idle_delay=0.1, away=0.2)
    results = await check(f"{sys.executable} {program} {{url}}", options)
    assert {finding.level for finding in results.findings} == {Level.OK}, render(results)
    shown = set(re.findall(r"^  ok +(\S+)", (DOCS / "check-an-adapter.md").read_text(), re.MULTILINE))
    assert shown == {finding.check for finding in results.findings}


def test_every_check_is_in_the_how_to() -> None:
    source = Path(sys.modules[check.__module__].__file__ or "").parent
    code = "".join(path.read_text() for path in source.glob("*.py"))
    named = set(
        re.findall(r"""(?:ok|wrong|note|silent|add|next_life)\(\s*(?:adapter, )?"([a-z-]+)",?""", code)
    )
    named |= {f"true-{action}-fails".replace("_", "-") for action in re.findall(r'_false\("(\w+)"', code)}
    documented = set(re.findall(r"`([a-z-]+)`", (DOCS / "check-an-adapter.md").read_text()))
    assert named - documented == set()
    assert {"registers", "exit", "needs-supervisor", "true-verify-message-in-timeline-fails"} <= named
