"""Child processes: output, errors and exit."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from trafficlight.errors import DeployError
from trafficlight.processes import (
    child_environment,
    describe_exit,
    run_to_completion,
    run_tool,
    start_process,
)

_PYTHON = [sys.executable, "-c"]


async def test_lines_are_reported_as_they_are_written() -> None:
    seen: list[str] = []
    lines = await run_tool("work", [*_PYTHON, "print('one'); print('two')"], on_line=seen.append)
    assert lines == seen == ["one", "two"]


async def test_a_failing_tool_shows_its_last_lines() -> None:
    script = "import sys\nfor n in range(50): print('line', n, flush=True)\nsys.exit('no space left')"
    with pytest.raises(DeployError, match="work: exit code 1") as failure:
        await run_tool("work", [*_PYTHON, script])
    assert failure.value.log.splitlines()[-1] == "no space left"
    assert len(failure.value.log.splitlines()) == 20


async def test_a_tool_that_does_not_exist_is_named() -> None:
    with pytest.raises(DeployError, match="work: exit code"):
        await run_tool("work", ["no-such-tool"])


async def test_cancelling_kills_the_tool_and_what_it_started() -> None:
    started, others = asyncio.Event(), _descendants()
    waits = "import signal; print(1, flush=True); signal.pause()"
    script = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', '{waits}'])"
    task = asyncio.create_task(run_tool("work", [*_PYTHON, script], on_line=lambda _: started.set()))
    await started.wait()
    children = _descendants() - others
    assert children
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=60)
    assert not alive


async def test_a_program_logs_to_its_file_and_reports_its_exit(tmp_path: Path) -> None:
    script = "import sys; print('out', flush=True); sys.stderr.write('err'); sys.exit(3)"
    process = await start_process(
        [*_PYTHON, script], environment=child_environment(), directory=tmp_path, log=tmp_path / "log"
    )
    assert await process.wait() == "exit code 3"
    assert process.exited == "exit code 3"
    assert (tmp_path / "log").read_text() == "out\nerr"
    process.signal(signal.SIGKILL)  # no effect after the exit


def test_an_exit_is_described() -> None:
    assert describe_exit(0) == "exit code 0"
    assert describe_exit(-9) == "signal 9"


def test_children_inherit_no_proxy_and_no_python_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert "PYTHONDONTWRITEBYTECODE" not in child_environment()
    assert "HTTPS_PROXY" not in child_environment()
    assert child_environment(proxies=True)["HTTPS_PROXY"] == "http://127.0.0.1:1"
    assert child_environment({"NEW": "1"})["NEW"] == "1"
    assert child_environment()["PATH"] == os.environ["PATH"]


async def test_work_is_completed_before_the_cancellation_is_raised() -> None:
    release, finished = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await release.wait()
        finished.set()

    task = asyncio.create_task(run_to_completion(work()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished.is_set()


async def test_a_result_and_an_exception_are_passed_on() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise ValueError("no")

    assert await run_to_completion(answer()) == 42
    with pytest.raises(ValueError, match="no"):
        await run_to_completion(fail())


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def test_the_import_that_recipes_used_before_still_works() -> None:
    from trafficlight.homeservers import tools

    assert tools.run_tool is run_tool
