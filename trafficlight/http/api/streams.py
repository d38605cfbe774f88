"""The event streams of sessions: what is appended to a log is read once for all that follow it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

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
# Seconds for which events are collected, so that all streams get them with one read.
_TICK = 0.1
MOST = 100
"""The streams that can be open at the same time."""
_STREAMS: set[object] = set()
_READERS = ThreadPoolExecutor(2, "events")
_READING: dict[tuple[Path, int], "asyncio.Future[_Lines]"] = {}


def full() -> bool:
    """Return whether no other stream can be opened."""
    return len(_STREAMS) >= MOST


class _Lines(NamedTuple):
    """Events' lines, their sequence numbers, and the offset behind them; `dry` if there was nothing."""

    lines: list[tuple[int, bytes]]
    offset: int
    dry: bool


def _lines_at(path: Path, offset: int) -> _Lines:
    with path.open("rb") as file:
        file.seek(offset)
        lines = file.readlines(_CHUNK)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()  # its rest is still to come
    # Others, such as a killed writer's last one, are left out.
    whole = (line for line in lines if line.endswith(b"}\n"))
    known = [(head.sequence, line) for line in whole if (head := line_head(line)) is not None]
    return _Lines(known, offset + sum(map(len, lines)), not lines)


async def _read(path: Path, offset: int) -> _Lines:
    """Read a log from an offset on, once for all streams that are there."""
    key = (path, offset)
    if (reading := _READING.get(key)) is None:
        reading = asyncio.get_running_loop().run_in_executor(_READERS, _lines_at, path, offset)
        _READING[key] = reading
        reading.add_done_callback(lambda _: _READING.pop(key, None))
    return await asyncio.shield(reading)


async def event_lines(folder: Path, after: int, lab: Lab, *, follow: bool) -> AsyncGenerator[bytes, None]:
    """Yield a session's events, one JSON object a line, until it has ended and its results are complete.

    :param after: the sequence number of the last event that is known already; 0 for all.
    :param follow: whether to wait for more; otherwise it ends with the last event that there is now.
    """
    path, session, clock = folder / "events.jsonl", lab.engine.sessions.get(folder.name), lab.clock
    news, heard, offset, stream = asyncio.Event(), clock.monotonic(), 0, object()
    unsubscribe = lab.journal.subscribe(lambda _: news.set(), session=folder.name)
    _STREAMS.add(stream)
    try:
        while True:
            news.clear()
            # Before reading: what is written until the session ends is read in any case.
            if session is not None:
                goes_on = not session.ended.is_set()
            else:
                goes_on = await asyncio.to_thread(is_written, path) and not lab.engine.pool.closed
            try:
                found, offset, dry = await _read(path, offset)
            except FileNotFoundError:  # it was deleted
                break
            if lines := b"".join(line for sequence, line in found if sequence > after):
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
            if session is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK):
                        await session.ended.wait()
    finally:
        unsubscribe()
        _STREAMS.discard(stream)
