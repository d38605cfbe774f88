"""The command `trafficlight` as a user has it: a process of its own, with real adapters and homeservers."""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import junitparser
import psutil
import pytest
import pytest_asyncio

# In the environment of everything that a command under test starts, so that what it leaves behind is found.
_MARK = "END_TO_END_MARK"


class Running:
    """A command that runs, and what it has printed up to now."""

    def __init__(self, process: asyncio.subprocess.Process, mark: str, directory: Path) -> None:
        self.directory = directory
        self.output: list[str] = []
        self.errors: list[str] = []
        self._process = process
        self._mark = mark
        self._more = asyncio.Condition()
        assert process.stdout is not None
        assert process.stderr is not None
        self._reading = asyncio.gather(
            self._read(process.stdout, self.output), self._read(process.stderr, self.errors)
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            async with self._more:
                lines.append(line.decode().rstrip())
                self._more.notify_all()

    async def line(self, *words: str, number: int = 1, timeout: float = 120) -> str:
        """Wait for a line with all these words, or for several, and return the last of them."""

        def found() -> list[str]:
            return [line for line in self.output + self.errors if all(word in line for word in words)]

        async with asyncio.timeout(timeout), self._more:
            await self._more.wait_for(lambda: len(found()) >= number)
        return found()[number - 1]

    async def ended(self, timeout: float = 120) -> int:
        """Wait for its end and return the exit code."""
        async with asyncio.timeout(timeout):
            code = await self._process.wait()
            await self._reading
        return code

    def interrupt(self) -> None:
        """Do what Ctrl-C does: SIGINT to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def terminate(self) -> None:
        """Do what a service manager does: SIGTERM to the process."""
        self._process.terminate()

    def kill(self) -> None:
        """Let it die without a chance to clean up."""
        self._process.kill()

    async def gone(self, processes: list[psutil.Process], timeout: float = 10) -> None:
        """Wait until none of these processes runs any more."""
        _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout)
        assert not alive

    def started(self) -> list[psutil.Process]:
        """Return what it started, directly or not, and what still runs, itself included."""
        return [process for process in psutil.process_iter() if _marked(process, self._mark)]

    def programs(self, part: str) -> list[psutil.Process]:
        """Return those of what it started whose command line has an argument with this end."""
        found = []
        for process in self.started():
            with suppress(psutil.NoSuchProcess):  # such as a homeserver that ends meanwhile
                if any(argument.endswith(part) for argument in process.cmdline()):
                    found.append(process)
        return found

    async def clean_up(self) -> None:
        for process in self.started():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await self.ended()

    def session(self) -> Path:
        """Return the folder of the latest session."""
        return (self.directory / "results" / "latest").resolve(strict=True)

    def junit(self) -> junitparser.JUnitXml:
        """Read its junit.xml back."""
        read = junitparser.JUnitXml.fromfile(str(self.session() / "junit.xml"))
        assert isinstance(read, junitparser.JUnitXml)
        return read

    def cases(self) -> dict[str, junitparser.TestCase]:
        """Return the cases of junit.xml by the id that they have in trafficlight."""
        suites = [suite for suite in self.junit() if suite.name != "session"]  # about the session as a whole
        return {_id(case): case for suite in suites for case in suite}


def _id(case: junitparser.TestCase) -> str:
    properties = case.child(junitparser.Properties)  # type: ignore[no-untyped-call]
    assert properties is not None
    return next(str(one.value) for one in properties if one.name == "id")


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == mark
    except psutil.Error:  # it has just exited, or is another user's
        return False


Start: TypeAlias = Callable[..., Coroutine[Any, Any, Running]]


async def _start(
    directory: Path,
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    module: str = "trafficlight",
) -> Running:
    mark = secrets.token_hex(8)
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=directory,
        env={**inherited, _MARK: mark, **(environment or {})},
        start_new_session=True,
    )
    return Running(process, mark, directory)


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start `trafficlight` with arguments in an empty directory; nothing of it outlives the test."""
    running: list[Running] = []

    async def start(
        *arguments: str | Path, environment: Mapping[str, str] | None = None, module: str = "trafficlight"
    ) -> Running:
        running.append(await _start(tmp_path, *arguments, environment=environment, module=module))
        return running[-1]

    yield start
    for one in running:
        await one.clean_up()


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of tests that fail on purpose."""
    return Path(__file__).parent.parent / "demo"


@pytest.fixture(scope="session")
def chat() -> Path:
    """The folder of the chat tests that ship."""
    import trafficlight

    return Path(trafficlight.__file__).parent / "tests" / "chat"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def demonstration(
    tmp_path_factory: pytest.TempPathFactory, demo: Path, chat: Path
) -> AsyncIterator[Running]:
    """A session, run to its end, of what fails, what errs and what succeeds."""
    names = ("wrong_expectation_test.py", "client_action_fails_test.py", "dying_adapter_test.py")
    paths = [demo / name for name in names] + [chat / "send_messages_test.py"]
    running = await _start(tmp_path_factory.mktemp("demonstration"), "run", *paths)
    try:
        await running.ended()
        yield running
    finally:
        await running.clean_up()
