"""Debuggers and the live display on a real terminal."""

import asyncio
import errno
import os
import pty
import signal
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.integration.cli.conftest import Runner

TESTS = """\
from trafficlight.test import Test


class Stops(Test):
    async def run(self):
        value = 41
        breakpoint()
        value += 1
        print("after", value)


class Wrong(Test):
    async def run(self):
        answer = self.answer()
        await self.compare(answer)

    def answer(self):
        return 42

    async def compare(self, given):
        assert given == 43
"""


class Screen:
    """A command on a terminal of 80 columns, and what it has shown."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.process = process
        self.shown = ""
        self._terminal = terminal
        self._seen = 0
        self._more = asyncio.Event()
        os.set_blocking(terminal, False)
        asyncio.get_running_loop().add_reader(terminal, self._read)

    def _read(self) -> None:
        try:
            self.shown += os.read(self._terminal, 1 << 16).decode(errors="replace").replace("\r\n", "\n")
        except OSError as error:
            if error.errno != errno.EIO:  # the command has exited
                raise
            self._stop()
        self._more.set()

    def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._terminal)

    async def until(self, text: str) -> None:
        """Wait until a text is shown after those that were waited for before."""
        async with asyncio.timeout(90):
            while (found := self.shown.find(text, self._seen)) < 0:
                assert self.process.returncode is None, self.shown
                self._more.clear()
                await self._more.wait()
        self._seen = found + len(text)

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._terminal, f"{text}\n".encode())

    async def ended(self) -> int:
        async with asyncio.timeout(90):
            return await self.process.wait()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()
        self._stop()
        os.close(self._terminal)


OnTerminal: TypeAlias = Callable[..., Awaitable[Screen]]


@pytest.fixture
async def on_terminal(tmp_path: Path) -> AsyncIterator[OnTerminal]:
    """Run `trafficlight` with these arguments on a terminal, without adapters."""
    (tmp_path / "debug_test.py").write_text(TESTS)
    async with AsyncExitStack() as stack:

        async def start(*arguments: str) -> Screen:
            ours, theirs = pty.openpty()
            termios.tcsetwinsize(theirs, (24, 80))
            hidden = {"CI", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"}
            kept = {
                key: value
                for key, value in os.environ.items()
                if not key.startswith("TRAFFICLIGHT_") and key not in hidden
            }
            own = {
                "PYTHONPATH": str(Path(__file__).parents[3]),
                "TERM": "xterm",
                "TRAFFICLIGHT_ADAPTERS": "{}",
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "trafficlight",
                *arguments,
                cwd=tmp_path,
                env={**kept, **own},
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
            )
            os.close(theirs)
            screen = Screen(process, ours)
            stack.push_async_callback(screen.close)
            return screen

        yield start


@pytest.mark.parametrize("option", [("-s",), ("--workers", "0")])
async def test_breakpoint_has_the_terminal(
    on_terminal: OnTerminal, tmp_path: Path, option: tuple[str, ...]
) -> None:
    screen = await on_terminal("run", *option, "debug_test.py::Stops")
    await screen.until("-> value += 1\n(Pdb) ")
    screen.type("p value")
    await screen.until("41\n(Pdb) ")
    screen.type("c")
    await screen.until("after 42")
    assert await screen.ended() == 0
    log = tmp_path / "results/latest/cases/debug_test/Stops/-/attempt-1/log.info"
    assert "output: after 42" in log.read_text()


async def test_breakpoint_reads_a_pipe(tmp_path: Path, on_terminal: OnTerminal) -> None:
    command = (sys.executable, "-m", "trafficlight", "run", "-s", "debug_test.py::Stops")
    path = str(Path(__file__).parents[3])
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "TRAFFICLIGHT_ADAPTERS": "{}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        shown, _ = await process.communicate(b"p value + 100\nc\n")
    assert process.returncode == 0
    assert "(Pdb) 141" in shown.decode()


async def test_quitting_the_debugger_ends_the_session(on_terminal: OnTerminal) -> None:
    screen = await on_terminal("run", "-s", "debug_test.py::Stops", "debug_test.py::Wrong")
    await screen.until("(Pdb) ")
    screen.type("q")
    await screen.until("the debugger was quit")
    assert await screen.ended() == 130


async def test_pdb_opens_where_the_test_failed(on_terminal: OnTerminal) -> None:
    screen = await on_terminal("run", "--pdb", "debug_test.py::Wrong")
    await screen.until("AssertionError")
    await screen.until("-> assert given == 43\n(Pdb) ")
    screen.type("up")
    await screen.until("-> await self.compare(answer)\n(Pdb) ")
    screen.type("c")
    await screen.until("1 failure")
    assert await screen.ended() == 1


async def test_a_worker_names_what_gives_a_debugger_a_terminal(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "debug_test.py").write_text(TESTS)
    command = await run("run", "debug_test.py::Stops", TRAFFICLIGHT_ADAPTERS="{}")
    assert await command.ended() == 3
    await command.line(
        "the debugger was quit, or had no terminal: run the case with --workers 0, -s or --pdb"
    )


async def test_ctrl_c_leaves_no_live_display_behind(on_terminal: OnTerminal, tmp_path: Path) -> None:
    name = "A" * 90
    text = f"import asyncio\nfrom trafficlight.test import Test\n\n\nclass {name}(Test):\n"
    text += "    async def run(self):\n        await asyncio.Event().wait()\n"
    (tmp_path / "long_test.py").write_text(text)
    screen = await on_terminal("run", "long_test.py")
    await screen.until("\nhttp://127.0.0.1:")  # a line of its own, as the first line is long enough
    await screen.until("running")
    screen.process.send_signal(signal.SIGINT)
    await screen.until("SIGINT: running cases have 10 s to finish; a second signal cancels them\n")
    screen.process.send_signal(signal.SIGINT)
    assert await screen.ended() == 130
    _, _, last = screen.shown.rpartition("\x1b[2K")  # the last line of the live display that was erased
    assert "1 running" not in last
    assert "1 error · interrupted" in last
