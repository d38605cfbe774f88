"""What client types with a `match` of their own say of adapters: asked in a worker, and remembered."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from trafficlight.clock import Clock, SystemClock
from trafficlight.coordinator.scheduling.inventory import MatchError
from trafficlight.coordinator.workers.pool import WorkerPool, ending_of
from trafficlight.coordinator.workers.process import WorkerDied, WorkerProcess
from trafficlight.suites.portable import OwnMatch
from trafficlight.worker.messages import Match, Matched

logger = logging.getLogger(__name__)

# Answers that are remembered: one for each type and each thing that adapters say of themselves.
_MOST = 10_000

# One type of one file, and what an adapter says of itself.
_Key: TypeAlias = tuple[Hashable, str]


@dataclass(slots=True)
class _Question:
    kind: OwnMatch
    registration: Mapping[str, Any]
    again: bool = False


class RemoteMatchCache:
    """Answers from memory, and finds out meanwhile what it does not know: each file has a worker of its own.

    A type that takes its worker down twice, or does not answer, is not asked again.

    :param deadline: seconds that an answer may take, with the import of the type's file.
    """

    def __init__(self, pool: WorkerPool, deadline: float, clock: Clock | None = None) -> None:
        #: Called when something is known that was asked for before.
        self.answered: Callable[[], None] = lambda: None
        self._clock = clock or SystemClock()
        self._pool = pool
        self._deadline = deadline
        self._answers: dict[_Key, Matched] = {}
        self._lost: dict[Hashable, Matched] = {}
        self._open: dict[Path, dict[_Key, _Question]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    def __call__(self, kind: OwnMatch, registration: Mapping[str, Any]) -> bool:
        """Return whether a type matches an adapter.

        :raises MatchError: it is not known yet, or cannot be known; the message says which.
        """
        if kind.sealed.problem:
            raise MatchError(f"its match() cannot be evaluated: {kind.sealed.problem}")
        key = (kind.identity, repr(registration))
        if (answer := self._lost.get(kind.identity) or self._answers.get(key)) is None:
            if kind.path not in self._open:
                self._open[kind.path] = {}
                task = asyncio.create_task(self._ask(kind.path), name=f"ask what types match: {kind.path}")
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            self._open[kind.path].setdefault(key, _Question(kind, registration))
            raise MatchError("evaluating its match()")
        if answer.problem:
            raise MatchError(f"its match() {answer.problem}")
        return answer.matches

    async def _ask(self, path: Path) -> None:
        """Ask the types of a file all that is open, in one worker as long as that lives."""
        worker: WorkerProcess | None = None
        questions = self._open[path]
        try:
            while questions:
                key, question = next(iter(questions.items()))
                worker = worker or await self._pool.take()
                answer = await self._answer(worker, question)
                if answer is not None:
                    del questions[key]
                    self._learn(key, answer)
                else:
                    ended, worker = worker, None
                    await self._lose(ended, question, questions)
        except WorkerDied as died:  # it did not even start; whoever wants to know asks again
            logger.error("nobody can be asked what types match: %s", died)
        finally:
            done = not questions
            del self._open[path]
            if worker is not None:
                await self._pool.give_back(worker, reusable=done)

    async def _answer(self, worker: WorkerProcess, question: _Question) -> Matched | None:
        """Return an answer; None where the worker is lost with it."""
        kind = question.kind
        worker.send(Match(kind.path, kind.sealed.content, dict(question.registration)))
        with contextlib.suppress(TimeoutError, WorkerDied):
            async with self._clock.timeout(self._deadline):
                while not isinstance(message := await worker.next(), Matched):
                    logger.error("a worker sent what nobody expects: %s", message)
            return message
        return None

    async def _lose(
        self, worker: WorkerProcess, question: _Question, questions: dict[_Key, _Question]
    ) -> None:
        """End a worker that a question has cost; what ran in it before may have done that the first time."""
        how = await ending_of(worker)
        await self._pool.give_back(worker, reusable=False)
        if how and not question.again:
            question.again = True
            return
        if worker.unread:
            problem = f"sent to the lab what it does not take: {worker.unread}"
        else:
            problem = f"ended its process: {how}" if how else f"did not answer within {self._deadline:g} s"
        identity = question.kind.identity
        self._lost[identity] = Matched(matches=False, problem=problem)
        for key in [key for key, one in questions.items() if one.kind.identity == identity]:
            del questions[key]
        logger.warning("the client type %s: its match() %s", question.kind.name(), problem)
        self.answered()

    def _learn(self, key: _Key, answer: Matched) -> None:
        while len(self._answers) >= _MOST:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = answer
        self.answered()
