"""What client types with a `match` of their own say of adapters: asked in a worker, and remembered."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from trafficlight.coordinator.supply import MatchError
from trafficlight.coordinator.worker_process import WorkerDied, WorkerProcess
from trafficlight.coordinator.workers import WorkerPool, ending_of
from trafficlight.suites.portable import OwnMatch
from trafficlight.worker.messages import Match, Matched

__all__ = ["Matches"]

logger = logging.getLogger(__name__)

# Answers that are remembered: one for each type and each thing that adapters say of themselves.
_MOST = 10_000

_Key: TypeAlias = tuple[Hashable, str]


@dataclass(frozen=True, slots=True)
class _Question:
    kind: OwnMatch
    registration: Mapping[str, Any]


class Matches:
    """Answers from memory, and finds out meanwhile what it does not know.

    A type that takes its worker down, or does not answer, is not asked again.

    :param deadline: seconds that an answer may take, with the import of the type's file.
    :param answered: called when something is known that was asked for before.
    """

    def __init__(
        self, pool: WorkerPool, deadline: float, answered: Callable[[], None] = lambda: None
    ) -> None:
        self.answered = answered
        self._pool = pool
        self._deadline = deadline
        self._answers: dict[_Key, Matched] = {}
        self._lost: dict[Hashable, Matched] = {}
        self._open: dict[_Key, _Question] = {}
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking

    def __call__(self, kind: OwnMatch, registration: Mapping[str, Any]) -> bool:
        """Return whether a type matches an adapter.

        :raises MatchError: it is not known yet, or cannot be known; the message says which.
        """
        if kind.sealed.problem:
            raise MatchError(f"its match() cannot be asked: {kind.sealed.problem}")
        key = (kind.identity, repr(registration))
        if (answer := self._lost.get(kind.identity) or self._answers.get(key)) is None:
            self._open.setdefault(key, _Question(kind, registration))
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(), name="ask what types match")
            raise MatchError("its match() is being asked")
        if answer.problem:
            raise MatchError(f"its match() {answer.problem}")
        return answer.matches

    async def _ask(self) -> None:
        """Ask all that is open, in one worker as long as that lives."""
        worker: WorkerProcess | None = None
        try:
            while self._open:
                key, question = next(iter(self._open.items()))
                try:
                    worker = worker or await self._pool.take()
                    answer, lives = await self._answer(worker, question)
                except WorkerDied as died:  # it did not even start
                    logger.error("nobody can be asked what types match: %s", died)
                    self._open.clear()  # whoever wants to know asks again
                    return
                self._learn(key, answer, lost=not lives)
                if not lives:
                    ended, worker = worker, None
                    await self._pool.give_back(ended, reusable=False)
        finally:
            self._asking = None
            if worker is not None:
                await self._pool.give_back(worker, reusable=not self._open)

    async def _answer(self, worker: WorkerProcess, question: _Question) -> tuple[Matched, bool]:
        """Return an answer, and whether the worker is still good for others."""
        kind = question.kind
        worker.send(Match(kind.path, kind.sealed.content, dict(question.registration)))
        try:
            async with asyncio.timeout(self._deadline):
                while not isinstance(message := await worker.next(), Matched):
                    logger.error("a worker sent what nobody expects: %s", message)
        except TimeoutError:
            return Matched(matches=False, problem=f"did not answer within {self._deadline:g} s"), False
        except WorkerDied:
            how = await ending_of(worker) or "its connection is closed"
            return Matched(matches=False, problem=f"ended its process: {how}"), False
        return message, True

    def _learn(self, key: _Key, answer: Matched, *, lost: bool) -> None:
        question = self._open.pop(key)
        if answer.problem:
            logger.warning("the client type %s: its match() %s", question.kind.name(), answer.problem)
        if lost:
            self._lost[question.kind.identity] = answer
            self._open = {key: one for key, one in self._open.items() if one.kind.identity not in self._lost}
        while len(self._answers) >= _MOST:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = answer
        self.answered()
