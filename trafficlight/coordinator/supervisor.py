"""Adapter programs that the lab starts itself, and starts again when they end."""

import asyncio
import contextlib
import logging
import os
import random
import secrets
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trafficlight.config import AdapterProgram
from trafficlight.errors import ConfigError
from trafficlight.processes import ChildProcess, start_process

logger = logging.getLogger(__name__)

# The adapters that ship, by the name of their command.
_BUILT_IN = ("nio",)
# Seconds that a program has to end after SIGTERM, before it is killed.
_GRACE = 3.0
# Seconds after `exit` until a program that has neither exited nor registered again is ended.
_EXIT_DEADLINE = 20.0
_LOOK = 1.0  # seconds between two looks
# Seconds before a program that ended is started again: doubled each time that it ends soon, up to the last.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
# Seconds that a program must have run for its end not to count as an early one.
_EARLY = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """An adapter program.

    :param name: for its log's name.
    :param command: what to run.
    """

    name: str
    command: Sequence[str]


def programs_of(adapters: Mapping[str, AdapterProgram]) -> list[Program]:
    """Return one entry for each process that the settings ask for.

    :raises ConfigError: a program without a command is none that ships.
    """
    found = []
    for name, adapter in adapters.items():
        if adapter.command:
            command = shlex.split(adapter.command)
        elif name in _BUILT_IN:
            # -P: a folder trafficlight in the current directory is not this package.
            command = [sys.executable, "-P", "-m", "trafficlight", "adapter", name]
        else:
            known = ", ".join(_BUILT_IN)
            raise ConfigError(
                f"needs a command: only {known} comes with trafficlight", key=f"ADAPTERS.{name}"
            )
        found += [Program(name, command)] * adapter.count
    return found


class Supervisor:
    """Keeps adapter programs running until it is left.

    :param programs: one entry for each process.
    :param url: the coordinator's URL, told to them as ``TRAFFICLIGHT_URL`` and ``trafficlightURL``.
    :param folder: where their output goes.
    :param on_exit: called with a process's instance and how it exited.
    :param since_exit: returns the seconds since an instance was sent `exit`; None if it was not, or has
        registered again.
    :param token: the bearer token that registering takes.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        url: str,
        folder: Path,
        on_exit: Callable[[str, str], None],
        since_exit: Callable[[str], float | None],
        *,
        token: str | None = None,
    ) -> None:
        self._programs = programs
        self._url = url
        self._environment = dict(os.environ)
        if token is not None:
            self._environment["ADAPTER_TOKEN"] = token
        self._folder = folder
        self._directory = Path.cwd()
        self._on_exit = on_exit
        self._since_exit = since_exit
        self._running: dict[str, ChildProcess] = {}

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [process.pid for process in self._running.values()]

    @property
    def instances(self) -> list[str]:
        """The instances of the processes that run now."""
        return list(self._running)

    async def run(self) -> None:
        """Start every program, again and again, until this is cancelled; none is left running then."""
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        # What a killed program leaves in its temporary folder goes with this one.
        temporary = await asyncio.to_thread(
            tempfile.TemporaryDirectory, prefix="trafficlight-adapters-", ignore_cleanup_errors=True
        )
        self._environment["TMPDIR"] = temporary.name
        try:
            async with asyncio.TaskGroup() as group:
                for number, program in enumerate(self._programs, 1):
                    group.create_task(self._keep(program, self._folder / f"{program.name}-{number}.log"))
        finally:
            await self._end()
            await asyncio.to_thread(temporary.cleanup)

    async def _keep(self, program: Program, log: Path) -> None:
        pause = _FIRST_PAUSE
        loop = asyncio.get_running_loop()
        # The same for every process in this place: it is told apart by how its cases go, again and again.
        instance = secrets.token_hex(8)
        url = f"{self._url}/program/{instance}"
        while True:
            began = loop.time()
            process = await start_process(
                program.command,
                environment={
                    **self._environment,
                    "TRAFFICLIGHT_URL": url,
                    "trafficlightURL": url,
                    "TRAFFICLIGHT_INSTANCE": instance,
                },
                directory=self._directory,
                log=log,
            )
            self._running[instance] = process
            ending = await self._ending(process, instance, program.name)
            del self._running[instance]
            logger.warning(
                "the adapter program %s ended (%s); its output is in %s", program.name, ending, log
            )
            self._on_exit(instance, ending)
            pause = _FIRST_PAUSE if loop.time() - began > _EARLY else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311

    async def _ending(self, process: ChildProcess, instance: str, name: str) -> str:
        """Wait until a process exits; end one that neither exits nor registers again after `exit`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    return await process.wait()
            since = self._since_exit(instance)
            # An `exit` before the start was for the process before this one.
            if since is not None and _EXIT_DEADLINE < since < loop.time() - began:
                logger.warning(
                    "the adapter program %s did not exit within %g s after `exit`", name, _EXIT_DEADLINE
                )
                await _stop([process])

    async def _end(self) -> None:
        await _stop(list(self._running.values()))


async def _stop(processes: Sequence[ChildProcess]) -> None:
    """End processes and their children: SIGTERM first, SIGKILL after a grace time."""
    for process in processes:
        process.signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_GRACE):
            await asyncio.gather(*(process.wait() for process in processes))
    except TimeoutError:
        for process in processes:
            process.signal(signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in processes))
    for process in processes:
        # Each leads a group of its own, with whatever it started in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
