"""Test files that misbehave when they are imported: commands report them, and exit on a signal."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.integration.cli.conftest import Command, Runner
from tests.integration.http.conftest import HttpHarness, open_site

GOOD = (
    "from trafficlight import Test\n\n\nclass Good(Test):\n    async def run(self) -> None:\n        pass\n"
)


def written(folder: Path, text: str, name: str = "bad_test.py") -> Path:
    path = folder / name
    path.write_text(f"import os, socket, time\n{text}\n{GOOD}")
    return path


@asynccontextmanager
async def hanging(folder: Path) -> AsyncIterator[asyncio.Event]:
    """Write a test file whose import hangs; give what is set when it does."""
    reached = asyncio.Event()

    async def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    async with await asyncio.start_server(met, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        written(folder, f"socket.create_connection(('127.0.0.1', {port})); time.sleep(600)")
        yield reached


async def ended(command: Command) -> int:
    """Wait for a command's end, after which none of its processes is left."""
    processes = psutil.Process(command.process.pid).children(recursive=True)
    code = await command.ended()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    return code


@pytest.mark.parametrize("workers", ["", "1"])
async def test_collect_tells_of_a_file_that_exits(run: Runner, tmp_path: Path, workers: str) -> None:
    written(tmp_path, "os._exit(0)")
    (tmp_path / "good_test.py").write_text(GOOD)
    command = await run("collect", "--json", ".", TRAFFICLIGHT_WORKERS=workers)
    assert await command.ended() == 3
    text = "\n".join(command.said)
    start = text.index("{\n")
    found, _ = json.JSONDecoder().raw_decode(text[start:])
    assert [case["id"] for case in found["cases"]] == ["good_test.py::Good"]
    assert [problem["problem"] for problem in found["problems"]] == [
        "importing it ended its process: exit code 0"
    ]
    assert command.said[-1].startswith("error: bad_test.py: importing it ended its process: exit code 0")


async def test_collect_shows_what_files_print(run: Runner, tmp_path: Path) -> None:
    written(tmp_path, "print('hello there')")
    command = await run("collect", ".")
    assert await command.ended() == 0
    assert "hello there" in command.said


async def test_run_goes_on_with_the_others(run: Runner, tmp_path: Path) -> None:
    written(tmp_path, "os._exit(0)")
    (tmp_path / "good_test.py").write_text(GOOD)
    (tmp_path / "forks_test.py").write_text(f"import os\n\nos.fork()\n{GOOD}")
    command = await run("run", ".", TRAFFICLIGHT_ADAPTERS="{}")
    assert await ended(command) == 3
    assert command.said[-1].startswith("2 success · 0 failure · 0 error · 1 problem")
    junit = await asyncio.to_thread((tmp_path / "results" / "latest" / "junit.xml").read_text)
    assert "importing it ended its process: exit code 0" in junit


@pytest.mark.parametrize("name", ["collect", "run", "serve"])
async def test_ctrl_c_while_a_file_hangs(run: Runner, tmp_path: Path, name: str) -> None:
    async with hanging(tmp_path) as reached:
        port = ("--port", "0") if name == "serve" else ()
        command = await run(name, ".", *port, TRAFFICLIGHT_ADAPTERS="{}")
        async with asyncio.timeout(60):
            await reached.wait()
        processes = psutil.Process(command.process.pid).children(recursive=True)
        assert processes
        command.process.send_signal(signal.SIGINT)
        assert await command.ended() == 130, command.said
        assert "Traceback" not in "\n".join(command.said)
        _, alive = psutil.wait_procs(processes, timeout=60)
        assert not alive


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_site(tmp_path, workers=1) as opened:
        yield opened


async def test_submit_tells_what_is_wrong(site: HttpHarness, run: Runner, tmp_path: Path) -> None:
    written(tmp_path, "os._exit(0)")
    command = await run("submit", "bad_test.py", "--url", site.url)
    assert await command.ended() == 0
    assert "problem: bad_test.py: importing it ended its process: exit code 0" in command.said[-1]


async def test_assertions_hold_where_python_is_to_remove_them(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "one_test.py").write_text(f"{GOOD}        assert 1 == 2\n")
    command = await run("run", "one_test.py", PYTHONOPTIMIZE="1", TRAFFICLIGHT_ADAPTERS="{}")
    assert await command.ended() == 1
    command = await run("run", "-s", "one_test.py", PYTHONOPTIMIZE="1", TRAFFICLIGHT_ADAPTERS="{}")
    assert await command.ended() == 2
    assert [line for line in command.said if "PYTHONOPTIMIZE" in line] == command.said


LEAVES = """\
import asyncio, sys
from trafficlight import Test


class Leaves(Test):
    async def test_by_a_task(self):
        async def leave():
            sys.exit(0)

        task = asyncio.create_task(leave())
        await asyncio.wait([task])

    async def test_by_a_callback(self):
        asyncio.get_running_loop().call_soon(sys.exit, 0)
        await asyncio.sleep(0.01)

    async def test_fine(self):
        pass

    async def test_z_wrong(self):
        assert False
"""


async def test_a_task_that_exits_is_an_error_of_its_case_without_workers(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "leaves_test.py").write_text(LEAVES)
    command = await run("run", "-s", "leaves_test.py", TRAFFICLIGHT_ADAPTERS="{}")
    assert await command.ended() == 1
    assert any("1 success · 1 failure · 2 error" in line for line in command.said)


async def test_a_task_that_exits_after_its_case_does_not_make_the_session_a_success(
    run: Runner, tmp_path: Path
) -> None:
    late = LEAVES.replace("await asyncio.wait([task])", "LEFT.append(task)").replace(
        "            sys", "            await asyncio.sleep(0)\n            sys"
    )
    (tmp_path / "leaves_test.py").write_text(late.replace("import sys", "import sys\nLEFT = []"))
    command = await run("run", "-s", "leaves_test.py::Leaves.test_by_a_task", TRAFFICLIGHT_ADAPTERS="{}")
    assert await command.ended() == 3
