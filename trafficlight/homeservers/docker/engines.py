"""Several Docker engines as one capacity."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from trafficlight.errors import DeployError
from trafficlight.homeservers.docker.engine import DockerEngine
from trafficlight.homeservers.docker.errors import EngineSilentError
from trafficlight.homeservers.tools import Progress

logger = logging.getLogger(__name__)


class Engines:
    """Several engines.

    :param engines: the engines.
    """

    def __init__(self, engines: Sequence[DockerEngine]) -> None:
        self.all = tuple(engines)

    @property
    def capacities(self) -> dict[str, int]:
        """How many homeservers each engine that can be used carries at once, by its URL."""
        return {engine.url: engine.capacity or 1 for engine in self.all if engine.ready}

    async def connect(self) -> list[DockerEngine]:
        """Return the engines that answer.

        :raises DeployError: none does.
        """
        found = await asyncio.gather(*(engine.connect() for engine in self.all), return_exceptions=True)
        problems = [error for error in found if isinstance(error, DeployError)]
        for error in found:
            if isinstance(error, BaseException) and not isinstance(error, DeployError):
                raise error
        if len(problems) == len(self.all):
            raise DeployError("; ".join(problem.message for problem in problems))
        for problem in problems:
            logger.warning("%s", problem)
        return [engine for engine, error in zip(self.all, found, strict=True) if error is None]

    async def ensure_images(self, images: Iterable[str], progress: Progress) -> None:
        """Let every engine have images; one that is away gets them when it comes.

        :raises DeployError: no engine answers, or one that answers cannot have an image.
        """
        wanted = dict.fromkeys(images, progress)
        there = await self.connect()
        ready = [engine for engine in there if engine.ready] or there
        for engine in there:
            if engine not in ready:  # it is pulling since it came back, and goes on to these
                engine.images.wanted |= wanted
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_ensure(engine, wanted)) for engine in ready]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        silent = {
            engine: error.message
            for engine, task in zip(ready, tasks, strict=True)
            if (error := task.result()) is not None
        }
        if len(silent) == len(ready):
            raise DeployError("; ".join(silent.values()))
        for engine in self.all:
            engine.images.wanted |= wanted
        for engine, message in silent.items():
            logger.warning("%s", message)
            engine.look_for_images()

    async def at(self, url: str) -> DockerEngine:
        """Return an engine that answers.

        :param url: which; empty for the largest, where nobody plans what goes where.
        :raises DeployError: it does not answer, or there is no such one.
        """
        if not url:
            return max(await self.connect(), key=lambda engine: engine.capacity or 1)
        engine = next((engine for engine in self.all if engine.url == url), None)
        if engine is None:
            raise DeployError(f"there is no Docker engine {url} in DOCKER_ENGINES")
        await engine.connect()
        return engine

    async def close(self) -> None:
        """Let go of all of them. Idempotent."""
        await asyncio.gather(*(engine.close() for engine in self.all))


async def _ensure(engine: DockerEngine, images: dict[str, Progress]) -> EngineSilentError | None:
    """Let an engine have images, and return that it fell silent: then others do without it.

    :raises DeployError: one cannot be had.
    """
    try:
        for image, progress in images.items():
            await engine.images.ensure(engine.docker, image, progress)
    except EngineSilentError as error:
        return error
    return None
