"""Places that cannot be used: one line and exit code 2 before anything runs."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Runner

GOOD = """
from trafficlight import Test
from trafficlight.server_types import SynapseStable


class Good(Test):
    servers = {"server": SynapseStable}

    async def run(self, server) -> None:
        pass
"""


async def test_a_cache_that_cannot_be_written(run: Runner, tmp_path: Path) -> None:
    """It was a traceback and exit code 1, and `latest` showed the session before."""
    (tmp_path / "good_test.py").write_text(GOOD)
    (tmp_path / "file").touch()  # permissions do not stop root
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "latest").symlink_to("2026-01-01--001")
    cache = str(tmp_path / "file" / "cache")
    command = await run("run", ".", TRAFFICLIGHT_CACHE_FOLDER=cache, TRAFFICLIGHT_ADAPTERS="{}")
    assert await command.ended() == 2
    assert command.said[-1] == f"trafficlight: CACHE_FOLDER: {cache} cannot be written: Not a directory"
    assert not any("Traceback" in line for line in command.said)
    assert os.readlink(tmp_path / "results" / "latest") != "2026-01-01--001"
    assert not (tmp_path / "results" / "current").is_symlink()


async def test_a_results_folder_that_is_a_loop(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "good_test.py").write_text(GOOD)
    (tmp_path / "results").symlink_to("results")
    command = await run("run", ".", TRAFFICLIGHT_ADAPTERS="{}")
    assert await command.ended() == 2
    assert "results" in command.said[-1]
    assert not any("Traceback" in line for line in command.said)


@pytest.mark.parametrize("arguments", ["actions", "run .", "doctor"])
async def test_a_broken_pipe_is_quiet(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "one_test.py").write_text(
        "from trafficlight import Test\nclass One(Test):\n    async def run(self): ...\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "trafficlight", *arguments.split()]
    done = await asyncio.to_thread(
        subprocess.run, command, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
