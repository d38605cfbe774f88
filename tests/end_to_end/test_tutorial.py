"""The first tutorial, done as it is written."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Start

_PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "first-session.md"

pytestmark = pytest.mark.timeout(300)


async def test_the_first_session_goes_as_told(start: "Start", tmp_path: Path) -> None:
    test, wait = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "my_tests" / "greeting_test.py"
    file.parent.mkdir()
    file.write_text(test, encoding="utf-8")

    collecting = await start("collect", "my_tests")
    assert await collecting.ended() == 0
    told = [line.rstrip() for line in collecting.output]
    assert "\n".join(told) in _PAGE.read_text(encoding="utf-8")

    assert test.count("        last = ") == 1
    test = test.replace("        last = ", f"{wait}        last = ")
    file.write_text(test, encoding="utf-8")
    running = await start("run", "my_tests")
    assert await running.ended() == 0, running.output + running.errors

    assert test.count('== "Good morning"') == 1
    file.write_text(test.replace('== "Good morning"', '== "Good evening"'), encoding="utf-8")
    running = await start("run", "my_tests")
    assert await running.ended() == 1, running.output + running.errors
    assert "      bob reads 'Good morning'" in running.output
    log = next(running.session().glob("cases/greeting_test/Greeting/*/attempt-1/log.info"))
    assert "bob: verify_message_in_timeline" in log.read_text(encoding="utf-8")
