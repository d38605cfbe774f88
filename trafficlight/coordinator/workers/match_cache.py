"""Results of client types that define their own `match`: evaluated in a worker, and cached."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from trafficlight.client_types import ClientTypeSpec, CustomMatch
from trafficlight.clock import Clock, SystemClock, cancel_all
from trafficlight.coordinator.scheduling.inventory import MatchError
from trafficlight.coordinator.workers.pool import WorkerPool, exit_status
from trafficlight.coordinator.workers.process import WorkerDied, WorkerProcess
from trafficlight.worker.messages import MatchRequest, MatchResponse

logger = logging.getLogger(__name__)

# Results in the cache: one for each type and each distinct registration.
_CACHE_SIZE = 10_000

_Key: TypeAlias = tuple[ClientTypeSpec, str]


@dataclass(slots=True)
class _Question:
    kind: ClientTypeSpec
    custom: CustomMatch
    registration: Mapping[str, Any]


class RemoteMatchCache:
    """Returns cached results, and evaluates missing ones in the background: one worker for each file.

    A type that ends its process, or times out, is not evaluated again.

    :param deadline: seconds for one result, with the import of the type's file.
    """

    def __init__(self, pool: WorkerPool, deadline: float, clock: Clock | None = None) -> None:
        self.answered: Callable[[], None] = lambda: None
        self._clock = clock or SystemClock()
        self._pool = pool
        self._deadline = deadline
        self._results: dict[_Key, MatchResponse] = {}
        self._failed: dict[ClientTypeSpec, MatchResponse] = {}
        self._open: dict[Path, dict[_Key, _Question]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_all(*self._tasks)

    def __call__(self, kind: ClientTypeSpec, registration: Mapping[str, Any]) -> bool:
        """Return whether a type matches an adapter.

        :raises MatchError: that is not known yet, or cannot be evaluated; the message says which.
        """
        key = (kind, repr(registration))
        if (result := self._failed.get(kind) or self._results.get(key)) is None:
            self._ask(kind, key, registration)
            raise MatchError("evaluating its match()")
        if result.problem:
            raise MatchError(f"its match() {result.problem}")
        return result.matches

    def _ask(self, kind: ClientTypeSpec, key: _Key, registration: Mapping[str, Any]) -> None:
        custom = kind.custom
        if custom is None:
            return
        if custom.path not in self._open:
            self._open[custom.path] = {}
            task = asyncio.create_task(self._evaluate(custom.path), name=f"evaluate match() of {custom.path}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._open[custom.path].setdefault(key, _Question(kind, custom, registration))

    async def _evaluate(self, path: Path) -> None:
        """Evaluate all open questions of a file, in one worker as long as that lives."""
        worker: WorkerProcess | None = None
        questions = self._open[path]
        try:
            while questions:
                key, question = next(iter(questions.items()))
                worker = worker or await self._pool.acquire(None)
                result = await self._result(worker, question)
                if result is not None:
                    del questions[key]
                    self._store(key, result)
                else:
                    lost, worker = worker, None
                    await self._fail(lost, question, questions)
        except WorkerDied as died:  # it did not even start; the next call tries again
            logger.error("no match() can be evaluated: %s", died)
        finally:
            del self._open[path]
            if worker is not None:
                await self._pool.release(worker)

    async def _result(self, worker: WorkerProcess, question: _Question) -> MatchResponse | None:
        """Return a result; None if the worker is lost."""
        custom, name = question.custom, question.kind.type_name
        worker.send(MatchRequest(custom.path, custom.class_name, custom.role, name, question.registration))
        with contextlib.suppress(TimeoutError, WorkerDied):
            async with self._clock.timeout(self._deadline):
                while not isinstance(message := await worker.next(), MatchResponse):
                    logger.error("a worker sent an unexpected message: %s", message)
            return message
        return None

    async def _fail(
        self, worker: WorkerProcess, question: _Question, questions: dict[_Key, _Question]
    ) -> None:
        """Note that a type does not return a result, and release its worker."""
        how = await exit_status(worker)
        await self._pool.release(worker)
        if worker.rejected:
            problem = f"sent a message that the coordinator does not accept: {worker.rejected}"
        else:
            problem = f"ended its process: {how}" if how else f"did not return within {self._deadline:g} s"
        self._failed[question.kind] = MatchResponse(matches=False, problem=problem)
        for key in [key for key, one in questions.items() if one.kind == question.kind]:
            del questions[key]
        logger.warning("the client type %s: its match() %s", question.kind.type_name, problem)
        self.answered()

    def _store(self, key: _Key, result: MatchResponse) -> None:
        while len(self._results) >= _CACHE_SIZE:
            del self._results[next(iter(self._results))]
        self._results[key] = result
        self.answered()
