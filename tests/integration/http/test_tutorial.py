"""The tutorial's adapters are run as they stand there, by the programs that they are written for."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration.http.conftest import HttpHarness, ended
from trafficlight.results.events import State

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "docs" / "tutorial" / "examples"
TUTORIAL = ROOT / "docs" / "tutorial" / "write-an-adapter.md"
PROGRAMS = {"adapter.py": sys.executable, "adapter.mjs": "node"}

TEST = """
    await alice.send_message("hello")
    assert [event["message"] for event in await alice.get_timeline()] == ["hello"]
"""
UNSUPPORTED = """
    await alice.logout()
"""


@pytest.mark.parametrize("file", PROGRAMS)
@pytest.mark.parametrize(("body", "state"), [(TEST, State.SUCCESS), (UNSUPPORTED, State.SKIPPED)])
async def test_examples_play_a_case(site: HttpHarness, file: str, body: str, state: State) -> None:
    program = shutil.which(PROGRAMS[file])
    if program is None:
        pytest.skip(f"{PROGRAMS[file]} is not installed")
    session = await site.start(body, client_type="my-client")
    process = await asyncio.create_subprocess_exec(
        program,
        EXAMPLES / file,
        site.url,
        env={**os.environ, "NO_PROXY": "*"},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await ended(session)
        case = next(iter(session.record.cases.values()))
        assert case.state is state, case.message
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, errors.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("file", PROGRAMS)
def test_the_tutorial_shows_the_examples(file: str) -> None:
    assert (EXAMPLES / file).read_text().strip() in TUTORIAL.read_text()


@pytest.mark.parametrize("file", PROGRAMS)
def test_the_examples_are_as_short_as_promised(file: str) -> None:
    lines = [line for line in (EXAMPLES / file).read_text().splitlines() if line.strip()]
    assert len(lines) <= 30
