"""The answers of a Docker engine that are still coming."""

import asyncio
import weakref
from typing import Any

import aiohttp


class Answers:
    """Knows every answer of one engine from its beginning, and whom it is for."""

    def __init__(self) -> None:
        self._asker: weakref.WeakKeyDictionary[aiohttp.ClientResponse, asyncio.Task[Any] | None] = (
            weakref.WeakKeyDictionary()
        )

    def trace(self) -> aiohttp.TraceConfig:
        """Return what the engine's client tells us of them through."""
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._begun)
        trace.freeze()
        return trace

    def hang_up(self) -> None:
        """End all of them: nobody else does, where the engine is only silent."""
        for answer in tuple(self._asker):
            answer.close()

    def hang_up_ours(self) -> None:
        """End those for the task that calls this: the library leaves them open when it is called off."""
        ours = asyncio.current_task()
        for answer, asker in tuple(self._asker.items()):
            if asker is ours:
                answer.close()

    async def _begun(self, _session: Any, _context: Any, end: aiohttp.TraceRequestEndParams) -> None:
        self._asker[end.response] = asyncio.current_task()
