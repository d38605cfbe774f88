"""Child processes: none outlives this one, and their output and exit are reported."""

import asyncio
import errno
import fcntl
import io
import logging
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from trafficlight.clock import Clock
from trafficlight.errors import DeployError
from trafficlight.text import duration

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[str], None]
_T = TypeVar("_T")

_PDEATHSIG = Path(__file__).with_name("pdeathsig.py")
_TAIL_LINES = 20
_NO_NETWORK = re.compile(
    r"Temporary failure in name resolution|Name or service not known|No address associated with hostname"
    r"|Network is unreachable|No route to host|no such host|[Cc]onnection refused"
    r"|[Cc]ould not resolve host|EAI_AGAIN|ENOTFOUND"
)
_CAUSE = 300  # characters
# Bytes of a log, and those of its beginning and end that are kept of a longer one.
_LONGEST_LOG, _LOG_BEGINNING, _LOG_END = 64 << 20, 16 << 20, 1 << 20
# Seconds between two signs of life.
_HEARTBEAT = 30.0
# Searches for processes that were started while others were killed.
_SEARCHES = 20

LAB_ONLY = "TRAFFICLIGHT_PEOPLE_TOKEN"
"""A variable that starts sessions: programs under test must not inherit it."""

# PYTHONDONTWRITEBYTECODE makes every start of a Synapse seconds slower; the others select another Python.
_NEVER_INHERITED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", LAB_ONLY)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@asynccontextmanager
async def showing_life(what: str, progress: Progress, clock: Clock) -> AsyncIterator[None]:
    """Report every 30 s that something still goes on.

    :param what: what goes on: ``Synapse: still being prepared``.
    """
    began = clock.monotonic()

    async def report() -> None:
        while True:
            await clock.sleep(_HEARTBEAT)
            progress(f"{what} after {duration(clock.monotonic() - began)}")

    reporting = asyncio.create_task(report(), name=f"signs of life: {what}")
    try:
        yield
    finally:
        reporting.cancel()
        await asyncio.wait([reporting])


def child_environment(extra: Mapping[str, str] | None = None, *, proxies: bool = False) -> dict[str, str]:
    """Return the environment for a child process.

    :param extra: variables to add.
    :param proxies: keep the proxy settings, which downloads need and servers on loopback must not have.
    """
    dropped = () if proxies else _PROXIES
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NEVER_INHERITED and name.lower() not in dropped
    }
    return kept | dict(extra or {})


def own_module(name: str, python: str | None = None) -> list[str]:
    """Return the beginning of the command that runs a module of this package.

    :param python: the interpreter; by default this process's.
    """
    # -P: a folder trafficlight in the current directory is not this package.
    return [python or sys.executable, "-P", "-m", name]


def with_parent_death_signal(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command which the kernel kills when this process dies."""
    return [sys.executable, "-I", "-S", str(_PDEATHSIG), str(os.getpid()), *command]


def signal_marked(name: str, values: Iterable[str], number: signal.Signals) -> None:
    """Send a signal to all processes that have a variable in their environment. May block.

    Also to those that have left the process group of their parent, as browsers often do, or whose parent has
    exited. Does nothing without ``/proc``.

    :param values: the variable's values, unique to the processes that are meant.
    """
    entries, known = {f"{name}={value}".encode() for value in values}, set[int]()
    for search in range(_SEARCHES):
        found = set(_marked(entries))
        meant = found if number == signal.SIGKILL else found - known
        for pid in meant:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        # A process that is being started may have no environment for a moment.
        if not meant and (search or number == signal.SIGKILL):
            return
        known |= found


def _marked(entries: Set[bytes]) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has exited, or is another user's
            if not entries.isdisjoint((folder / "environ").read_bytes().split(b"\0")):
                yield int(folder.name)


def describe_exit(code: int) -> str:
    """Return ``exit code N``, or ``signal N`` for a negative code."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder; return False if another process holds a lock that excludes this one.

    :raises OSError: the file system has no locks, for instance.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


class ChildProcess:
    """A child of this process, started by :func:`start_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exited(self) -> str | None:
        """How it exited, see :func:`describe_exit`; None while it runs."""
        code = self._process.returncode
        return None if code is None else describe_exit(code)

    async def wait(self) -> str:
        """Wait for the exit and return its description."""
        return describe_exit(await self._process.wait())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Does nothing after the exit."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def signalled(self) -> None:
        """Return at once: signals are sent directly."""


@asynccontextmanager
async def log_opened(path: Path) -> AsyncIterator[int]:
    """Open a log file for appending, and close it in every ending.

    :raises OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    opening = asyncio.ensure_future(asyncio.to_thread(os.open, path, flags, 0o644))
    try:
        descriptor = await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if opening.exception() is None:
            os.close(opening.result())
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def shorten_log(file: io.FileIO) -> None:
    """Take the middle out of a log that has become too long. Blocks.

    :param file: is read and written; opened for appending if a program writes to the log meanwhile.
    """
    size = file.seek(0, os.SEEK_END)
    if size <= _LONGEST_LOG:
        return
    file.seek(size - _LOG_END)
    end = file.read(_LOG_END)
    file.truncate(_LOG_BEGINNING)
    file.seek(0, os.SEEK_END)
    file.write(b"\n[... the log is too long: its middle is left out ...]\n" + end)


async def start_process(
    command: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path
) -> ChildProcess:
    """Start a program that writes its output to a log file and dies with this process.

    :raises DeployError: the program cannot be started.
    """
    async with log_opened(log) as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *with_parent_death_signal(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        except OSError as error:
            raise DeployError(f"cannot start {command[0]}: {error}") from error
    return ChildProcess(process)


async def run_tool(
    what: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    on_line: Progress | None = None,
    errors_apart: bool = False,
) -> list[str]:
    """Run a program until it exits and return its last 10,000 lines. Cancellation kills it.

    :param what: names the work in errors.
    :param environment: its environment; by default this process's, with its proxy settings.
    :param directory: its working directory.
    :param on_line: called with every line as it is written.
    :param errors_apart: whether what it writes to stderr is logged, and not returned.
    :raises DeployError: the program cannot be started or fails; carries its last lines.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *with_parent_death_signal(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if errors_apart else asyncio.subprocess.STDOUT,
            env=child_environment(proxies=True) if environment is None else environment,
            cwd=directory,
            start_new_session=True,
            limit=2**20,
        )
    except OSError as error:
        raise DeployError(f"{what}: {error}") from error
    lines: deque[str] = deque(maxlen=10_000)
    everything: deque[str] = deque(maxlen=10_000)

    async def read(stream: asyncio.StreamReader, log: Callable[..., None], kept: deque[str] | None) -> None:
        async for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            everything.append(line)
            log("%s: %s", what, line)
            if kept is not None:
                kept.append(line)
            if on_line is not None:
                on_line(line)

    try:
        assert process.stdout is not None
        reading = [read(process.stdout, logger.debug, lines)]
        if process.stderr is not None:
            reading.append(read(process.stderr, logger.info, None))
        await asyncio.gather(*reading)
        code = await process.wait()
    except ValueError:
        raise DeployError(f"{what}: a line of its output is longer than 1 MiB") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # its children too
            await run_to_completion(process.wait())
    if code != 0:
        raise DeployError(
            f"{what}: {describe_exit(code)}{_cause(everything)}",
            log="\n".join(list(everything)[-_TAIL_LINES:]),
        )
    return list(lines)


def no_network(text: str) -> str:
    """Return what the output of a program says about a missing network; empty if nothing."""
    found = _NO_NETWORK.search(text)
    return found[0] if found is not None else ""


def _cause(lines: Iterable[str]) -> str:
    """Return the last line that starts with ``error`` or ``fatal``, truncated."""
    errors = [line.strip() for line in lines if re.match(r"\s*(error|fatal)\b", line, re.IGNORECASE)]
    return f": {errors[-1][:_CAUSE]}" if errors else ""


async def run_to_completion(work: Coroutine[Any, Any, _T]) -> _T:
    """Await a coroutine until it is done, even when cancelled; the cancellation is raised afterwards.

    For short clean-up that must not stop halfway, such as waiting for a killed process.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (failure := task.exception()) is not None:
        logger.warning("failed after it was cancelled", exc_info=failure)
    raise cancelled
