"""Plans without code of test files in this process: workers collect each in a process."""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from trafficlight.clock import Clock, SystemClock
from trafficlight.coordinator.workers.match_cache import RemoteMatchCache
from trafficlight.coordinator.workers.pool import WorkerPool, dump_stacks, exit_status
from trafficlight.coordinator.workers.process import WorkerDied, WorkerProcess
from trafficlight.errors import LabError, TestFileError
from trafficlight.suites.discovery import DEFAULT_PATTERNS
from trafficlight.suites.model import Plan
from trafficlight.suites.planning import FileRequest, FileResult, PlanBuilder, plan
from trafficlight.suites.selection import Selection
from trafficlight.worker.messages import Collected, CollectFile

logger = logging.getLogger(__name__)

# Characters of what files print during their import that are kept.
_PRINTED = 8000
# Lines of a lost worker's output that are logged.
_LAST_LINES = 20
# A worker dumps its tasks, then the stack of its main thread with source lines, then all threads without.
_TASKS = re.compile(r"^task .*, awaiting, innermost last:$", re.MULTILINE)
_MAIN = "the thread that runs the test, innermost last:\n"
_THREADS = re.compile(r"^(?:Current thread|Thread) 0x", re.MULTILINE)
# One frame of a stack, with its source line if there is one.
_FRAME = re.compile(r'^  File "([^"]+)", line \d+.*\n(?:    .*\n)?', re.MULTILINE)
Planner: TypeAlias = Callable[[Sequence[str], Selection, Sequence[str]], Coroutine[Any, Any, Plan]]

_PACKAGE = re.escape(str(Path(__file__).parents[2]))
_IMPORTERS = re.compile(rf"<frozen |{_PACKAGE}/(?!tests/)|{re.escape(asyncio.__path__[0])}/")


async def plan_in_process(
    targets: Sequence[str], selection: Selection, patterns: Sequence[str] = DEFAULT_PATTERNS
) -> Plan:
    """Return the plan, as :meth:`WorkerPlanner.plan` does, without workers: for a debugger."""
    return await asyncio.to_thread(plan, targets, selection, patterns=patterns)


class WorkerPlanner:
    """Collects test files in workers: one that exits, hangs or fills the memory costs only itself.

    :param deadline: seconds for collecting one file.
    :param matches: evaluates client types with their own `match`; None if nothing needs them.
    :param printed: receives the end of what the files print during their import; by default it is logged.
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
        self, targets: Sequence[str], selection: Selection, patterns: Sequence[str] = DEFAULT_PATTERNS
    ) -> Plan:
        """Return the cases that targets and a selection mean, and what is wrong with the test files.

        :raises UsageError: a target does not exist, or the selection cannot be applied.
        :raises ConfigError: a suite file is malformed.
        :raises LabError: no worker can collect the files.
        """
        builder = await asyncio.to_thread(partial(PlanBuilder, targets, selection, patterns=patterns))
        printed = ""
        try:
            for request in builder.files:
                parts, more = await self._collected(request)
                printed = (printed + more)[-_PRINTED:]
                for part in parts:
                    self._set_evaluators(part)
                    builder.add(part)
                    await asyncio.sleep(0)  # there may be very many cases
        finally:
            if printed:
                (self._printed or _log)(printed)
        return await asyncio.to_thread(builder.plan)

    def _set_evaluators(self, part: FileResult) -> None:
        for suite in part.suites.values():
            for case in suite.cases:
                for kind in case.clients.values():
                    kind.evaluate = self._matches

    async def _collected(self, request: FileRequest) -> tuple[list[FileResult], str]:
        """Collect a file in a process of its own, as each of its cases will run.

        :return: what is in it, in parts, and what it printed; a lost worker is a problem of the file.
        :raises LabError: no worker started.
        """
        try:
            worker = await self._pool.acquire(None)
        except WorkerDied as died:
            raise LabError(f"test files cannot be collected: {died}") from died
        path, parts = request.file.path, list[FileResult]()
        hint = "move that to run(), or remove it"
        try:
            worker.send(CollectFile(request))
            try:
                async with self._clock.timeout(self._deadline):
                    last = False
                    while not last:
                        collected = await _next_part(worker)
                        parts.append(collected.part)
                        last = collected.last
                return parts, await asyncio.to_thread(worker.last_output)
            except TimeoutError:
                await dump_stacks(worker)
                problem = f"not imported within {self._deadline:g} s"
                hint = "move slow work to setup() or run(), or raise IMPORT_DEADLINE"
            except WorkerDied:
                if worker.rejected:
                    problem = "importing it sent a message that the coordinator does not accept: "
                    problem += worker.rejected
                elif how := await exit_status(worker):
                    problem = f"importing it ended its process: {how}"
                else:
                    problem = "importing it closed the worker's connection to the coordinator"
            output = await asyncio.to_thread(worker.last_output)
            error = TestFileError(path, _failing_line(path, output), problem, hint)
            logger.warning("%s\n%s", error, _strip_internal_frames(output))
            lost = FileResult()
            lost.add_problems([error], request.targets)
            return [lost], ""
        finally:
            await self._pool.release(worker)


def _log(printed: str) -> None:
    logger.info("output of test files during their import:\n%s", printed)


async def _next_part(worker: WorkerProcess) -> Collected:
    while not isinstance(message := await worker.next(), Collected):
        logger.error("a worker sent an unexpected message: %s", message)
    return message


def _failing_line(path: Path, output: str) -> int | None:
    """Return the line of a file that the stacks in a worker's output name; None if they do not."""
    place = rf'File "{re.escape(str(path))}", line (\d+)'
    found = re.search(rf"{place},? in <module>", output) or re.search(place, output)
    return int(found[1]) if found else None


def _strip_internal_frames(output: str) -> str:
    """Return the end of a worker's output without the frames that import test files."""
    before, dumped, stacks = output.partition(_MAIN)
    if dumped:
        output = _TASKS.split(before, maxsplit=1)[0] + _THREADS.split(stacks, maxsplit=1)[0]
    output = _FRAME.sub(lambda frame: "" if _IMPORTERS.match(frame[1]) else frame[0], output + "\n")
    return "\n".join(output.rstrip().splitlines()[-_LAST_LINES:])
