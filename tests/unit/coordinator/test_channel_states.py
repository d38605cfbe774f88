"""Any order of what lab and adapter do: at most one action, no answer lost or given twice, no hang."""

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trafficlight.clock import SystemClock
from trafficlight.coordinator.channel import Channel, Receipt
from trafficlight.errors import ActionError, AdapterError, DeadlineError
from trafficlight.protocol import EXIT, IDLE, ActionMessage, ErrorBody, JsonObject

STEP = 0.25  # seconds that the time is moved at once
ROUNDS = 12  # turns of the loop after which nothing is left to run
LONGEST = 8.0


class HandLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Run everything that can run now."""
        for _ in range(ROUNDS):
            self.call_soon(self.stop)
            self.run_forever()


class LoopClock(SystemClock):
    """The loop's time, as the channel asks for it."""

    def __init__(self, loop: HandLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()


class ChannelMachine(RuleBasedStateMachine):
    """A channel, and what must be true of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = HandLoop()
        self.channel = Channel(LoopClock(self.loop))
        self.numbers = itertools.count()
        self.performs: dict[str, asyncio.Task[JsonObject]] = {}
        self.polls: list[asyncio.Task[ActionMessage]] = []
        self.delivered: list[ActionMessage] = []
        # What each action was answered with, as far as the adapter got the receipt.
        self.accepted: dict[str, JsonObject] = {}
        self.answered: set[str] = set()
        self.failed: set[str] = set()
        self.cancelled: set[str] = set()
        self.over = False

    def _task(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        return self.loop.create_task(work)

    def _collect(self) -> None:
        """Look at what polls brought."""
        for poll in [poll for poll in self.polls if poll.done()]:
            self.polls.remove(poll)
            if poll.cancelled():
                continue
            message = poll.result()
            if message.action == EXIT:
                assert self.channel.exit_reason is not None
            elif message.action == IDLE:
                assert isinstance(message.data["delay"], int)
            else:
                assert message.id is not None
                assert message.id not in self.answered, "an action that was answered came again"
                self.delivered.append(message)

    def _settle(self) -> None:
        self.loop.settle()
        self._collect()

    @precondition(lambda self: len(self.performs) < 20)
    @rule(timeout=st.sampled_from([0.5, 2.0, LONGEST]))
    def ask(self, timeout: float) -> None:
        action = f"action-{next(self.numbers)}"
        self.performs[action] = self._task(self.channel.perform(action, {}, timeout))
        self._settle()

    @rule(wait=st.sampled_from([0.0, 1.0, 5.0]))
    def poll(self, wait: float) -> None:
        self.polls.append(self._task(self.channel.poll(wait)))
        self._settle()
        assert len(self.polls) <= 1, "a newer poll supersedes an older one"

    @precondition(lambda self: self.polls)
    @rule()
    def disconnect(self) -> None:
        self.polls[-1].cancel()
        self._settle()

    @precondition(lambda self: any(not task.done() for task in self.performs.values()))
    @rule()
    def give_up_asking(self) -> None:
        action, task = next((name, task) for name, task in self.performs.items() if not task.done())
        task.cancel()
        self.cancelled.add(action)
        self._settle()

    @precondition(lambda self: self.delivered)
    @rule(data=st.data(), bad=st.booleans())
    def answer_with_id(self, data: st.DataObject, bad: bool) -> None:
        message = data.draw(st.sampled_from(self.delivered))
        outstanding = self.channel.outstanding
        receipt = self._answer(message.id, bad)
        if message.id in self.answered:
            assert receipt in (Receipt.ACCEPTED, Receipt.REPEATED)
        if outstanding is not None and outstanding.id == message.id:
            assert receipt is Receipt.ACCEPTED
        self._settle()

    @rule(bad=st.booleans())
    def answer_without_id(self, bad: bool) -> None:
        outstanding = self.channel.outstanding
        known = {message.id for message in self.delivered}
        receipt = self._answer(None, bad)
        assert receipt in (Receipt.ACCEPTED, Receipt.UNSOLICITED)
        assert (receipt is Receipt.ACCEPTED) == (outstanding is not None and outstanding.id in known)
        self._settle()

    @rule()
    def answer_what_nobody_asked(self) -> None:
        assert self._answer("made-up", bad=False) is Receipt.STALE
        self._settle()

    @precondition(lambda self: self.channel.outstanding is not None and self.delivered)
    @rule()
    def answer_in_the_last_moment(self) -> None:
        """The answer and the deadline come in one turn of the loop, the answer first."""
        self.loop.call_at(self.loop.now, self._answer, None, False)
        self.loop.now += LONGEST
        self._settle()

    @rule(kind=st.sampled_from(["action", "adapter"]))
    def report(self, kind: str) -> None:
        outstanding = self.channel.outstanding
        self.channel.report(ErrorBody(type=kind, details="it broke"))
        if outstanding is not None:
            self.failed.add(outstanding.action)
        self._settle()

    @rule()
    def close(self) -> None:
        self.channel.close("the case is over")
        self._settle()
        assert not self.polls, "a held poll ends when there is nothing to come"

    @rule(steps=st.integers(1, 12))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.loop.now += STEP
            self._settle()

    def _answer(self, id: str | None, bad: bool) -> Receipt:
        outstanding = self.channel.outstanding
        response: JsonObject = {"response": "error"} if bad else {"number": next(self.numbers)}
        receipt = self.channel.respond(id, response)
        if receipt is Receipt.ACCEPTED:
            assert outstanding is not None
            assert outstanding.id is not None
            assert outstanding.action not in self.accepted, "one action, two answers"
            self.accepted[outstanding.action] = response
            self.answered.add(outstanding.id)
        return receipt

    @invariant()
    def every_answer_arrives_once(self) -> None:
        for action, task in self.performs.items():
            if not task.done():
                assert action not in self.accepted, "an answer was taken and not given"
                continue
            given = self.accepted.get(action)
            if task.cancelled():
                assert action in self.cancelled
            elif given is None:
                assert isinstance(task.exception(), ActionError | AdapterError | DeadlineError)
            elif given.get("response") == "error":
                assert isinstance(task.exception(), ActionError)
            else:
                assert task.exception() is None, "an answer was taken and lost"
                assert task.result() == given

    @invariant()
    def at_most_one_is_outstanding(self) -> None:
        outstanding = self.channel.outstanding
        if outstanding is not None:
            assert not self.performs[outstanding.action].done()

    def teardown(self) -> None:
        """Nothing hangs: with time, everything ends by itself."""
        try:
            for _ in range(int((len(self.performs) + 1) * LONGEST / STEP) + 1):
                self.loop.now += STEP
                self._settle()
            assert all(task.done() for task in self.performs.values())
            assert not self.polls
            self.every_answer_arrives_once()
        finally:
            for task in [*self.performs.values(), *self.polls]:
                task.cancel()
            self.loop.settle()
            self.loop.close()


ChannelMachine.TestCase.settings = settings(stateful_step_count=30)
TestChannelStates = ChannelMachine.TestCase
