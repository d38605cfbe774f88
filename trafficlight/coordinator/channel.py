"""The mailbox of one adapter: at most one outstanding action, delivered until it is answered, and `kill`.

The lab calls :meth:`Channel.perform`; the adapter polls, responds and reports errors. Independent of HTTP.
"""

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from trafficlight.clock import Clock, Timer, cancel_all, release
from trafficlight.errors import ActionError, AdapterError, DeadlineError, LabError, UnsupportedError
from trafficlight.protocol import EXIT, IDLE, ActionMessage, ErrorBody, JsonObject
from trafficlight.results.journal import excerpt
from trafficlight.text import brief

# What adapters of the original send as a path that they do not know.
_NO_PATHS = frozenset({"unknown", "tbd"})
# What need not wait for the action before it: that one ends by it.
_URGENT = frozenset({"kill"})
# Characters of an action's data that messages quote.
_QUOTED = 100
# Completed actions that messages quote.
_REMEMBERED = 3
# Ids of answered actions, to recognise repeated responses.
_ANSWERED = 100
# The most by which a hold is shortened, as a share of it, so that many held polls do not end together.
_JITTER = 0.1
# Milliseconds after which a superseded poller polls again, so that two of them do not chase each other.
_SUPERSEDED_DELAY = 1000
# Repeats of an action after which the adapter seems not to know it.
_MOST_REPEATS = 10
# So many superseded polls within so many seconds: two processes seem to share one uuid.
_TWO_POLLERS, _AT_ONCE = 3, 5.0


class Receipt(StrEnum):
    """How a response was received, as the wire spells it."""

    ACCEPTED = "accepted"  # it answered the outstanding action
    REPEATED = "repeated"  # its action was answered before; nothing changed
    UNSOLICITED = "unasked"  # no action was outstanding, and it named none
    STALE = "stale"  # it names an action that is not outstanding


# What an adapter reports, or what is wrong with it.
AdapterFailure: TypeAlias = LabError | ActionError | UnsupportedError
# How an action ended: with a response, verbatim, or with what went wrong.
ActionResult: TypeAlias = JsonObject | AdapterFailure


@dataclass(slots=True)
class Outstanding:
    """The action that waits for its response.

    :param on_end: called with the result and the seconds it took, before anything else uses the result.
    """

    message: ActionMessage
    answer: "asyncio.Future[JsonObject]"
    asked: float
    on_end: Callable[[ActionResult, float], None]
    delivered: float | None = None
    repeats: int = 0
    refused: str = ""
    timer: Timer | None = None


@dataclass(slots=True)
class Channel:
    """The mailbox of one adapter.

    :param clock: the monotonic clock for deadlines, holds, and ages in messages.
    :param hold_repeat: seconds that a poll is held before an action is delivered again.
    :param on_delivered: called with the message when it is first delivered.
    :param on_rivals: called once, when several processes seem to poll at the same time.
    :ivar failure: the error that every action fails with, if any.
    :ivar exit_reason: why polls are answered with `exit`; None while they are not.
    """

    clock: Clock
    hold_repeat: float = 1.0
    on_delivered: Callable[[ActionMessage], None] | None = None
    on_rivals: Callable[[], None] | None = None
    _outstanding: Outstanding | None = None
    _urgent: Outstanding | None = None
    _superseded: "deque[float]" = field(default_factory=lambda: deque(maxlen=_TWO_POLLERS))
    failure: AdapterFailure | None = field(default=None, init=False)
    exit_reason: str | None = field(default=None, init=False)
    _polls: int = 0
    _held: "asyncio.Future[None] | None" = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _urgent_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _answered: "deque[str]" = field(default_factory=lambda: deque(maxlen=_ANSWERED))
    _completed: "deque[str]" = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _unmet: "deque[Outstanding]" = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    # Called by the lab

    async def perform(
        self,
        action: str,
        data: JsonObject,
        timeout: float,
        *,
        id: str | None = None,
        on_end: Callable[[ActionResult, float], None] = lambda outcome, seconds: None,
    ) -> JsonObject:
        """Send an action and return its response, verbatim. Concurrent calls wait, except of `kill`.

        :param timeout: seconds from the call's turn to the response.
        :param id: the action's id; random by default.
        :param on_end: called with the result and the seconds it took, before the adapter's response is
            acknowledged. Not called if the caller is cancelled.
        :raises ActionError: the client failed.
        :raises UnsupportedError: the adapter does not support the action.
        :raises AdapterError: the adapter failed, or has ended.
        :raises DeadlineError: no response in time; the message says what the adapter did last.
        """
        urgent = action in _URGENT
        async with self._urgent_turn if urgent else self._turn:
            message = ActionMessage(action=action, data=data, id=id or secrets.token_hex(8))
            answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
            outstanding = Outstanding(message, answer, self.clock.monotonic(), on_end)
            if self.failure is not None:
                self._settle(outstanding, self.failure)
            elif self.exit_reason is not None:
                self._settle(
                    outstanding, AdapterError(f"was asked to exit before ({self.exit_reason})", action=action)
                )
            if urgent:
                self._urgent = outstanding
            else:
                self._outstanding = outstanding
            self._wake()
            # Not `asyncio.timeout`, which drops a response that comes in the same turn of the loop.
            outstanding.timer = self.clock.call_later(timeout, self._late, outstanding, timeout)
            ending = "cancelled"
            try:
                response = await outstanding.answer
                ending = "answered"
                return response
            except DeadlineError:
                ending = "no answer"
                raise
            except (ActionError, LabError, UnsupportedError):
                ending = "failed"
                raise
            finally:
                if outstanding.timer is not None:
                    outstanding.timer.cancel()
                if urgent:
                    self._urgent = None
                else:
                    self._outstanding = None
                if outstanding.message.id not in self._answered:
                    self._unmet.append(outstanding)
                seconds = self.clock.monotonic() - outstanding.asked
                self._completed.append(f"{action} ({ending} after {seconds:.1f} s)")

    def close(self, reason: str) -> None:
        """Answer every poll with `exit` from now on. Idempotent: the first reason is kept."""
        if self.exit_reason is None:
            self.exit_reason = reason
        for outstanding in self._all:
            self._settle(outstanding, AdapterError(f"was asked to exit ({self.exit_reason})"))
        self._wake()

    def fail(self, error: AdapterFailure) -> bool:
        """Fail the outstanding action and all later ones.

        :return: whether an action was outstanding, whose caller gets the error.
        """
        if self.failure is None:
            self.failure = error
        settled = [self._settle(outstanding, error) for outstanding in self._all]
        return any(settled)

    # Called by the adapter

    async def poll(
        self,
        wait: float,
        abandoned: Callable[[], Coroutine[Any, Any, None]] | None = None,
        *,
        busy: bool = False,
    ) -> ActionMessage:
        """Return the next thing to do: held until there is something, or for `wait` seconds.

        A newer poll supersedes this one, which returns `idle` then.

        :param abandoned: called when the poll is held; its coroutine ends when the adapter has closed the
            connection. The poll returns `idle` then, and no action is lost.
        :param busy: whether the adapter performs an action and asks for what ends it only.
        """
        deadline = self.clock.monotonic() + wait * (1 - random.random() * _JITTER)  # noqa: S311
        self._polls += 1
        mine = self._polls
        self._wake()
        repeat_at = None
        gone: asyncio.Task[None] | None = None
        try:
            while True:
                if gone is not None and gone.done():
                    return _idle(0)
                if self.exit_reason is not None:
                    return ActionMessage(action=EXIT, data={"reason": self.exit_reason})
                if mine != self._polls:
                    if not busy:
                        self._note_superseded()
                    return _idle(_SUPERSEDED_DELAY)
                outstanding, now = _open(self._urgent), self.clock.monotonic()
                if outstanding is None and not busy:
                    outstanding = self._unanswered()
                if outstanding is None:
                    until, repeat_at = deadline, None
                elif outstanding.delivered is None:
                    return self._deliver(outstanding)
                else:
                    # Held, so that an adapter that does not know the action cannot spin.
                    repeat_at = repeat_at or min(now + self.hold_repeat, deadline)
                    until = repeat_at
                if now >= until:
                    return _idle(0) if outstanding is None else self._deliver(outstanding)
                if gone is None and abandoned is not None:
                    gone = asyncio.create_task(abandoned(), name="held poll")
                    gone.add_done_callback(lambda _: self._wake())
                await self._hold(until - now)
        finally:
            if gone is not None:
                await cancel_all(gone)

    def respond(self, id: str | None, response: JsonObject) -> Receipt:
        """Receive the response to the outstanding action.

        :param id: the action that it answers; None from adapters that send no ids.
        """
        if id is not None and id in self._answered:
            return Receipt.REPEATED
        outstanding = self._unanswered()
        urgent = _open(self._urgent)
        if urgent is not None and urgent.delivered is not None and id in (None, urgent.message.id):
            outstanding = urgent
        if outstanding is None or (id is None and outstanding.delivered is None):
            return Receipt.UNSOLICITED if id is None else Receipt.STALE
        if id is not None and id != outstanding.message.id:
            return Receipt.STALE
        assert outstanding.message.id is not None
        self._answered.append(outstanding.message.id)
        if response.get("response") == "error":
            details = str(response.get("error") or response.get("details") or "")
            if not details:
                asked = brief(excerpt(outstanding.message.data), _QUOTED)
                details = "the client answered: error" + (f" ({asked})" if asked else "")
            path = _path(str(response.get("path") or ""))
            self._settle(outstanding, ActionError(details, action=outstanding.message.action, path=path))
        else:
            self._settle(outstanding, response)
        return Receipt.ACCEPTED

    def too_late(self, id: str | None) -> tuple[str, float] | None:
        """Return an action that ended without a response, and the seconds since it was asked for.

        Once for each action.
        """
        for outstanding in self._unmet:
            if outstanding.message.id == id:
                self._unmet.remove(outstanding)
                return outstanding.message.action, self.clock.monotonic() - outstanding.asked
        return None

    def refuse(self, why: str, *, final: bool = False) -> None:
        """Note that an answer to the outstanding action was refused.

        :param final: whether no other answer is to be expected, so that the action fails at once.
        """
        if (outstanding := self._unanswered()) is None or outstanding.delivered is None:
            return
        outstanding.refused = why
        if final:
            self._settle(outstanding, AdapterError(f"its answer was refused: {why}"))

    def report(self, error: ErrorBody) -> AdapterFailure:
        """Return an adapter's error report as an exception, for :meth:`fail`.

        A report of type ``unknown`` fails the outstanding action; without one, the adapter is to blame.
        """
        outstanding = self._unanswered()
        action = outstanding.message.action if outstanding is not None else ""
        details = error.details or f"reported an error of type {error.type!r} without details"
        if error.type == "unsupported":
            return UnsupportedError(f"{action}: {details.removeprefix(f'{action}: ')}" if action else details)
        stated = error.type if "type" in error.model_fields_set else ""
        of_action = stated == "action" or (stated == "unknown" and outstanding is not None)
        kind = ActionError if of_action else AdapterError
        return kind(details, action=action, path=_path(error.path))

    # State

    @property
    def polling(self) -> bool:
        """Whether a poll is held."""
        return self._held is not None

    @property
    def outstanding(self) -> ActionMessage | None:
        """The action that waits for its response, if any."""
        found = self._unanswered()
        return found.message if found is not None else None

    def activity_summary(self) -> str:
        """Return in one line what the adapter did last."""
        now = self.clock.monotonic()
        parts = []
        if (found := self._unanswered()) is not None:
            taken = "delivered" if found.delivered is not None else "not fetched by the adapter"
            parts.append(f"{found.message.action} is outstanding for {now - found.asked:.1f} s ({taken})")
        if self._completed:
            parts.append("before that: " + ", ".join(self._completed))
        return "; ".join(parts) or "no action was sent to it"

    @property
    def _all(self) -> list[Outstanding]:
        return [one for one in (self._urgent, self._outstanding) if one is not None]

    def _unanswered(self) -> Outstanding | None:
        return _open(self._outstanding)

    def _deliver(self, outstanding: Outstanding) -> ActionMessage:
        first = outstanding.delivered is None
        if not first and self._repeated_too_often(outstanding):
            return _idle(0)
        outstanding.delivered = self.clock.monotonic()
        if first and self.on_delivered is not None:
            self.on_delivered(outstanding.message)
        return outstanding.message

    def _repeated_too_often(self, outstanding: Outstanding) -> bool:
        """Count a repeat of an action; fail the action if it was repeated too often, and return that."""
        assert outstanding.delivered is not None
        if self.clock.monotonic() - outstanding.delivered >= self.hold_repeat / 2:  # others come too quickly
            outstanding.repeats += 1
        if outstanding.repeats <= _MOST_REPEATS:
            return False
        what = f"asked again {_MOST_REPEATS} times without answering"
        if outstanding.refused:
            what += f" (its answer was refused: {outstanding.refused})"
        else:
            what += ": it does not seem to know the action"
        self._settle(outstanding, AdapterError(what, action=outstanding.message.action))
        return True

    def _note_superseded(self) -> None:
        now = self.clock.monotonic()
        self._superseded.append(now)
        often = len(self._superseded) == _TWO_POLLERS and now - self._superseded[0] <= _AT_ONCE
        if often and self.on_rivals is not None:
            self.on_rivals()
            self.on_rivals = None

    async def _hold(self, seconds: float) -> None:
        """Wait until something changes."""
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held = held
        timer = self.clock.call_later(seconds, release, held)
        try:
            await held
        finally:
            timer.cancel()
            if self._held is held:
                self._held = None

    def _wake(self) -> None:
        if self._held is not None:
            release(self._held)

    def _late(self, outstanding: Outstanding, timeout: float) -> None:
        self._settle(outstanding, DeadlineError(self._timeout_message(outstanding, timeout)))

    def _settle(self, outstanding: Outstanding, outcome: ActionResult) -> bool:
        """End an action unless it has ended; return whether this call did."""
        if outstanding.answer.done():
            return False
        outstanding.on_end(outcome, self.clock.monotonic() - outstanding.asked)
        if isinstance(outcome, Exception):
            outstanding.answer.set_exception(outcome)
        else:
            outstanding.answer.set_result(outcome)
        return True

    def _timeout_message(self, outstanding: Outstanding, timeout: float) -> str:
        action = outstanding.message.action
        if outstanding.delivered is None:
            what = f"did not fetch {action} within {timeout:g} s"
        else:
            what = f"did not answer {action} within {timeout:g} s"
        if outstanding.refused:
            what += f"; its answer was refused: {outstanding.refused}"
        before = ", ".join(self._completed)
        return f"{what} (before that: {before})" if before else what


def _open(found: Outstanding | None) -> Outstanding | None:
    return found if found is not None and not found.answer.done() else None


def _idle(delay: int) -> ActionMessage:
    return ActionMessage(action=IDLE, data={"delay": delay})


def _path(stated: str) -> str:
    return "" if stated.strip().lower() in _NO_PATHS else stated
