"""Several Docker engines as one capacity."""

import asyncio
import logging
from collections.abc import Sequence

from trafficlight.errors import DeployError
from trafficlight.homeservers.docker_engine import DockerEngine

__all__ = ["Engines"]

logger = logging.getLogger(__name__)


class Engines:
    """Several engines.

    :param engines: the engines.
    """

    def __init__(self, engines: Sequence[DockerEngine]) -> None:
        self.all = tuple(engines)

    @property
    def capacities(self) -> dict[str, int]:
        """How many homeservers each engine that answers carries at once, by its URL."""
        return {engine.url: engine.capacity or 1 for engine in self.all if engine.up}

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
