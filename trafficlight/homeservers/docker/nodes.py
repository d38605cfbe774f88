"""Containers of an image as the nodes of a cluster."""

import asyncio
import importlib.util
import logging
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

from trafficlight.config import DockerHost
from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.docker.api import certificate_folder, engine_errors, problem
from trafficlight.homeservers.docker.engine import CREATE_SECONDS, DockerEngine
from trafficlight.processes import run_to_completion
from trafficlight.services.clusters import Cluster
from trafficlight.services.connections import NodeAddress
from trafficlight.version import install_command

logger = logging.getLogger(__name__)

_REMOVE_SECONDS = 30


@asynccontextmanager
async def container_nodes(host: DockerHost | None, image: str) -> AsyncIterator[Cluster]:
    """Give a cluster that makes containers of an image, on an engine that its first node connects to.

    :param host: the engine; by default the one that the docker command would use.
    :raises ConfigError: the engine's URL is invalid, or a program or library is missing.
    """
    if importlib.util.find_spec("aiodocker") is None:
        raise ConfigError(f"docker:IMAGE needs aiodocker: {install_command('docker')}", key="CLUSTER")
    if await asyncio.to_thread(shutil.which, "docker") is None:
        raise ConfigError("docker:IMAGE needs the docker program: apt-get install docker.io", key="CLUSTER")
    engine = DockerEngine(host)
    prefix = _docker(engine.url, host)
    try:
        yield Cluster(make=lambda number: _container(engine, prefix, image, number))
    finally:
        await engine.close()


def _docker(url: str, host: DockerHost | None) -> tuple[str, ...]:
    """Return the docker command for an engine, with the certificates that the homeservers' provider uses."""
    # Its own settings may be meant for another engine.
    command = ["env", "-u", "DOCKER_TLS_VERIFY", "-u", "DOCKER_CERT_PATH", "docker"]
    command += ["-H", re.sub(r"^https?://", "tcp://", url)]
    if (folder := certificate_folder(host or DockerHost(url=url))) is not None:
        files = {"cacert": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
        command += ["--tlsverify", *(f"--tls{option}={folder / file}" for option, file in files.items())]
    return tuple(command)


@asynccontextmanager
async def _container(
    engine: DockerEngine, docker: tuple[str, ...], image: str, number: int
) -> AsyncIterator[NodeAddress]:
    """Make a container that is a node; what a killed lab leaves is removed as its homeservers are."""
    await engine.connect()
    await engine.ensure_image(image, logger.info)
    configuration = {
        "Image": image,
        "Entrypoint": ["sleep", "infinity"],
        "Cmd": [],
        "Labels": engine.owner.labels("", f"docker-{number}"),
        # It may be given latency, loss and partitions.
        "HostConfig": {"Init": True, "CapAdd": ["NET_ADMIN"]},
    }
    made: list[Any] = []

    async def create() -> None:
        async with asyncio.timeout(CREATE_SECONDS):  # one that is created later is reclaimed
            name = f"trafficlight-node-{token_hex(4)}-{number}"
            made.append(await engine.docker.containers.create(configuration, name=name))
        engine.wanted.add(made[0].id)

    try:
        try:
            await run_to_completion(create())
            await made[0].start()
            networks = (await made[0].show())["NetworkSettings"]["Networks"].values()
        except engine_errors() as error:
            raise DeployError(f"node docker-{number}: {engine.url}: {problem(error)}") from error
        address = next(filter(None, (one["IPAddress"] for one in networks)), None)
        if address is None:
            raise DeployError(f"node docker-{number}: the container has no address")
        prefix = (*docker, "exec", "-i", made[0].id)
        yield NodeAddress(name=f"docker-{number}", host=address, prefix=prefix)
    finally:
        for container in made:
            await run_to_completion(_remove(engine, container))


async def _remove(engine: DockerEngine, container: Any) -> None:
    engine.wanted.discard(container.id)  # if it is not removed now, it is reclaimed after a reconnect
    if not engine.up:
        return
    try:
        async with asyncio.timeout(_REMOVE_SECONDS):
            await container.delete(force=True, v=True)
    except engine_errors() as error:
        logger.warning("%s: cannot remove a node: %s", engine.url, problem(error))
