"""What commands on a node read and print, and the logs that they write."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from trafficlight.errors import LabError
from trafficlight.processes import describe_exit, run_to_completion
from trafficlight.services.connections import Command

LIMIT, CHUNK = 16 << 20, 64 << 10
"""Bytes of a stream that are kept at most, and that are read at once."""
LINES = 10
"""Lines of a stream or log that an error quotes."""
_WIDTH = 300  # characters


class CommandError(LabError):
    """A command on a node failed.

    :ivar code: its exit code; negative for a signal.
    """

    def __init__(self, message: str, code: int) -> None:
        self.code = code
        super().__init__(message)


class Monitor:
    """The part of a log that is written while it is followed."""

    def __init__(self, node: str, path: str, process: Command) -> None:
        self._node, self._path, self._process = node, path, process
        self._lines = lines_of(process.stdout)
        self._next: asyncio.Future[str] | None = None
        self._last: deque[str] = deque(maxlen=LINES)

    async def until(self, pattern: str, timeout: float = 60.0) -> str:
        """Wait for a line; the next call continues behind it.

        :param pattern: a regular expression, which is searched in each line.
        :param timeout: seconds.
        :return: the line.
        :raises CommandError: no line matched in time; carries the last ones.
        """
        wanted = re.compile(pattern)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    line = await self._line()
                    self._last.append(line)
                    if wanted.search(line):
                        return line
        except TimeoutError:
            seen = "\n".join(map(cut, self._last)) or "(nothing)"
            problem = f"no line matched {pattern!r} within {timeout:g} s"
        except StopAsyncIteration:
            seen = "\n".join(map(cut, self._last)) or "(nothing)"
            problem = f"tail has ended ({describe_exit(await self._process.wait())})"
        raise CommandError(f"node {self._node}: {self._path}: {problem}; the last lines:\n{seen}", -1)

    async def _line(self) -> str:
        # A line that is being read when the time is up is not lost.
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._lines))
        line = await asyncio.shield(self._next)
        self._next = None
        return line


class TooMuchError(Exception):
    """A stream is longer than may be kept."""


async def read_all(stream: Any, into: bytearray) -> None:
    """Read a stream to its end.

    :raises TooMuchError: it has more than 16 MiB.
    """
    while chunk := await stream.read(CHUNK):
        into += chunk
        if len(into) > LIMIT:
            raise TooMuchError


async def read_between(begin: str, end: str, stream: Any, into: bytearray) -> int | None:
    """Read what is between two marks, and return the number after the second; None if the stream ends."""
    first, second = begin.encode(), re.compile(end.encode() + rb"(\d+)\n")
    seen = 0
    while not (found := second.search(into, seen)):
        seen = max(0, len(into) - len(end) - 5)  # the mark may come in pieces, with a code of up to 3 digits
        chunk = await stream.read(CHUNK)
        if not chunk:
            return None
        into += chunk
        if len(into) > LIMIT:
            raise TooMuchError
    code = int(found[1])
    del into[found.start() :]
    del into[: into.find(first) + len(first)]
    return code


async def keep_last(stream: Any, lines: deque[str]) -> None:
    """Read a stream to its end, and keep its last lines."""
    async for line in lines_of(stream):
        lines.append(line)


async def write_all(process: Command, content: bytes) -> None:
    """Write what a command reads, and close it."""
    with contextlib.suppress(OSError):  # it does not read its input
        if content:
            process.stdin.write(content)
            await process.stdin.drain()
        process.stdin.write_eof()


async def lines_of(stream: Any) -> AsyncIterator[str]:
    """Yield the lines of a stream; one that is longer than 1 MiB comes in pieces."""
    rest = b""
    while chunk := await stream.read(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
        if len(rest) > 1 << 20:
            yield rest.decode(errors="replace")
            rest = b""
    if rest:
        yield rest.decode(errors="replace")


async def piped(node: str, tar: Sequence[str], source: Any, process: Command) -> None:
    """Pipe between a tar of this machine and a command on a node, until both have ended.

    :param source: what the local tar reads; None if it writes to the command.
    """
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    local = await asyncio.create_subprocess_exec(
        *tar,
        stdin=nothing if source is None else pipe,
        stdout=pipe if source is None else nothing,
        stderr=pipe,
    )
    try:
        out: Any = local.stdout if source is None else source
        target: Any = process.stdin if source is None else local.stdin
        assert local.stderr is not None
        errors = [bytearray(), bytearray()]
        await asyncio.gather(
            _pump(out, target), read_all(local.stderr, errors[0]), read_all(process.stderr, errors[1])
        )
        for code, error in ((await process.wait(), errors[1]), (await local.wait(), errors[0])):
            if code != 0:
                text = last_lines(error.decode(errors="replace"))
                raise CommandError(f"node {node}: copying failed ({describe_exit(code)}): {text}", code)
    finally:
        if local.returncode is None:
            local.kill()
            await run_to_completion(local.wait())


async def _pump(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):  # the other end has failed, and says why
        while chunk := await source.read(CHUNK):
            target.write(chunk)
            await target.drain()
        target.write_eof()


def cut(line: str) -> str:
    """Return a line as an error quotes it."""
    shown = "".join(one if one.isprintable() or one == "\t" else "\ufffd" for one in line[:_WIDTH])
    return shown if len(line) <= _WIDTH else f"{shown}..."


def last_lines(text: str) -> str:
    """Return the end of a text as an error quotes it."""
    return "\n".join(map(cut, text.strip().splitlines()[-LINES:]))
