"""The mailbox of one adapter: what is delivered when, what answers what, and what is said of a silence."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from trafficlight.coordinator.channel import Channel, Receipt
from trafficlight.errors import ActionError, AdapterError, DeadlineError, UnsupportedError
from trafficlight.protocol import ActionMessage, ErrorBody, JsonObject

if TYPE_CHECKING:
    from tests.hand_clock import HandClock

# Seconds that a poll is held, on a clock that is turned by hand.
LONG = 30.0
# Seconds that a client has for an action where its time is meant to be up.
SHORT = 5.0


class Side:
    """Both sides of a channel."""

    def __init__(self, clock: "HandClock") -> None:
        self.clock = clock
        self.delivered: list[ActionMessage] = []
        self.channel = Channel(clock, hold_repeat=1.0, on_delivered=self.delivered.append)
        self._tasks: list[asyncio.Task[Any]] = []

    async def ask(
        self, action: str = "login", timeout: float = LONG, **data: Any
    ) -> asyncio.Task[JsonObject]:
        """Ask for an action; return when it is outstanding, or waits for its turn."""
        task = asyncio.create_task(self.channel.perform(action, data, timeout))
        self._tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def held_poll(self, wait: float = LONG) -> asyncio.Task[ActionMessage]:
        """Poll; return when the poll is held."""
        task = asyncio.create_task(self.channel.poll(wait))
        self._tasks.append(task)
        await asyncio.sleep(0)
        assert self.channel.polling
        return task

    def report(self, **body: str) -> None:
        """Report an error, as the pool takes it."""
        self.channel.fail(self.channel.report(ErrorBody(**body)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def side(clock: "HandClock") -> AsyncIterator[Side]:
    side = Side(clock)
    yield side
    await side.close()


class TestDelivery:
    async def test_a_held_poll_gets_an_action_at_once(self, side: Side) -> None:
        poll = await side.held_poll()
        await side.ask("login", user="alice")
        message = await poll
        assert (message.action, message.data) == ("login", {"user": "alice"})
        assert message.id
        assert side.delivered == [message]

    async def test_a_poll_gets_an_action_that_waits(self, side: Side) -> None:
        await side.ask("login")
        assert (await side.channel.poll(LONG)).action == "login"

    async def test_nothing_to_do(self, side: Side) -> None:
        poll = await side.held_poll()
        await side.clock.turn(0.8 * LONG)
        assert not poll.done()
        await side.clock.turn(0.2 * LONG)
        message = poll.result()
        assert (message.action, message.data, message.id) == ("idle", {"delay": 0}, None)
        assert not side.channel.polling

    async def test_no_wait_at_all(self, side: Side) -> None:
        assert (await side.channel.poll(0)).action == "idle"

    async def test_a_repeat_is_held_and_has_the_same_id(self, side: Side) -> None:
        await side.ask("login")
        first = await side.channel.poll(LONG)
        again = await side.held_poll()
        await side.clock.turn(0.9)
        assert not again.done()
        await side.clock.turn(0.1)
        assert again.result() == first
        assert side.delivered == [first], "it is delivered once"

    async def test_a_held_repeat_gives_way_to_the_next_action(self, side: Side) -> None:
        side.channel.hold_repeat = LONG
        asked = await side.ask("one")
        await side.channel.poll(LONG)
        poll = await side.held_poll()
        side.channel.respond(None, {"response": "done"})
        await asked
        await side.ask("two")
        assert (await poll).action == "two"

    async def test_a_held_repeat_ends_with_its_own_wait(self, side: Side) -> None:
        side.channel.hold_repeat = LONG
        await side.ask("login")
        first = await side.channel.poll(LONG)
        assert await side.channel.poll(0) == first

    async def test_a_newer_poll_supersedes_a_held_one(self, side: Side) -> None:
        older = await side.held_poll()
        newer = await side.held_poll()
        message = await older
        assert message.action == "idle"
        assert message.data["delay"] > 0, "two that supersede each other must not spin"
        await side.ask("login")
        assert (await newer).action == "login"

    async def test_a_poll_that_is_given_up_takes_nothing_with_it(self, side: Side) -> None:
        poll = await side.held_poll()
        poll.cancel()
        await asyncio.wait([poll])
        assert not side.channel.polling
        await side.ask("login")
        assert (await side.channel.poll(LONG)).action == "login"

    async def test_one_action_at_a_time_in_the_order_of_asking(self, side: Side) -> None:
        first, second = await side.ask("one"), await side.ask("two")
        assert (await side.channel.poll(LONG)).action == "one"
        side.channel.respond(None, {"n": 1})
        assert await first == {"n": 1}
        assert (await side.channel.poll(LONG)).action == "two"
        side.channel.respond(None, {"n": 2})
        assert await second == {"n": 2}


class TestResponses:
    async def test_without_an_id_the_outstanding_action_is_answered(self, side: Side) -> None:
        asked = await side.ask()
        await side.channel.poll(LONG)
        response = {"response": "got_timeline", "timeline": [{"user": "alice"}]}
        assert side.channel.respond(None, response) is Receipt.ACCEPTED
        assert await asked == response

    async def test_with_its_id_an_action_is_answered_once(self, side: Side) -> None:
        asked = await side.ask()
        id = (await side.channel.poll(LONG)).id
        assert side.channel.respond(id, {"n": 1}) is Receipt.ACCEPTED
        assert side.channel.respond(id, {"n": 2}) is Receipt.REPEATED
        assert await asked == {"n": 1}
        assert side.channel.respond(id, {"n": 3}) is Receipt.REPEATED

    async def test_a_repeated_answer_is_not_the_answer_to_the_next_action(self, side: Side) -> None:
        first = await side.ask("one")
        id = (await side.channel.poll(LONG)).id
        side.channel.respond(id, {"n": 1})
        await first
        second = await side.ask("two")
        next_id = (await side.channel.poll(LONG)).id
        assert side.channel.respond(id, {"n": 1}) is Receipt.REPEATED
        assert not second.done()
        assert next_id != id

    async def test_an_unknown_id_is_stale(self, side: Side) -> None:
        assert side.channel.respond("unknown", {}) is Receipt.STALE
        await side.ask()
        await side.channel.poll(LONG)
        assert side.channel.respond("unknown", {}) is Receipt.STALE

    async def test_an_answer_that_comes_too_late_is_stale(self, side: Side) -> None:
        asked = await side.ask(timeout=SHORT)
        id = (await side.channel.poll(LONG)).id
        await side.clock.turn(SHORT)
        with pytest.raises(DeadlineError):
            await asked
        await side.clock.turn(SHORT)
        assert side.channel.respond(id, {}) is Receipt.STALE
        assert side.channel.too_late("unknown") is None
        assert side.channel.too_late(id) == ("login", 2 * SHORT)
        assert side.channel.too_late(id) is None, "it is said once"

    async def test_nothing_is_outstanding(self, side: Side) -> None:
        assert side.channel.respond(None, {"response": "late"}) is Receipt.UNSOLICITED

    async def test_a_late_answer_without_id_is_not_that_of_an_action_not_yet_fetched(
        self, side: Side
    ) -> None:
        first = await side.ask("one", timeout=SHORT)
        await side.channel.poll(LONG)
        await side.clock.turn(SHORT)
        with pytest.raises(DeadlineError):
            await first
        second = await side.ask("two")
        assert side.channel.respond(None, {"response": "to one"}) is Receipt.UNSOLICITED
        assert not second.done()

    @pytest.mark.parametrize(
        ("response", "message"),
        [
            ({"response": "error"}, "the client answered: error"),
            ({"response": "error", "error": "no such room"}, "no such room"),
            ({"response": "error", "details": "timed out", "path": "driver.py:1"}, "timed out"),
        ],
    )
    async def test_the_word_error_is_a_failure(self, side: Side, response: JsonObject, message: str) -> None:
        asked = await side.ask("open_room")
        await side.channel.poll(LONG)
        assert side.channel.respond(None, response) is Receipt.ACCEPTED
        with pytest.raises(ActionError) as raised:
            await asked
        assert raised.value.action == "open_room"
        assert raised.value.message == message
        assert raised.value.path == response.get("path", "")

    @pytest.mark.parametrize(
        ("data", "shown"),
        [
            ({"endpoint": "/sync"}, "endpoint='/sync'"),
            ({"user": {"name": "bob", "password": "hush"}}, "user={'name': 'bob', 'password': '***'}"),
            ({"text": "x" * 300}, f"text='{'x' * 93}…"),
        ],
    )
    async def test_the_bare_word_error_names_what_was_asked(
        self, side: Side, data: JsonObject, shown: str
    ) -> None:
        asked = await side.ask("wait_for", **data)
        await side.channel.poll(LONG)
        side.channel.respond(None, {"response": "error"})
        with pytest.raises(ActionError) as raised:
            await asked
        assert raised.value.message == f"the client answered: error ({shown})"


class TestErrors:
    @pytest.mark.parametrize("type", ["action", "unknown"])
    async def test_a_report_instead_of_a_response_is_a_failure_of_the_action(
        self, side: Side, type: str
    ) -> None:
        asked = await side.ask("login")
        await side.channel.poll(LONG)
        side.report(type=type, path="login.ts:3", details="wrong password")
        with pytest.raises(ActionError, match="wrong password") as raised:
            await asked
        assert (raised.value.action, raised.value.path) == ("login", "login.ts:3")

    async def test_an_unsupported_action(self, side: Side) -> None:
        asked = await side.ask("dance")
        side.report(type="unsupported", details="dance: nio cannot")
        with pytest.raises(UnsupportedError, match=r"^dance: nio cannot$"):
            await asked

    def test_one_that_belongs_to_no_action_is_an_error_of_the_adapter(self, side: Side) -> None:
        failure = side.channel.report(ErrorBody(type="unknown", details="no display"))
        assert isinstance(failure, AdapterError)

    @pytest.mark.parametrize("type", ["adapter", "", "something"])
    async def test_every_other_type_is_an_error_of_the_adapter(self, side: Side, type: str) -> None:
        asked = await side.ask()
        side.report(type=type, details="crashed")
        with pytest.raises(AdapterError, match="crashed"):
            await asked

    async def test_a_report_without_details_says_so(self, side: Side) -> None:
        failure = side.channel.report(ErrorBody())
        assert "without details" in str(failure)

    async def test_after_a_report_every_action_fails(self, side: Side) -> None:
        side.report(type="adapter", details="crashed")
        for _ in range(2):
            with pytest.raises(AdapterError, match="crashed"):
                await side.channel.perform("login", {}, LONG)

    async def test_failing_tells_whether_somebody_waited(self, side: Side) -> None:
        assert not side.channel.fail(AdapterError("gone"))
        other = Side(side.channel.clock)  # type: ignore[arg-type]
        asked = await other.ask()
        assert other.channel.fail(AdapterError("gone"))
        assert not other.channel.fail(AdapterError("gone again"))
        with pytest.raises(AdapterError, match=r"^gone$"):
            await asked


class TestExit:
    async def test_every_poll_is_told(self, side: Side) -> None:
        held = await side.held_poll()
        side.channel.close("the case ended")
        for message in (await held, await side.channel.poll(LONG), await side.channel.poll(0)):
            assert (message.action, message.data) == ("exit", {"reason": "the case ended"})

    async def test_the_first_reason_stays(self, side: Side) -> None:
        side.channel.close("first")
        side.channel.close("second")
        assert side.channel.exit_reason == "first"

    async def test_what_is_outstanding_fails(self, side: Side) -> None:
        asked = await side.ask()
        side.channel.close("the lab ends")
        with pytest.raises(AdapterError, match=r"asked to exit \(the lab ends\)"):
            await asked

    async def test_what_is_asked_later_fails(self, side: Side) -> None:
        side.channel.close("the lab ends")
        with pytest.raises(AdapterError, match="the lab ends"):
            await side.channel.perform("login", {}, LONG)

    async def test_a_late_answer_is_taken_without_harm(self, side: Side) -> None:
        asked = await side.ask()
        await side.channel.poll(LONG)
        side.channel.close("the lab ends")
        assert side.channel.respond(None, {"response": "done"}) is Receipt.UNSOLICITED
        await asyncio.wait([asked])
        assert isinstance(asked.exception(), AdapterError)


class TestHold:
    async def test_holds_are_shortened_at_random(
        self, side: Side, clock: "HandClock", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise all polls that an event releases at once come back at once, again and again."""
        for share, seconds in ((0.0, 30.0), (0.5, 28.5), (1.0, 27.0)):
            monkeypatch.setattr("random.random", lambda share=share: share)
            held = await side.held_poll(30.0)
            await clock.turn(seconds - 0.01)
            assert not held.done(), share
            await clock.turn(0.02)
            assert (await held).action == "idle"


class TestDeadlines:
    async def test_an_action_that_nobody_fetched(self, side: Side) -> None:
        asked = await side.ask("login", SHORT)
        await side.clock.turn(SHORT - 0.1)
        assert not asked.done()
        await side.clock.turn(0.1)
        with pytest.raises(DeadlineError, match=r"^did not fetch login within 5 s$"):
            await asked

    async def test_an_action_that_was_not_answered(self, side: Side) -> None:
        asked = await side.ask("login", SHORT)
        await side.channel.poll(LONG)
        await side.clock.turn(SHORT)
        with pytest.raises(DeadlineError, match=r"^did not answer login within 5 s$"):
            await asked

    async def test_the_last_three_actions_are_told(self, side: Side, clock: "HandClock") -> None:
        for number in range(4):
            asked = await side.ask(f"step{number}")
            await side.channel.poll(LONG)
            clock.elapsed += number
            side.channel.respond(None, {})
            await asked
        last = await side.ask("last", SHORT)
        await clock.turn(SHORT)
        with pytest.raises(DeadlineError) as raised:
            await last
        assert str(raised.value).endswith(
            "(before that: step1 (answered after 1.0 s), step2 (answered after 2.0 s), "
            "step3 (answered after 3.0 s))"
        )

    async def test_the_next_action_can_go_on(self, side: Side) -> None:
        late = await side.ask("login", SHORT)
        await side.clock.turn(SHORT)
        with pytest.raises(DeadlineError):
            await late
        await side.ask("logout")
        assert (await side.channel.poll(LONG)).action == "logout"

    async def test_cancelling_the_caller_takes_the_action_back(self, side: Side) -> None:
        asked = await side.ask("login")
        asked.cancel()
        await asyncio.wait([asked])
        assert side.channel.outstanding is None
        assert "login (cancelled after" in side.channel.activity_summary()
        assert (await side.channel.poll(0)).action == "idle"


class TestDescription:
    async def test_of_an_adapter_that_did_nothing(self, side: Side) -> None:
        assert side.channel.activity_summary() == "no action was sent to it"

    async def test_of_one_that_is_at_work(self, side: Side, clock: "HandClock") -> None:
        await side.ask("login")
        clock.elapsed += 2
        assert (
            side.channel.activity_summary() == "login is outstanding for 2.0 s (not fetched by the adapter)"
        )
        await side.channel.poll(LONG)
        assert side.channel.activity_summary() == "login is outstanding for 2.0 s (delivered)"


async def test_many_answered_actions_leave_little_behind(side: Side) -> None:
    """An adapter may live for a whole night."""
    for _ in range(3000):
        asked = await side.ask()
        side.channel.respond((await side.channel.poll(LONG)).id, {})
        await asked
    assert len(side.channel._answered) <= 100


class TestAnswersThatDoNotArrive:
    async def test_a_refused_answer_is_named_at_the_deadline(self, side: Side, clock: "HandClock") -> None:
        asked = await side.ask(timeout=SHORT)
        await side.channel.poll(0)
        side.channel.refuse("400 the body must be a JSON object, not a list")
        await clock.turn(SHORT)
        with pytest.raises(DeadlineError, match="within 5 s; its answer was refused: 400 the body must be"):
            await asked

    async def test_an_answer_that_is_too_large_ends_the_action_at_once(self, side: Side) -> None:
        asked = await side.ask()
        await side.channel.poll(0)
        side.channel.refuse("answer too large: 413", final=True)
        with pytest.raises(AdapterError, match="its answer was refused: answer too large: 413"):
            await asked

    async def test_a_refusal_before_the_action_was_fetched_says_nothing_of_it(
        self, side: Side, clock: "HandClock"
    ) -> None:
        asked = await side.ask(timeout=SHORT)
        side.channel.refuse("409 stale")
        await clock.turn(SHORT)
        with pytest.raises(DeadlineError) as raised:
            await asked
        assert "refused" not in str(raised.value)

    async def test_an_adapter_that_only_asks_again_does_not_know_the_action(
        self, side: Side, clock: "HandClock"
    ) -> None:
        asked = await side.ask("set_screenshare", timeout=600)
        for _ in range(11):
            assert not asked.done()
            poll = asyncio.create_task(side.channel.poll(LONG))
            await asyncio.sleep(0)
            await clock.turn(1)
            assert (await poll).action == "set_screenshare"
        poll = await side.held_poll()
        await clock.turn(1)
        with pytest.raises(AdapterError, match="asked again 10 times without answering: it does not seem"):
            await asked
        assert (await poll).action == "idle"

    async def test_frequent_polls_during_an_action_are_no_repeats(self, side: Side) -> None:
        asked = await side.ask("slow", timeout=600)
        for _ in range(50):
            await side.channel.poll(0)
        assert not asked.done()

    async def test_two_processes_that_take_turns_are_noticed_once(self, side: Side) -> None:
        noticed: list[int] = []
        side.channel.on_rivals = lambda: noticed.append(1)
        await side.held_poll()
        await side.held_poll()
        assert not noticed, "an adapter may poll again after a broken connection"
        for _ in range(5):
            await side.held_poll()
        await asyncio.sleep(0)
        assert noticed == [1]

    async def test_a_poll_that_is_superseded_now_and_then_is_no_rival(
        self, side: Side, clock: "HandClock"
    ) -> None:
        noticed: list[int] = []
        side.channel.on_rivals = lambda: noticed.append(1)
        for _ in range(10):
            await side.held_poll(600)
            await clock.turn(4)
        assert not noticed

    @pytest.mark.parametrize("path", ["unknown", "tbd", "TBD"])
    def test_a_path_that_is_none_is_left_out(self, side: Side, path: str) -> None:
        assert str(side.channel.report(ErrorBody(path=path, details="no tile"))) == "no tile"
        assert str(side.channel.report(ErrorBody(path="a.ts:3", details="no tile"))) == "no tile [a.ts:3]"


class TestKill:
    async def test_it_need_not_wait_for_the_action_before_it(self, side: Side) -> None:
        first = asyncio.create_task(side.channel.poll(LONG))
        login = await side.ask("login")
        outstanding = await first
        busy = asyncio.create_task(side.channel.poll(LONG, busy=True))
        await asyncio.sleep(0)
        kill = await side.ask("kill")
        message = await busy
        assert message.action == "kill"
        assert side.channel.respond(message.id, {"response": "kill"}) is Receipt.ACCEPTED
        assert await kill == {"response": "kill"}
        assert not login.done()
        assert side.channel.respond(outstanding.id, {"response": "error", "details": "killed"}) is (
            Receipt.ACCEPTED
        )
        with pytest.raises(ActionError, match="killed"):
            await login

    @pytest.mark.parametrize("ids", [True, False])
    async def test_an_adapter_that_does_not_ask_meanwhile_gets_it_next(self, side: Side, ids: bool) -> None:
        login = await side.ask("login")
        kill, later = await side.ask("kill"), await side.ask("send_message")
        for action, task in (("kill", kill), ("login", login), ("send_message", later)):
            message = await side.channel.poll(LONG)
            assert message.action == action
            side.channel.respond(message.id if ids else None, {"response": action})
            assert await task == {"response": action}

    async def test_a_busy_adapter_gets_no_other_action(self, side: Side) -> None:
        await side.ask("login")
        busy = asyncio.create_task(side.channel.poll(SHORT, busy=True))
        await asyncio.sleep(0)
        await side.clock.turn(LONG)
        assert (await busy).action == "idle"

    async def test_it_ends_with_the_adapter(self, side: Side) -> None:
        login, kill = await side.ask("login"), await side.ask("kill")
        side.channel.close("the case ended")
        for task in (login, kill):
            with pytest.raises(AdapterError, match="was asked to exit"):
                await task
