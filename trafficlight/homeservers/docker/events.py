"""A Docker engine's events about its containers."""

import asyncio
import json
from typing import Any

from trafficlight.homeservers.docker.errors import engine_errors, problem
from trafficlight.homeservers.docker.owner import LABEL

_SILENCE_SECONDS = 10  # a machine that is switched off closes no connection
_ANSWER_SECONDS = 15


class ContainerWatch:
    """The exit of one container since its last start."""

    def __init__(self) -> None:
        self.reason: str | None = None
        #: When it exited, in the API's format by the engine's clock: where the log of its next start begins.
        self.ended_at: str | None = None
        self._ended = asyncio.Event()
        self._out_of_memory = False

    def begin(self) -> None:
        """Reset it before the container is started."""
        self.reason = None
        self._out_of_memory = False
        self._ended.clear()

    async def ended(self) -> str:
        """Wait for the exit and return its description."""
        await self._ended.wait()
        return self.reason or "exited"

    def mark_lost(self, why: str) -> None:
        """Treat it as exited, unless it has."""
        if self.reason is None:
            self.reason = why
            self._ended.set()

    def take(self, event: dict[str, Any]) -> None:
        """Process one event of the engine."""
        match str(event.get("Action", "")):
            case "oom":
                self._out_of_memory = True
            case "die":
                code = event.get("Actor", {}).get("Attributes", {}).get("exitCode", "?")
                self.reason = f"exit code {code}" + (", out of memory" if self._out_of_memory else "")
                self.ended_at = _api_time(int(event.get("timeNano", 0)))
                self._ended.set()
            case _:
                pass


class EngineWatch:
    """Follows the events of one engine and dispatches them to their containers.

    :param docker: the engine's client.
    :param owner: the id of the owner of the containers.
    :param since: where the events begin, in the API's format.
    """

    def __init__(self, docker: Any, owner: str, since: str) -> None:
        self._docker = docker
        self._filters = json.dumps({"label": [f"{LABEL}={owner}"], "type": ["container"]})
        self._since = since
        self._containers: dict[str, ContainerWatch] = {}

    def add(self, container: str) -> ContainerWatch:
        """Watch a container, before it is started."""
        self._containers[container] = watch = ContainerWatch()
        return watch

    def remove(self, container: str) -> None:
        """Stop watching a container."""
        self._containers.pop(container, None)

    def mark_lost(self, why: str) -> None:
        """Treat every container as exited: the engine does not answer any more."""
        for watch in self._containers.values():
            watch.mark_lost(why)

    async def follow(self) -> str:
        """Process events until the stream ends, and return why; the next call resumes from there."""
        subscriber = self._docker.events.subscribe(create_task=False)
        stream = asyncio.create_task(self._docker.events.run(filters=self._filters, since=self._since))
        try:
            while (event := await self._next(subscriber)) is not None:
                self._take(event)
            await stream
        except engine_errors() as error:
            return problem(error)
        except ValueError as error:
            return f"it sent an invalid event: {error}"
        finally:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)
        return "it ended the stream"

    async def _next(self, subscriber: Any) -> dict[str, Any] | None:
        """Return the next event; after a long silence, check that the engine answers."""
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    event: dict[str, Any] | None = await subscriber.get()
                    return event
            except TimeoutError:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._docker.version()

    def _take(self, event: dict[str, Any]) -> None:
        if "timeNano" in event:
            self._since = _api_time(int(event["timeNano"]) + 1)
        watch = self._containers.get(str(event.get("Actor", {}).get("ID", "")))
        if watch is not None:
            watch.take(event)


def _api_time(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
