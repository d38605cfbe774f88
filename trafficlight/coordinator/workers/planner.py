"""Plans without running code of test files in this process: workers read them, one file after the other."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from trafficlight.clock import Clock, SystemClock
from trafficlight.coordinator.workers.match_cache import RemoteMatchCache
from trafficlight.coordinator.workers.pool import WorkerPool, dump_stacks, ending_of
from trafficlight.coordinator.workers.process import WorkerDied, WorkerProcess
from trafficlight.coordinator.workers.tracebacks import line_in, without_ours
from trafficlight.errors import LabError, TestFileError
from trafficlight.suites.discovery import DEFAULT_PATTERNS
from trafficlight.suites.model import Plan
from trafficlight.suites.planning import PlanBuilder, plan
from trafficlight.suites.portable import OwnMatch
from trafficlight.suites.reading import FileRequest, Reading
from trafficlight.suites.selection import Selection
from trafficlight.worker.messages import Found, Read

logger = logging.getLogger(__name__)


class Planner(Protocol):
    """Makes plans of what is asked for."""

    async def plan(
        self, targets: Sequence[str], selection: Selection, *, patterns: Sequence[str] = DEFAULT_PATTERNS
    ) -> Plan:
        """Return the cases that targets and selection mean, and what is wrong with the test files.

        :raises UsageError: a target does not exist, or the selection cannot be carried out.
        :raises ConfigError: a suite file is malformed.
        :raises LabError: there is nowhere to read the files.
        """
        ...


class InProcessPlanner:
    """Reads test files in this process: for a debugger."""

    async def plan(
        self, targets: Sequence[str], selection: Selection, *, patterns: Sequence[str] = DEFAULT_PATTERNS
    ) -> Plan:
        """Return the cases that targets and selection mean, and what is wrong with the test files."""
        return await asyncio.to_thread(plan, targets, selection, patterns=patterns)


class WorkerPlanner:
    """Reads test files in workers, so that one that ends its process, hangs or eats memory costs itself only.

    :param deadline: seconds that reading one file may take.
    :param matches: who is asked what client types with a `match` of their own match; None where nobody asks.
    :param printed: told the end of what the files print when they are imported; the log is by default.
    """

    def __init__(
        self,
        pool: WorkerPool,
        deadline: float,
        matches: RemoteMatchCache | None = None,
        *,
        clock: Clock | None = None,
        printed: Callable[[str], None] | None = None,
    ) -> None:
        self._pool = pool
        self._deadline = deadline
        self._matches = matches
        self._clock = clock or SystemClock()
        self._printed = printed

    async def plan(
        self, targets: Sequence[str], selection: Selection, *, patterns: Sequence[str] = DEFAULT_PATTERNS
    ) -> Plan:
        """Return the cases that targets and selection mean, and what is wrong with the test files."""
        planning = await asyncio.to_thread(partial(PlanBuilder, targets, selection, patterns=patterns))
        reader = _Reader(self._pool, self._deadline, self._clock)
        try:
            for asked in planning.files:
                for part in await reader.read(asked):
                    self._listen_to(part)
                    planning.add(part)
                    await asyncio.sleep(0)  # there may be very many cases in all
        finally:
            await reader.close()
            if reader.printed:
                (self._printed or _log)(reader.printed)
        return await asyncio.to_thread(planning.plan)

    def _listen_to(self, part: Reading) -> None:
        """Let the client types that have a `match` of their own be asked."""
        if self._matches is None:
            return
        for suite in part.suites.values():
            for case in suite.cases:
                for kind in case.clients.values():
                    if isinstance(kind, OwnMatch):
                        kind.ask = self._matches


def _log(printed: str) -> None:
    logger.info("test files printed when they were imported:\n%s", printed)


class _LostError(Exception):
    """A file took its worker from us.

    :param words: the end of the worker's output.
    """

    def __init__(self, problem: TestFileError, words: str, *, hung: bool = False) -> None:
        self.problem = problem
        self.words = words
        self.hung = hung
        super().__init__(problem)


class _Reader:
    """Reads the files of one plan, all in one worker as long as that lives."""

    def __init__(self, pool: WorkerPool, deadline: float, clock: Clock) -> None:
        self._pool = pool
        self._deadline = deadline
        self._clock = clock
        self._worker: WorkerProcess | None = None
        self._files = 0
        self._spoiled = False
        self.printed = ""

    async def read(self, asked: FileRequest) -> list[Reading]:
        """Return what is in a file, in parts; what it does to its worker is a problem of it.

        :raises LabError: there is no worker for it.
        """
        while True:
            if self._spoiled:  # whatever is wrong with the next file is to be its own doing
                await self.close()
            worker = await self._ready()
            first = self._files == 0
            self._files += 1
            try:
                parts = await self._asked(worker, asked)
            except _LostError as lost:
                await self._end(worker)
                if not first and not lost.hung:
                    logger.info("%s: again, as others were imported before it", lost.problem)
                    continue  # it may have been one of those: alone, it is its own doing
                logger.warning("%s\n%s", lost.problem, without_ours(lost.words))
                return [Reading(problems=[lost.problem], met={part.text for part in asked.parts})]
            if parts[-1].exhausted:
                await self.close()
                if not first:
                    continue  # others have left it less memory than it may have
            return parts

    async def close(self) -> None:
        """End the worker: files may have left something behind in it."""
        if (worker := self._worker) is not None:
            self.printed += worker.last_words()
            await self._end(worker)

    async def _end(self, worker: WorkerProcess) -> None:
        self._worker = None
        await self._pool.give_back(worker, reusable=False)

    async def _ready(self) -> WorkerProcess:
        if self._worker is None:
            try:
                self._worker = await self._pool.take_fresh()
            except WorkerDied as died:
                raise LabError(f"test files cannot be read: {died}") from died
            self._worker.begin()
            self._files = 0
            self._spoiled = False
        return self._worker

    async def _asked(self, worker: WorkerProcess, asked: FileRequest) -> list[Reading]:
        path, parts = asked.file.path, list[Reading]()
        worker.send(Read(asked))
        try:
            async with self._clock.timeout(self._deadline):
                while True:
                    found = await _next_of(worker)
                    parts.append(found.part)
                    if found.last:
                        self._spoiled = found.spoiled
                        return parts
        except TimeoutError:
            await dump_stacks(worker)
            problem = f"not imported within {self._deadline:g} s"
            hint = "leave what takes long to setup() or run(), or raise IMPORT_DEADLINE"
            raise _lost(worker, path, problem, hint, hung=True) from None
        except WorkerDied:
            if worker.unread:
                problem = f"importing it sent to the lab what it does not take: {worker.unread}"
            elif how := await ending_of(worker):
                problem = f"importing it ended its process: {how}"
            else:
                problem = "importing it cut it off from the lab"
            raise _lost(worker, path, problem, "leave that to run(), or take it out") from None


async def _next_of(worker: WorkerProcess) -> Found:
    while not isinstance(message := await worker.next(), Found):
        logger.error("a worker sent what nobody expects: %s", message)
    return message


def _lost(worker: WorkerProcess, path: Path, problem: str, hint: str, *, hung: bool = False) -> _LostError:
    words = worker.last_words()
    return _LostError(TestFileError(path, line_in(path, words), problem, hint), words, hung=hung)
