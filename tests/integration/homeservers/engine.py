"""The Docker engine and the homerunner that tests use, where the machine has them."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from trafficlight.config import DockerHost
from trafficlight.errors import DeployError
from trafficlight.homeservers.docker.api import LABEL
from trafficlight.homeservers.docker.provider import DockerProvider
from trafficlight.homeservers.homerunner.provider import HomerunnerProvider
from trafficlight.server_types import SynapseStable

__all__ = ["docker_on", "docker_on_engine", "engine_url", "homerunner_on_engine"]

_ENGINE = "scripts-dev/docker/engine.sh start; scripts-dev/docker/images.sh"
_UP_SECONDS = 20


def _folder() -> Path:
    """Return the folder of scripts-dev/docker."""
    named = os.environ.get("TRAFFICLIGHT_DOCKER_FOLDER")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "trafficlight-docker"


def engine_url() -> str:
    """Return the engine to test with: ``DOCKER_HOST``, this machine's, or that of engine.sh."""
    named = os.environ.get("DOCKER_HOST")
    if named:
        return named
    found = next(
        (path for path in (Path("/var/run/docker.sock"), _folder() / "docker.sock") if path.is_socket()), None
    )
    if found is None:
        pytest.skip(f"there is no Docker engine: {_ENGINE}")
    return f"unix://{found}"


@asynccontextmanager
async def docker_on_engine() -> AsyncIterator[DockerProvider]:
    """Give the provider docker on a real engine; skips where there is none."""
    async with docker_on(DockerHost(url=engine_url())) as provider:
        yield provider


@asynccontextmanager
async def docker_on(host: DockerHost) -> AsyncIterator[DockerProvider]:
    """Give the provider docker on one engine, and see that it leaves nothing there; skips without one."""
    pytest.importorskip("aiodocker", reason="the extra docker is not installed")
    provider = DockerProvider(host)
    try:
        await provider.prepare(SynapseStable().homeservers())
    except DeployError as error:
        await provider.close()
        pytest.skip(f"{error.message}: {_ENGINE}")
    yield provider
    engine = provider.engine
    assert not engine.wanted
    mine = f'{{"label": ["{LABEL}={engine.owner.id}"]}}'
    assert await engine.docker.containers.list(all=1, filters=mine) == []
    assert await engine.docker.networks.list(filters={"label": [f"{LABEL}={engine.owner.id}"]}) == []
    await provider.close()


@asynccontextmanager
async def homerunner_on_engine() -> AsyncIterator[str]:
    """Give the URL of a real homerunner; skips where there is none."""
    program = shutil.which("homerunner") or shutil.which("homerunner", path=_folder() / "bin")
    if program is None:
        pytest.skip("homerunner is not built: scripts-dev/docker/homerunner.sh")
    async with docker_on_engine():
        pass  # the image is there
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = os.environ | {
        "DOCKER_HOST": engine_url(),
        "HOMERUNNER_PORT": str(port),
        "HOMERUNNER_SPAWN_HS_TIMEOUT_SECS": "60",
    }
    process = await asyncio.create_subprocess_exec(
        program, env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    provider = HomerunnerProvider([url])
    try:
        async with asyncio.timeout(_UP_SECONDS):
            while (await provider.health())[url] is not None:
                await asyncio.sleep(0.1)
        yield url
    finally:
        await provider.close()
        process.terminate()
        await process.wait()
