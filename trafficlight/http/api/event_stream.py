"""A session's events as they happen: first the earlier ones, then each when it is recorded, none twice.

The session's own log is the only source, so there is no seam between past and present, and a slow reader
costs no memory. The journal only says when to look; the log of a session that another process runs is polled.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from trafficlight.clock import race
from trafficlight.coordinator.lab import Lab
from trafficlight.results.events import line_head
from trafficlight.results.journal import is_written

# Bytes read at once; the last line may go beyond.
_CHUNK = 64 << 10
# Seconds without events after which an empty line keeps the stream alive.
_BEAT = 15.0
# Seconds between two polls of the log of a session that another process runs.
_LOOK = 0.5


async def event_lines(folder: Path, after: int, lab: Lab, *, follow: bool) -> AsyncIterator[bytes]:
    """Yield a session's events, one JSON object a line, until it has ended and its results are complete.

    :param folder: the session's.
    :param after: the sequence number of the last event that is known already; 0 for all.
    :param follow: whether to wait for more; otherwise it ends with the last event that there is now.
    """
    path, session, clock = folder / "events.jsonl", lab.engine.sessions.get(folder.name), lab.clock
    news, heard = asyncio.Event(), clock.monotonic()
    file = await asyncio.to_thread(path.open, "rb")
    unsubscribe = lab.journal.subscribe(lambda _: news.set(), session=folder.name)

    def read() -> tuple[bytes, bool]:
        """Return the next events' lines, and whether there is nothing more to read."""
        lines = file.readlines(_CHUNK)
        if lines and not lines[-1].endswith(b"\n"):
            file.seek(-len(lines[-1]), 1)  # its rest is still to come
            lines.pop()
        # Others, such as a killed writer's last one, are left out.
        known = (line for line in lines if (head := line_head(line)) is not None and head.sequence > after)
        return b"".join(known), not lines

    try:
        while True:
            news.clear()
            # Before reading: what is written until the session ends is read in any case.
            if session is not None:
                goes_on = not session.ended.is_set()
            else:
                goes_on = await asyncio.to_thread(is_written, path) and not lab.engine.pool.closed
            lines, dry = await asyncio.to_thread(read)
            if lines:
                yield lines
                heard = clock.monotonic()
            elif clock.monotonic() - heard >= _BEAT:
                yield b"\n"
                heard = clock.monotonic()
            if not dry:
                continue
            if not (follow and goes_on):
                break
            with contextlib.suppress(TimeoutError):
                async with clock.timeout(_LOOK if session is None else _BEAT):
                    await (news.wait() if session is None else race(news.wait(), session.ended.wait()))
    finally:
        unsubscribe()
        file.close()
