"""The adapter's process: started, watched, restarted when it exits, and killed at the end."""

import asyncio
import os
import shlex
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path


class Program:
    """A command that is an adapter.

    :param command: the command line; ``{url}`` in it stands for the coordinator's URL.
    :param url: the coordinator's URL; also handed over as ``TRAFFICLIGHT_URL`` and ``trafficlightURL``.
    :param log: the file that gets what it prints.
    :param on_exit: awaited whenever its process has ended.
    :param environment: variables to set besides.
    """

    def __init__(
        self,
        command: str,
        url: str,
        log: Path,
        on_exit: Callable[[], Awaitable[None]],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._arguments = [part.replace("{url}", url) for part in shlex.split(command)]
        self._environment = {
            **os.environ,
            "TRAFFICLIGHT_URL": url,
            "trafficlightURL": url,
            **(environment or {}),
        }
        self._log = log
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def returncode(self) -> int | None:
        """The exit code, once its process has ended."""
        return self._process.returncode if self._process is not None else None

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.returncode is not None

    async def start(self) -> None:
        """Start it, again where it has ended.

        :raises OSError: there is no such program.
        """
        await self.kill()
        with self._log.open("ab") as log:
            # A session of its own, so that what it starts itself can be ended with it.
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watch = asyncio.create_task(self._wait(self._process), name="watch over the adapter")

    async def terminate(self, grace: float) -> bool:
        """Ask it to end and return whether it did so within some seconds."""
        if self._process is None or self.ended:
            return True
        self._process.terminate()
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def kill(self) -> None:
        """End it and what it started. Idempotent."""
        if self._process is None or self._watch is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._watch
        self._process = self._watch = None

    def output(self, size: int = 2000) -> str:
        """Return the end of what it printed, at most so many characters."""
        return self._log.read_text(errors="replace")[-size:] if self._log.exists() else ""

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        await self._on_exit()
