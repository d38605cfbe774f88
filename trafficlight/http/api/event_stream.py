"""A session's events as they happen: first those of the past, then each when it comes, none twice.

The session's own log is the only source, and the journal only says when to look: so there is no seam between
past and present, and a slow reader costs no memory. A session that another process runs is in that one's
journal: its log is looked at every now and then.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from trafficlight.clock import Clock
from trafficlight.results.event_log import is_written
from trafficlight.results.events import Event, SessionEnded, line_head
from trafficlight.results.journal import Journal

# Bytes read at once; the last line may go beyond.
_CHUNK = 64 << 10
# Seconds without news after which an empty line shows that the stream is alive.
_BEAT = 15.0
# Seconds between two looks at the log of a session that another process runs.
_LOOK = 0.5


class _Tail:
    """Reads whole lines of a file that grows.

    :param after: the sequence number of the last event that is known already.
    """

    def __init__(self, file: BinaryIO, after: int) -> None:
        self._file = file
        self._after = after
        #: Whether the event that ends a session has been read.
        self.ended = False
        #: Whether there was nothing more to read.
        self.dry = False

    def read(self) -> bytes:
        """Return the next events' lines; others, such as a killed writer's last one, are left out."""
        lines = self._file.readlines(_CHUNK)
        if lines and not lines[-1].endswith(b"\n"):
            self._file.seek(-len(lines[-1]), 1)  # its rest is still to come
            lines.pop()
        self.dry = not lines
        return b"".join(line for line in lines if self._is_news(line))

    def _is_news(self, line: bytes) -> bool:
        head = line_head(line)
        if head is None:
            return False
        self.ended = self.ended or head.kind == SessionEnded.kind
        return head.sequence > self._after


async def event_lines(
    path: Path, session: str, after: int, journal: Journal, over: asyncio.Event | None
) -> AsyncIterator[bytes]:
    """Give a session's events, one JSON object a line, until it has ended and its results are complete.

    :param path: the session's log.
    :param after: the sequence number of the last event that is known already; 0 for all.
    :param journal: what says that there is news.
    :param over: set when the session is over; None to end with the last event that there is now.
    """
    news = asyncio.Event()

    def heard(_: Event) -> None:
        news.set()

    file = await asyncio.to_thread(path.open, "rb")
    unsubscribe = journal.subscribe(heard, session=session)
    try:
        tail = _Tail(file, after)
        while True:
            news.clear()
            live = over is not None and not over.is_set()
            if lines := await asyncio.to_thread(tail.read):
                yield lines
            if not tail.dry:
                continue
            if tail.ended or not live:
                break
            try:
                async with asyncio.timeout(_BEAT):
                    await news.wait()
            except TimeoutError:
                yield b"\n"
        if over is not None:
            await over.wait()
    finally:
        unsubscribe()
        file.close()


async def lines_of_another(
    path: Path, after: int, clock: Clock, leaving: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Give the events of a session that this process does not run, as long as another one has its log open.

    Where none has, the session is over or was cut off: those that there are.

    :param path: the session's log.
    :param after: the sequence number of the last event that is known already; 0 for all.
    :param leaving: says whether this process ends, and the stream with it.
    """
    file = await asyncio.to_thread(path.open, "rb")
    try:
        tail, heard = _Tail(file, after), clock.monotonic()
        while True:
            # Asked before reading: what was written until the log was closed is read in any case.
            written = await asyncio.to_thread(is_written, path)
            if lines := await asyncio.to_thread(tail.read):
                yield lines
                heard = clock.monotonic()
            elif clock.monotonic() - heard >= _BEAT:
                yield b"\n"
                heard = clock.monotonic()
            if not tail.dry:
                continue
            if not written or leaving():
                break
            await clock.sleep(_LOOK)
    finally:
        file.close()
