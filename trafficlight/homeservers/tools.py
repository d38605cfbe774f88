"""Run other programs: to their end with their output as progress, and never longer than we live."""

import asyncio
import logging
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from trafficlight.errors import DeployError

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[str], None]
_T = TypeVar("_T")

_TETHER = Path(__file__).parent / "local" / "scripts" / "tether.py"
_TAIL_LINES = 20
_CAUSE = 300  # characters

# Without byte code a Synapse takes seconds to import, and ours is no business of theirs.
_NEVER_INHERITED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def child_environment(extra: Mapping[str, str] | None = None, *, proxies: bool = False) -> dict[str, str]:
    """Return the environment for a child process.

    :param extra: variables to add.
    :param proxies: keep the proxy settings: tools that download need them, servers on loopback must not.
    """
    dropped = () if proxies else _PROXIES
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NEVER_INHERITED and name.lower() not in dropped
    }
    return kept | dict(extra or {})


def with_parent_death_signal(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command which the kernel ends when this process dies."""
    return [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command]


async def run_tool(
    what: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    on_line: Progress | None = None,
) -> list[str]:
    """Run a program to its end and return the lines that it wrote; cancellation kills it.

    :param what: names the work in errors.
    :param on_line: gets every line as it comes.
    :raises DeployError: it cannot be started or ends with another code than 0; carries its last lines.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *with_parent_death_signal(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=child_environment(proxies=True) if environment is None else environment,
            cwd=directory,
            start_new_session=True,
            limit=2**20,
        )
    except OSError as error:
        raise DeployError(f"{what}: {error}") from error
    lines: deque[str] = deque(maxlen=10_000)
    try:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            logger.debug("%s: %s", what, line)
            if on_line is not None:
                on_line(line)
        code = await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started itself
            await run_to_completion(process.wait())
    if code != 0:
        raise DeployError(
            f"{what}: ended with code {code}{_cause(lines)}", log="\n".join(list(lines)[-_TAIL_LINES:])
        )
    return list(lines)


def _cause(lines: Iterable[str]) -> str:
    """Return the line that says most likely why a program has failed, cut short: the last with an error."""
    errors = [line.strip() for line in lines if re.match(r"\s*(error|fatal)\b", line, re.IGNORECASE)]
    return f": {errors[-1][:_CAUSE]}" if errors else ""


async def run_to_completion(work: Coroutine[Any, Any, _T]) -> _T:
    """Await work to its end even when cancelled meanwhile; the cancellation is raised afterwards.

    For what is short by its nature and must not be left half done, such as waiting for a killed process.
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
        logger.warning("failed while being cancelled", exc_info=failure)
    raise cancelled
