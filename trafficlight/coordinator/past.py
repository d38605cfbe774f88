"""Sessions that are not in memory, read when somebody asks: one at a time, away from the loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from trafficlight.results.case import CaseRecord
from trafficlight.results.catalog import Archive
from trafficlight.results.record import SessionRecord

T = TypeVar("T")


class Past:
    """The archive, for the loop.

    However many sessions are asked for at once, one is read at a time, and the next one only when whoever
    asked for it has made something of it: so nobody can fill the memory by asking for all of them.

    :param root: the folder of all sessions' results.
    """

    def __init__(self, root: Path) -> None:
        self.archive = Archive(root)
        self._turn = asyncio.Lock()
        # One thread, so that requests that are given up cannot leave several readers behind.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="past")

    @asynccontextmanager
    async def record(self, session: str) -> AsyncIterator[SessionRecord]:
        """Give a session in short, until this is left.

        :raises OSError: its log cannot be read.
        """
        kept = await asyncio.to_thread(self.archive.kept, session)
        if kept is not None:
            yield kept
            return
        async with self._turn:
            yield await self._read(lambda: self.archive.record(session))

    async def case(self, session: str, case: str) -> CaseRecord | None:
        """Return one case of a session in full; None where there is no such case.

        :raises OSError: the session's log cannot be read.
        """
        return await self._read(lambda: self.archive.case(session, case))

    async def _read(self, read: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, read)

    def close(self) -> None:
        """Read nothing any more."""
        self._reader.shutdown(wait=False, cancel_futures=True)
