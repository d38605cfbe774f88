"""The README's example and the first tutorial, as they are printed."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Start

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "tutorial" / "first-session.md"


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
    (shown,) = re.findall(r"^\$ cat results/latest/(\S+)$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    (log,) = running.session().glob(shown)
    assert "bob: verify_message_in_timeline" in log.read_text(encoding="utf-8")


async def test_the_example_of_the_readme_runs(start: "Start", tmp_path: Path) -> None:
    (test,) = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "hello_test.py").write_text(test, encoding="utf-8")
    running = await start("run", "hello_test.py")
    assert await running.ended() == 0, running.output + running.errors
    assert any(line.startswith("1 success") for line in running.output)
