"""A session: one execution of the cases of a plan."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from trafficlight.clock import Clock, cooperative
from trafficlight.coordinator.opening import SessionOptions, case_planned, session_started
from trafficlight.coordinator.preparation import Preparation
from trafficlight.coordinator.provenance import source_paths
from trafficlight.coordinator.scheduling.queues import WaitingCase, WaitingCases, WaitingGroup
from trafficlight.coordinator.scheduling.scheduler import MACHINE
from trafficlight.errors import TestFileError
from trafficlight.results.case import INTERRUPTED, Outcome
from trafficlight.results.events import (
    FINAL,
    CaseCancelled,
    CaseEnded,
    CaseRerun,
    CaseWaits,
    Event,
    Problem,
    SessionEnded,
    SessionStopped,
    State,
)
from trafficlight.results.folder import ResultsFolder, remove_partial_uploads
from trafficlight.results.journal import Journal
from trafficlight.results.record import ExitCode, SessionRecord, exit_code
from trafficlight.results.writer import ResultsWriter
from trafficlight.suites.discovery import file_found
from trafficlight.suites.model import Case, Plan
from trafficlight.text import MESSAGE_LIMIT, TRACEBACK_LIMIT, truncate
from trafficlight.worker.assignment import Verdict

logger = logging.getLogger(__name__)

# Seconds that adapters may be missing once the programs that would be one keep exiting.
_AWAY = 5.0
# Seconds between two notes in the journal on why cases wait: at most, at least, and more for each case.
_REASON_EVERY, _REASON_SOON, _REASON_EACH = 30.0, 2.0, 0.05
# Cases that one such note is about, at most.
_IN_ONE_EVENT = 200

HELD = f"held ready on {MACHINE} until it has a slot"
"""Why a case waits that has been sent to another machine."""


class Session:
    """One execution of the cases of a plan.

    :param folder: where its results go; its name is the session's id.
    """

    def __init__(
        self, folder: ResultsFolder, plan: Plan, journal: Journal, clock: Clock, options: SessionOptions
    ) -> None:
        self.id = folder.id
        self.folder = folder
        self.plan = plan
        self.options = options
        self.record = SessionRecord()
        self.writer = ResultsWriter(folder, self.record, options.reporters, history=options.history)
        self.ended = asyncio.Event()
        #: The cases that wait, by what they need.
        self.waiting = WaitingCases(self.id)
        self.running: set[str] = set()
        #: What its homeservers share, while it may not be installed; None if nothing is missing.
        self.preparation: Preparation | None = None
        self._journal = journal
        self._clock = clock
        #: Why no more cases start; empty while they may.
        self.stopped = ""
        self.cancelled = False
        self._began = clock.monotonic()
        self._unsubscribe: Callable[[], None] = lambda: None
        #: Whether its end has been recorded.
        self.closing = False

    async def restore(self, events: Iterable[Event]) -> None:
        """Replay what an earlier coordinator recorded of this session, before :meth:`begin`.

        :param events: all of its events; read in a thread.
        """

        def replay() -> None:
            remove_partial_uploads(self.folder.path)
            for event in events:
                self.record.apply(event)

        await asyncio.to_thread(replay)
        self.stopped, self.cancelled = self.record.stopped, self.record.cancelled
        if self.record.started is not None:
            self._began -= (self._clock.now() - self.record.started).total_seconds()
            self.writer.resume()

    def _unfinished(self, case: Case, order: int, now: float) -> WaitingCase | None:
        """Return a case that is still to run; mark its last attempt as interrupted, if it was."""
        known = self.record.cases[case.id]
        failures = sum(
            attempt.state in (State.FAILURE, State.ERROR) and attempt.phase != INTERRUPTED
            for attempt in known.ended
        )
        last = known.attempt
        if last is not None and last.ended is None:
            if known.cancelled:
                message = f"cancelled while running: {known.cancelled}"
                self._end(case.id, last.number, Verdict(State.ERROR, message, phase=INTERRUPTED), 0.0)
                return None
            message = "interrupted: the coordinator exited while the case ran"
            if not self._interrupted(case.id, message, 0.0):
                return None
        elif known.state in FINAL and not known.retrying:
            return None
        return WaitingCase(case, order, now, last.number + 1 if last is not None else 1, failures)

    def _interrupted(self, case: str, message: str, seconds: float) -> bool:
        """End the last attempt of a case, which its machine did not survive; return whether it runs again."""
        known = self.record.cases[case]
        before = takewhile(lambda attempt: attempt.phase == INTERRUPTED, reversed(known.attempts[:-1]))
        times = 1 + len(list(before))
        again = self.options.interruptions is None or times < self.options.interruptions
        if not again and times > 1:
            message += f", {times} times in a row: the case may be what kills it"
        verdict = Verdict(State.ERROR, message, phase=INTERRUPTED)
        self._end(case, known.attempts[-1].number, verdict, seconds, will_retry=again)
        return again

    async def begin(self, unsupported: Callable[[Case], str | None]) -> None:
        """Record what is planned; when it returns, its cases may start.

        Of a restored session, only the planned cases run; those that ended keep their verdicts. Attempts that
        were running are marked as interrupted and their cases run again, unless the options limit that.

        :param unsupported: why a case is not meant to run here; None if it is.
        """
        self._unsubscribe = self._journal.subscribe(self.writer, session=self.id)
        if self.record.started is None:
            self._journal.append(session_started(self.id, self.plan, self.options))
        # Test files that were added since are not part of it. Not so if the plan was not written completely.
        complete = 0 < self.record.planned <= len(self.record.cases)
        files = {known.file for known in self.record.cases.values()}
        recorded = [one.content() for one in self.record.problems]
        for found, file, path in await asyncio.to_thread(_named, self.plan.problems):
            problem = Problem(
                session=self.id,
                file=file,
                line=found.line,
                problem=found.problem,
                hint=found.hint,
                path=path,
            )
            if problem.content() not in recorded and (file in files or not complete):
                self._journal.append(problem)
        paths = await asyncio.to_thread(source_paths, {case.file: case.path for case in self.plan.whole})
        now = self._clock.monotonic()
        async for order, case in cooperative(enumerate(self.plan.whole)):
            if case.id not in self.record.cases and not complete:
                shard, path = self.plan.elsewhere.get(case.id), paths.get(case.file, "")
                lacks = unsupported(case) if shard is None else None
                expected = self.options.expected(case.id)
                self._journal.append(case_planned(self.id, case, shard, lacks, expected, path))
            if case.id in self.record.cases and (waiting := self._unfinished(case, order, now)) is not None:
                self.waiting.add(waiting)
        planned = {case.id for case in self.plan.whole}
        async for case_id, known in cooperative(list(self.record.cases.items())):
            if case_id not in planned and known.state not in FINAL:
                message = "the test no longer exists after the restart of the coordinator"
                self._end(case_id, None, Verdict(State.ERROR, message, phase="load"), 0.0)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.running and (bool(self.stopped) or not self.waiting)

    @property
    def reruns(self) -> bool:
        """Whether its cases can get further attempts."""
        return not (self.stopped or self.done or self.closing)

    @property
    def startable(self) -> list[WaitingGroup]:
        """The groups of cases that may start; empty once the session is stopped."""
        if self.stopped:
            return []
        if (preparation := self.preparation) is None:
            return self.waiting.groups
        missing = preparation.pending.union(preparation.problems)
        return [group for group in self.waiting.groups if missing.isdisjoint(group.server_types)]

    def start(self, case: str) -> WaitingCase:
        """Move a case from waiting to running."""
        self.running.add(case)
        return self.waiting.remove(case, starts=True)

    def put_back(self, case: WaitingCase) -> None:
        """Let a case wait again of which nothing has happened yet."""
        self.running.remove(case.case.id)
        group = self.waiting.add(case)
        reason = self.stopped or group.reason
        if reason != self.record.cases[case.case.id].reason:
            self._note_reason([case.case.id], reason)

    def note_held(self, cases: Iterable[str]) -> None:
        """Record that other machines hold these cases ready."""
        self._note_reason([case for case in cases if self.record.cases[case].reason != HELD], HELD)

    async def sweep(
        self,
        deadline: float,
        adapters_deadline: float,
        unsupported: Callable[[Case], str] = lambda _: "",
        absent: Callable[[Case], str] = lambda _: "",
        starting: Callable[[Case], bool] = lambda _: False,
        *,
        all_registered: bool = False,
        programs_failed: bool = False,
    ) -> bool:
        """Record why cases wait, and end those whose deadline has expired; return whether there were any.

        :param deadline: seconds that a case waits while adapters and providers together cannot satisfy it.
        :param adapters_deadline: seconds that it waits while that is for lack of adapters, unless the lab is
            starting some that it needs.
        :param unsupported: which declared action the adapters for a case lack; empty if that is not why it
            waits.
        :param absent: why no adapter will register that a case lacks: it ends at once; empty if one may.
        :param starting: whether the lab is starting adapters for a case.
        :param all_registered: whether no other adapters will register: unsupported cases end at once.
        :param programs_failed: whether no adapter will register that is not being started.
        """
        now, expired = self._clock.monotonic(), False
        for group in self.waiting.groups:
            if self.stopped:
                break
            expired = await self._check_prepared(group, now, absent) or expired
            if not group.cases:
                continue
            first = next(iter(group.cases.values())).case
            lacks = group.no_adapter_since is not None
            starts = lacks and starting(first)
            group.set_patience(max(deadline, adapters_deadline) if starts else adapters_deadline, now)
            patience = group.patience
            if lacks and all_registered and unsupported(first):
                patience = 0.0
            elif programs_failed and not starts:
                patience = min(patience, _AWAY)
            if (seconds := group.expired_deadline(now, deadline, patience)) is not None:
                async for case in cooperative(list(group.cases)):
                    # By now an adapter may have registered, or the session may have been stopped.
                    still = group.expired_deadline(now, deadline, patience) is not None
                    if case in group.cases and still and not self.stopped:
                        expired = True
                        if lacking := unsupported(group.cases[case].case):
                            self.end_waiting(case, State.SKIPPED, lacking, phase="prepare")
                            continue
                        message = f"timed out after {seconds:g} s: {group.reason}"
                        self.end_waiting(case, State.ERROR, message)
            elif (reason := group.unreported_reason(now, _pause(len(group.cases)))) is not None:
                self._note_reason(list(group.cases), reason)
        return expired

    async def _check_prepared(self, group: WaitingGroup, now: float, absent: Callable[[Case], str]) -> bool:
        """Note that a group waits for what is being prepared; end its cases if what they need never comes."""
        problem = ""
        if group.no_adapter_since is not None and (first := next(iter(group.cases.values()), None)):
            problem = absent(first.case)
        if (preparation := self.preparation) is not None and not problem:
            problems = preparation.problems
            problem = next((problems[one] for one in group.server_types if one in problems), "")
        if problem:
            async for case in cooperative(list(group.cases)):
                if case in group.cases and not self.stopped:
                    self.end_waiting(case, State.ERROR, problem, phase="prepare")
            return True
        if preparation is not None and (
            pending := sorted(preparation.pending.intersection(group.server_types))
        ):
            reason = f"{' and '.join(pending)} {'are' if len(pending) > 1 else 'is'} being prepared"
            group.note_waiting(reason, now, unsatisfiable=False, no_adapter=False)
        return False

    def _note_reason(self, cases: Sequence[str], reason: str) -> None:
        """Record why cases wait, in few events: there may be thousands of cases."""
        for first in range(0, len(cases), _IN_ONE_EVENT):
            some = tuple(cases[first : first + _IN_ONE_EVENT])
            self._journal.append(CaseWaits(session=self.id, reason=reason, cases=some))

    def end_waiting(self, case: str, state: State, message: str, *, phase: str = "waiting") -> None:
        """End a waiting case without an attempt.

        :param phase: ``waiting``, or ``prepare`` if the lab cannot provide what the case needs.
        """
        self.waiting.remove(case)
        self._end(case, None, Verdict(state, message, phase=phase), 0.0)

    def cancel_case(self, case: str, attempt: int | None, reason: str, *, waits: bool) -> None:
        """Record that a user cancels a case; one that waits ends, and keeps the verdict that it has.

        :param attempt: the one that runs; None if nothing is recorded of one.
        :param waits: whether the case waits.
        """
        self._journal.append(CaseCancelled(session=self.id, case=case, attempt=attempt, reason=reason))
        if waits:
            kept = self.kept(case, reason)
            self.end_waiting(case, kept.state, kept.message, phase=kept.phase)

    def kept(self, case: str, reason: str) -> Verdict:
        """Return the verdict that a case keeps which is cancelled before anything has happened.

        :param reason: why it is skipped, if it has none.
        """
        last = self.record.cases[case].end
        if last is None:
            return Verdict(State.SKIPPED, reason, phase="waiting")
        return Verdict(last.state, last.message, phase=last.phase)

    def rerun(self, case: Case, order: int, reason: str) -> None:
        """Let a case that has ended wait for a further attempt.

        :param order: its position in the plan.
        """
        self._journal.append(CaseRerun(session=self.id, case=case.id, reason=reason))
        if (waiting := self._unfinished(case, order, self._clock.monotonic())) is not None:
            self.waiting.add(waiting)

    def reasons(self) -> list[str]:
        """Return the distinct reasons why its cases wait."""
        return list(dict.fromkeys(group.reason for group in self.waiting.groups if group.reason))

    def finish(
        self,
        case: WaitingCase,
        verdict: Verdict,
        seconds: float,
        *,
        by_hand: bool = False,
        unclaimed: bool = False,
        number: int | None = None,
    ) -> None:
        """Record the verdict of an attempt; the case ends, or waits for its next attempt.

        :param by_hand: whether an operator cancelled the case; it has no consequences for the session then.
        :param unclaimed: whether an adapter never began the case, and another one could: it runs again, once.
        :param number: the attempt's number; None if it ends without one.
        """
        id, known = case.case.id, self.record.cases[case.case.id]
        self.running.remove(id)
        if verdict.phase == INTERRUPTED and not by_hand and not self.stopped:
            if self._interrupted(id, verdict.message, seconds):
                now = self._clock.monotonic()
                self.waiting.add(replace(case, since=now, attempt=case.attempt + 1))
            return
        failed = verdict.state in (State.FAILURE, State.ERROR)
        failures = case.failures + failed
        counts = failed and not (known.expected is not None and known.expected.covers(verdict.state))
        before = sum(one.state is State.ERROR and one.phase != INTERRUPTED for one in known.ended)
        requeued = unclaimed and case.attempt == 1
        tried = failures <= self.options.deflake or (
            verdict.state is State.ERROR and before < self.options.retry_errors
        )
        again = counts and (tried or requeued) and not self.stopped and not by_hand
        self._end(id, number, verdict, seconds, will_retry=again)
        if again:
            now, failures = self._clock.monotonic(), failures - requeued
            self.waiting.add(WaitingCase(case.case, case.order, now, case.attempt + 1, failures))
        elif counts and not by_hand and self._has_failed_enough():
            most = self.options.max_failures
            which = "the first failure was" if most == 1 else f"{most} failures were"
            self._stop_permanently(f"{id} ended in {verdict.state} and {which} to end the session")

    def _has_failed_enough(self) -> bool:
        if self.options.max_failures is None:
            return False
        outcomes = self.record.outcomes
        return outcomes[Outcome.FAILURE] + outcomes[Outcome.ERROR] >= self.options.max_failures

    def stop(self, reason: str) -> None:
        """Start no more cases."""
        if not self.stopped:
            self.stopped = reason
            self._note_reason(list(self.waiting), reason)

    def cancel(self, reason: str) -> None:
        """Start no more cases, because the session was cancelled."""
        self.cancelled = True
        self._stop_permanently(reason)

    def _stop_permanently(self, reason: str) -> None:
        """Start no more cases, also after the session is resumed."""
        if not self.stopped:
            self._journal.append(SessionStopped(session=self.id, reason=reason, cancelled=self.cancelled))
        self.stop(reason)

    def deadline_exceeded(self) -> str | None:
        """Return why the session must end now; None while it need not."""
        deadline = self.options.deadline
        if deadline is None or self.stopped or self.ended.is_set():
            return None
        if self._clock.monotonic() - self._began < deadline:
            return None
        return f"the session took longer than {deadline:g} s, its deadline"

    async def release(self) -> None:
        """Close its files without ending it, so that the next coordinator can resume it."""
        await self._stop_preparation()
        self._unsubscribe()
        await asyncio.to_thread(self.writer.close)

    async def close(self, *, interrupted: bool) -> None:
        """End the session; :attr:`ended` is set when its results are complete, or cannot be completed."""
        if self.closing:
            await self.ended.wait()
            return
        self.closing = True
        try:
            await self._stop_preparation()
            code = exit_code(self.record, interrupted=interrupted)
            counts = self.record.counts
            self._journal.append(
                SessionEnded(session=self.id, counts=counts, exit_code=int(code), interrupted=interrupted)
            )
            self._unsubscribe()
            await asyncio.to_thread(self.writer.close)
            await asyncio.to_thread(self.folder.finish)
        except Exception as error:
            logger.exception("the results of session %s are not complete", self.id)
            self.writer.incomplete = self.writer.incomplete or str(error)
        finally:
            self.ended.set()

    async def _stop_preparation(self) -> None:
        if self.preparation is not None:
            await self.preparation.close()

    @property
    def exit_code(self) -> ExitCode:
        """The exit code for the process; an error of the lab if the results are incomplete."""
        code = exit_code(self.record)
        return ExitCode.LAB_ERROR if self.writer.incomplete and code is ExitCode.SUCCESS else code

    def _end(
        self,
        case: str,
        attempt: int | None,
        verdict: Verdict,
        seconds: float,
        *,
        will_retry: bool = False,
    ) -> None:
        self._journal.append(
            CaseEnded(
                session=self.id,
                case=case,
                attempt=attempt,
                state=verdict.state,
                message=truncate(verdict.message, MESSAGE_LIMIT),
                traceback=truncate(verdict.traceback, TRACEBACK_LIMIT),
                phase=verdict.phase,
                seconds=seconds,
                will_retry=will_retry,
                expected=self.record.cases[case].expected,
                source=truncate(verdict.source, MESSAGE_LIMIT),
            )
        )


def _pause(cases: int) -> float:
    """Return the seconds between two records of why cases wait."""
    return min(_REASON_EVERY, _REASON_SOON + _REASON_EACH * cases)


def _named(problems: Iterable[TestFileError]) -> list[tuple[TestFileError, str, str]]:
    """Return problems with the names of their files in case ids, and their paths. Blocks."""
    named = [(one, file_found(one.path, Path.cwd()).name) for one in problems]
    paths = source_paths({name: one.path for one, name in named})
    return [(one, name, paths.get(name, "")) for one, name in named]
