"""What an engine tells about its containers while they run."""

import asyncio
import json
import logging
from typing import Any

import aiohttp

from trafficlight.homeservers.docker_owner import LABEL

__all__ = ["ContainerWatch", "EngineWatch"]

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0


class ContainerWatch:
    """What became of one container since it was started last."""

    def __init__(self) -> None:
        self.reason: str | None = None
        #: When it ended, by the engine's clock, as its API takes it; where its next log begins.
        self.ended_at: str | None = None
        self._ended = asyncio.Event()
        self._out_of_memory = False

    def begin(self) -> None:
        """Forget how it ended the last time: it is about to be started."""
        self.reason = None
        self._out_of_memory = False
        self._ended.clear()

    async def ended(self) -> str:
        """Return why it ended, once it has."""
        await self._ended.wait()
        return self.reason or "ended"

    def take(self, event: dict[str, Any]) -> None:
        """Take an event of the engine in."""
        match str(event.get("Action", "")):
            case "oom":
                self._out_of_memory = True
            case "die":
                code = event["Actor"]["Attributes"].get("exitCode", "?")
                self.reason = f"exit code {code}" + (", out of memory" if self._out_of_memory else "")
                nanoseconds = int(event.get("timeNano", 0))
                self.ended_at = f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
                self._ended.set()
            case _:
                pass


class EngineWatch:
    """Follows the events of one engine, and hands each to its container.

    :param docker: the engine's client.
    :param owner: whose containers count.
    :param since: from when on, in the engine's time.
    """

    def __init__(self, docker: Any, owner: str, since: str) -> None:
        self._docker = docker
        self._filters = json.dumps({"label": [f"{LABEL}={owner}"], "type": ["container"]})
        self._since = since
        self._containers: dict[str, ContainerWatch] = {}
        self._task = asyncio.create_task(self._run())

    def add(self, container: str) -> ContainerWatch:
        """Begin to watch a container, before it is started."""
        self._containers[container] = watch = ContainerWatch()
        return watch

    def remove(self, container: str) -> None:
        """Watch a container no more."""
        self._containers.pop(container, None)

    async def close(self) -> None:
        """End it. Idempotent."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        from aiodocker.exceptions import DockerError

        while True:
            subscriber = self._docker.events.subscribe(create_task=False)
            stream = asyncio.create_task(self._docker.events.run(filters=self._filters, since=self._since))
            try:
                while (event := await subscriber.get()) is not None:
                    self._take(event)
                await stream
                logger.warning("the engine's events ended, asking again")
            except (DockerError, aiohttp.ClientError, OSError, ValueError) as error:
                logger.warning("the engine's events broke off, asking again: %s", error)
            finally:
                stream.cancel()
                await asyncio.gather(stream, return_exceptions=True)
            await asyncio.sleep(_AGAIN_SECONDS)

    def _take(self, event: dict[str, Any]) -> None:
        if "timeNano" in event:  # where to go on after a break
            nanoseconds = int(event["timeNano"]) + 1
            self._since = f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
        watch = self._containers.get(str(event.get("Actor", {}).get("ID", "")))
        if watch is not None:
            watch.take(event)
