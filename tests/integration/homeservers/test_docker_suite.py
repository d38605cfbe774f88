"""The chat suite that ships, with homeservers in Docker and behind homerunner."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

import trafficlight.tests
from tests.integration.homeservers.engine import docker_on_engine, engine_url, homerunner_on_engine

_SUITE = Path(trafficlight.tests.__file__).parent / "chat"
_TIMEOUT_SECONDS = 500

pytestmark = pytest.mark.timeout(600)


async def _run(folder: Path, provider: str, **settings: str) -> str:
    """Run the suite with all its homeservers from one provider and return the output."""
    # A variable of the scripts, not a setting of the lab.
    environment = {key: text for key, text in os.environ.items() if key != "TRAFFICLIGHT_DOCKER_FOLDER"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "trafficlight",
        "run",
        str(_SUITE),
        "--results",
        str(folder / "results"),
        cwd=folder,
        env={**environment, "TRAFFICLIGHT_SERVER_PROVIDERS": json.dumps({"*": provider}), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


def _logs(folder: Path) -> str:
    return "\n".join(log.read_text() for log in folder.rglob("*.log"))


@pytest.mark.docker
async def test_on_docker(tmp_path: Path) -> None:
    async with docker_on_engine():
        output = await _run(tmp_path, "docker", TRAFFICLIGHT_DOCKER_ENGINE=engine_url())
    assert "success" in output
    logs = await asyncio.to_thread(_logs, tmp_path)
    assert "v3/register" in logs


@pytest.mark.homerunner
async def test_on_homerunner(tmp_path: Path) -> None:
    async with homerunner_on_engine() as url:
        assert "success" in await _run(tmp_path, "homerunner", TRAFFICLIGHT_HOMERUNNER_URL=url)
