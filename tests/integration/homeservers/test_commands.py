"""`trafficlight doctor` and `trafficlight homeserver`, as a person calls them."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from trafficlight.config import SYNAPSE_VERSION
from trafficlight.processes import child_environment

_TIMEOUT_SECONDS = 60


@asynccontextmanager
async def _running(
    command: str, *arguments: str, folder: Path, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command that is killed when this is left."""
    program = f"import sys; from trafficlight.cli.{command} import command; "
    program += "sys.exit(command.main(args=sys.argv[1:], standalone_mode=False))"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        cwd=folder,
        env=child_environment({"TMPDIR": str(folder), **environment}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _doctor(folder: Path, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    async with _running("doctor", "--json", folder=folder, **environment) as process:
        output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_SECONDS)
        assert process.returncode is not None
        text = output.decode()
        return process.returncode, {row["subject"]: row for row in json.loads(text[text.index("[\n") :])}


async def test_the_doctor_says_what_there_is(tmp_path: Path) -> None:
    code, rows = await _doctor(tmp_path)
    assert code == 0, rows
    assert rows["Python"]["state"] == "ok"
    assert SYNAPSE_VERSION in rows["SynapseStable"]["detail"]
    assert rows["homerunner"] == {
        "subject": "homerunner",
        "good": False,
        "detail": "not configured",
        "advice": "set HOMERUNNER_URL to use one",
        "state": "missing",
    }


async def test_the_doctor_finds_what_is_configured_and_not_there(tmp_path: Path) -> None:
    settings = {
        "SERVER_OVERRIDES": {"SynapseStable": "http://127.0.0.1:1"},
        "SERVER_PROVIDERS": {"Dendrite": "homerunner"},
        "HOMERUNNER_URL": "http://127.0.0.1:1",
        "ADAPTERS": {"web": {"command": "no-such-program --fast"}},
    }
    (tmp_path / "trafficlight.json").write_text(json.dumps(settings))
    code, rows = await _doctor(tmp_path)
    assert code == 1
    problems = {subject for subject, row in rows.items() if row["state"] == "problem"}
    assert problems == {"SynapseStable", "homerunner", "Adapter web"}
    assert "no-such-program" in rows["Adapter web"]["detail"]
    assert "SERVER_OVERRIDES.SynapseStable" in rows["SynapseStable"]["detail"]


async def test_the_doctor_shows_a_wrong_setting(tmp_path: Path) -> None:
    settings = {"SERVER_PROVIDERS": {"Dendrite": "homerunner"}}
    code, rows = await _doctor(
        tmp_path, TRAFFICLIGHT_SERVER_PROVIDERS=json.dumps(settings["SERVER_PROVIDERS"])
    )
    assert code == 1
    assert "HOMERUNNER_URL" in rows["Settings"]["detail"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_homeservers_to_poke_at_until_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ("start", "synapse", "--federate", "2")
    async with _running("homeserver", *arguments, folder=tmp_path) as process:
        assert process.stdout is not None
        lines: list[str] = []
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while not (lines and "Ctrl-C" in lines[-1]):
                lines.append((await process.stdout.readline()).decode())
        text = "".join(lines)
        urls = re.findall(r"URL +(\S+)", text)
        assert len(set(urls)) == 2
        assert len(re.findall(r"server name +localhost:\d+", text)) == 2
        async with aiohttp.ClientSession() as session:
            for url in urls:
                async with session.get(f"{url}/_matrix/client/versions") as answer:
                    assert answer.status == 200
            process.send_signal(number)
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                assert await process.wait() == 0
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"{urls[0]}/_matrix/client/versions")
