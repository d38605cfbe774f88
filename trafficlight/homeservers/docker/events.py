"""What an engine tells about its containers while they run."""

import asyncio
import json
from typing import Any

from trafficlight.homeservers.docker.errors import engine_errors, problem
from trafficlight.homeservers.docker.owner import LABEL

_SILENCE_SECONDS = 10  # a machine that is switched off says nothing
_ANSWER_SECONDS = 15


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

    def lose(self, why: str) -> None:
        """Give it up, unless it has ended."""
        if self.reason is None:
            self.reason = why
            self._ended.set()

    def take(self, event: dict[str, Any]) -> None:
        """Take an event of the engine in."""
        match str(event.get("Action", "")):
            case "oom":
                self._out_of_memory = True
            case "die":
                code = event.get("Actor", {}).get("Attributes", {}).get("exitCode", "?")
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

    def add(self, container: str) -> ContainerWatch:
        """Begin to watch a container, before it is started."""
        self._containers[container] = watch = ContainerWatch()
        return watch

    def remove(self, container: str) -> None:
        """Watch a container no more."""
        self._containers.pop(container, None)

    def lose(self, why: str) -> None:
        """Give up every container that runs: its engine does not answer any more."""
        for watch in self._containers.values():
            watch.lose(why)

    async def follow(self) -> str:
        """Take events in until they break off, and return why; goes on where it was the next time."""
        subscriber = self._docker.events.subscribe(create_task=False)
        stream = asyncio.create_task(self._docker.events.run(filters=self._filters, since=self._since))
        try:
            while (event := await self._next(subscriber)) is not None:
                self._take(event)
            await stream
        except engine_errors() as error:
            return problem(error)
        except ValueError as error:
            return f"it sent something else: {error}"
        finally:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)
        return "it ended them"

    async def _next(self, subscriber: Any) -> dict[str, Any] | None:
        """Return the next event; where none comes for long, look whether there is anybody to send one."""
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    event: dict[str, Any] | None = await subscriber.get()
                    return event
            except TimeoutError:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._docker.version()

    def _take(self, event: dict[str, Any]) -> None:
        if "timeNano" in event:  # where to go on after a break
            nanoseconds = int(event["timeNano"]) + 1
            self._since = f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
        watch = self._containers.get(str(event.get("Actor", {}).get("ID", "")))
        if watch is not None:
            watch.take(event)
