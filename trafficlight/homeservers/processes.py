"""A homeserver's process, however it was started."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from trafficlight.errors import DeployError
from trafficlight.homeservers.tools import with_parent_death_signal


class ServerProcess(Protocol):
    """A process that was started for one homeserver."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    @property
    def exited(self) -> str | None:
        """Why it runs no more, e.g. ``exit code 1`` or ``signal 9``; None while it runs."""
        ...

    async def wait(self) -> str:
        """Return why it ended, once it has."""
        ...

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        ...


def describe_exit(code: int) -> str:
    """Return a process's end in words: negative codes are signals."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class PlainProcess:
    """A child of this process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exited(self) -> str | None:
        """Why it runs no more; None while it runs."""
        code = self._process.returncode
        return None if code is None else describe_exit(code)

    async def wait(self) -> str:
        """Return why it ended, once it has."""
        return describe_exit(await self._process.wait())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)


async def start_plain(
    command: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path
) -> PlainProcess:
    """Start a program that logs into a file and ends when this process does.

    :raises DeployError: there is no such program.
    """
    output = await asyncio.to_thread(
        os.open, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
    )
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
    finally:
        os.close(output)
    return PlainProcess(process)
