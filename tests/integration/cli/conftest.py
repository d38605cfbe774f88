"""Commands as processes of their own."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.integration.http.conftest import TEST_FILE, HttpHarness, open_site


class Command:
    """A command that runs, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []
        self._more = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._more:
                self.said.append(line.decode().rstrip())
                self._more.notify_all()

    async def line(self, *words: str) -> str:
        """Wait for a line that has all the words."""

        def found() -> list[str]:
            return [line for line in self.said if all(word in line for word in words)]

        async with asyncio.timeout(90), self._more:
            await self._more.wait_for(found)
        return found()[0]

    async def ended(self) -> int:
        async with asyncio.timeout(90):
            code = await self.process.wait()
            await self._reading
        return code

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()


Runner: TypeAlias = Callable[..., Awaitable[Command]]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Runner]:
    """Run `trafficlight` with these arguments; it ends with the test at the latest."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: str, **environment: str) -> Command:
            kept = {key: value for key, value in os.environ.items() if not key.startswith("TRAFFICLIGHT_")}
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "trafficlight",
                *arguments,
                cwd=tmp_path,
                env={**kept, "PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "200", **environment},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=1 << 20,
            )
            command = Command(process)
            stack.push_async_callback(command.close)
            return command

        yield start


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    # Its adapters poll only when a test tells them to, and a command is slow on a busy machine.
    async with open_site(tmp_path, alive_deadline=600.0) as opened:
        yield opened


def a_test_file(folder: Path, body: str = "await alice.perform('one')", name: str = "talk_test.py") -> Path:
    path = folder / name
    path.write_text(TEST_FILE.format(body=f"        {body}", client_type="nio"))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(run: Runner, port: int, *tests: Path) -> AsyncIterator[Command]:
    command = await run(
        *("serve", *map(str, tests), "--port", str(port), "--workers", "0", "-n", "8"),
        TRAFFICLIGHT_ADAPTERS="{}",
    )
    await command.line("session")
    try:
        yield command
    finally:
        await command.close()
