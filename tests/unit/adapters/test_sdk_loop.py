"""The loop around an adapter, over real HTTP against a scripted coordinator."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from trafficlight.adapters.conformance import Reply, ScriptedAdapter, ScriptedCoordinator
from trafficlight.adapters.sdk import (
    ActionFailed,
    Adapter,
    CoordinatorUnreachableError,
    JsonObject,
    Options,
    RegistrationRefusedError,
    action,
    loop,
    run,
    serve,
)
from trafficlight.adapters.sdk.coordinator import Backoff
from trafficlight.protocol import TOKEN_VARIABLES, ActionMessage, ErrorBody, Registration

FAST = Options(backoff=Backoff(0.01, 0.05))


class Made(list["Counter"]):
    """A factory that remembers what it made."""

    def __call__(self) -> "Counter":
        self.append(Counter())
        return self[-1]


class Counter(Adapter):
    type = "counter"

    def __init__(self) -> None:
        self.count = 0
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1

    @action()
    async def count_up(self, by: int = 1) -> JsonObject:
        self.count += by
        return {"count": self.count}

    @action()
    async def fail(self) -> None:
        raise ActionFailed("expected 2 messages, saw 1")

    @action()
    async def crash(self, password: str = "") -> None:
        raise KeyError("no such button")

    @action()
    async def hang(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def running(
    coordinator: ScriptedCoordinator, factory: Any = Counter, **how: Any
) -> AsyncIterator[None]:
    task = asyncio.create_task(run(factory, coordinator.url, **{"options": FAST, **how}))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def error_of(reply: Reply | None) -> JsonObject:
    assert reply is not None
    assert reply.kind == "error"
    error: JsonObject = reply.body["error"]
    return error


def performed(reply: Reply | None) -> Any:
    assert reply is not None
    assert reply.kind == "respond"
    return reply.body


async def polled(adapter: ScriptedAdapter) -> None:
    assert await adapter.coordinator.until(lambda: adapter.polls, 5)


async def test_registers_and_answers_with_the_id() -> None:
    async with ScriptedCoordinator() as coordinator, running(coordinator):
        adapter = await coordinator.registered()
        assert UUID(adapter.uuid).version == 4
        assert adapter.body == {
            "type": "counter",
            "labels": [],
            "actions": ["count_up", "fail", "crash", "hang"],
        }
        body = performed(await adapter.act("count_up", {"by": 3}, id="one"))
        assert body == {"response": "count_up", "count": 3, "id": "one"}
        assert adapter.polls[0].wait == "20"


async def test_action_reaches_a_held_poll_at_once() -> None:
    async with ScriptedCoordinator() as coordinator, running(coordinator):
        adapter = await coordinator.registered()
        await polled(adapter)
        performed(await adapter.act("count_up"))
        assert len(adapter.polls) == 1, "the held poll got the action, not the next one"


async def test_idle_delay_is_honoured_and_nothing_is_flooded() -> None:
    async with ScriptedCoordinator(hold=0, delay=1200) as coordinator, running(coordinator):
        adapter = await coordinator.registered()
        assert await coordinator.until(lambda: len(adapter.polls) > 1, 5)
        first, second = adapter.polls[:2]
        assert second.began - first.began >= 1.2
    async with ScriptedCoordinator(hold=0, delay=0) as coordinator, running(coordinator):
        adapter = await coordinator.registered()
        assert await coordinator.until(lambda: len(adapter.polls) > 1, 5)
        first, second = adapter.polls[:2]
        assert second.began - first.began >= 0.9


async def test_action_that_comes_again_is_answered_again_and_not_performed() -> None:
    made = Made()
    async with ScriptedCoordinator() as coordinator, running(coordinator, made):
        adapter = await coordinator.registered()
        once = performed(await adapter.act("count_up", id="one"))
        again = performed(await adapter.act("count_up", id="one"))
        assert once == again
        assert made[0].count == 1


async def test_refused_answer_harms_nothing() -> None:
    async with ScriptedCoordinator() as coordinator, running(coordinator):
        adapter = await coordinator.registered()
        coordinator.refusals.append(("respond", 409))
        refused = await adapter.act("count_up")
        assert refused is not None
        assert refused.status == 409
        assert performed(await adapter.act("count_up"))["count"] == 2


async def test_answer_is_retried_and_the_action_is_not() -> None:
    made = Made()
    async with ScriptedCoordinator() as coordinator, running(coordinator, made):
        adapter = await coordinator.registered()
        coordinator.refusals += [("respond", 503), ("respond", 500)]
        await adapter.act("count_up")
        assert await coordinator.until(lambda: len(adapter.replies) == 3, 5)
        assert [reply.status for reply in adapter.replies] == [503, 500, 200]
        assert made[0].count == 1


async def test_failed_action_is_reported_and_a_fresh_adapter_registers() -> None:
    made = Made()
    async with ScriptedCoordinator() as coordinator, running(coordinator, made):
        adapter = await coordinator.registered()
        error = error_of(await adapter.act("fail"))
        assert error["type"] == "action"
        assert error["details"].startswith("fail: expected 2 messages, saw 1\n")
        assert "Traceback" in error["details"]
        assert error["path"].partition(":")[0].endswith("test_sdk_loop.py")
        successor = await coordinator.registered(2)
        assert successor.uuid != adapter.uuid
        assert made[0].closed == 1
        assert len(made) == 2
        performed(await successor.act("count_up"))


async def test_crash_is_the_adapters_own_error() -> None:
    async with ScriptedCoordinator() as coordinator, running(coordinator):
        adapter = await coordinator.registered()
        error = error_of(await adapter.act("crash", {"password": "hunter2"}))
        assert error["type"] == "adapter"
        assert "KeyError: 'no such button'" in error["details"]
        assert "hunter2" not in error["details"]
        await coordinator.registered(2)


async def test_unknown_action_is_reported_by_name() -> None:
    async with ScriptedCoordinator() as coordinator, running(coordinator):
        adapter = await coordinator.registered()
        error = error_of(await adapter.act("fly"))
        assert error["type"] == "unsupported"
        assert error["details"] == "fly: counter does not support this action"
        await coordinator.registered(2)


async def test_exit_closes_and_registers_anew() -> None:
    made = Made()
    async with ScriptedCoordinator() as coordinator, running(coordinator, made):
        adapter = await coordinator.registered()
        await adapter.exit()
        successor = await coordinator.registered(2)
        assert successor.uuid != adapter.uuid
        assert [one.closed for one in made] == [1, 0]
    assert [one.closed for one in made] == [1, 1]


async def test_once_ends_after_exit() -> None:
    made = Made()
    async with ScriptedCoordinator() as coordinator, asyncio.timeout(60):
        task = asyncio.create_task(run(made, coordinator.url, once=True, options=FAST))
        await (await coordinator.registered()).exit()
        await task
        assert len(coordinator.adapters) == 1
        assert made[0].closed == 1


async def test_coordinator_restart_gives_a_new_registration() -> None:
    made = Made()
    async with ScriptedCoordinator() as coordinator, running(coordinator, made):
        adapter = await coordinator.registered()
        await polled(adapter)
        await coordinator.stop()
        await coordinator.start()
        successor = await coordinator.registered(2)
        assert successor.uuid != adapter.uuid
        assert made[0].closed == 1
        performed(await successor.act("count_up"))


async def test_coordinator_that_comes_late_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedCoordinator() as coordinator:
        await coordinator.stop()
        async with running(coordinator):
            await asyncio.sleep(0.1)
            await coordinator.start()
            await coordinator.registered()
    waiting = [record for record in caplog.records if record.levelname == "WARNING"]
    assert waiting[0].getMessage().startswith(f"waiting for {coordinator.url}: ")


async def test_trouble_at_a_poll_is_retried() -> None:
    async with ScriptedCoordinator() as coordinator:
        coordinator.refusals += [("poll", 502), ("poll", 409), ("poll", 429)]
        async with running(coordinator):
            adapter = await coordinator.registered()
            performed(await adapter.act("count_up"))
            assert len(coordinator.adapters) == 1


async def test_several_clients_in_one_process() -> None:
    async with ScriptedCoordinator() as coordinator, running(coordinator, count=3):
        adapters = [await coordinator.registered(number) for number in (1, 2, 3)]
        assert len({adapter.uuid for adapter in adapters}) == 3
        bodies = await asyncio.gather(*(adapter.act("count_up") for adapter in adapters))
        assert [performed(body)["count"] for body in bodies] == [1, 1, 1]


async def test_tokens_first_the_shared_then_its_own() -> None:
    async with (
        ScriptedCoordinator(token="shared", own_token="own") as coordinator,
        running(coordinator, token="shared"),
    ):
        adapter = await coordinator.registered()
        performed(await adapter.act("count_up"))
        assert adapter.authorization == "Bearer shared"
        assert set(adapter.authorizations) == {"Bearer own"}


@pytest.mark.parametrize("name", TOKEN_VARIABLES)
async def test_token_from_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "shared")
    async with ScriptedCoordinator(token="shared") as coordinator, running(coordinator):
        adapter = await coordinator.registered()
        performed(await adapter.act("count_up"))
        assert set(adapter.authorizations) == {"Bearer shared"}


async def test_refused_registration_ends_it() -> None:
    made = Made()
    async with ScriptedCoordinator(token="shared") as coordinator:
        with pytest.raises(
            RegistrationRefusedError, match=r"401 no token, or a wrong one \(is the registration"
        ):
            await run(made, coordinator.url, count=2, token="wrong", options=FAST)
    assert [one.closed for one in made] == [1, 1]


async def test_patience_ends() -> None:
    async with ScriptedCoordinator() as coordinator:
        await coordinator.stop()
        with pytest.raises(CoordinatorUnreachableError, match="no answer from"):
            await run(Counter, coordinator.url, options=Options(patience=0.1, backoff=Backoff(0.01, 0.05)))


async def test_adapter_that_cannot_open_is_closed_and_ends_it() -> None:
    class Broken(Counter):
        async def open(self) -> None:
            raise RuntimeError("no browser")

    broken = Broken()
    async with ScriptedCoordinator() as coordinator:
        with pytest.raises(RuntimeError, match="no browser"):
            await run(lambda: broken, coordinator.url, options=FAST)
    assert broken.closed == 1


async def test_cleaning_up_that_fails_does_not_end_it() -> None:
    class Untidy(Counter):
        async def close(self) -> None:
            raise RuntimeError("still in use")

    async with ScriptedCoordinator() as coordinator, running(coordinator, Untidy):
        await (await coordinator.registered()).exit()
        await coordinator.registered(2)


async def test_stop_in_the_middle_of_cleaning_up_lets_it_finish() -> None:
    begun, finished = asyncio.Event(), asyncio.Event()

    class Slow(Counter):
        async def close(self) -> None:
            begun.set()
            await asyncio.sleep(0.1)
            finished.set()

    async with ScriptedCoordinator() as coordinator:
        async with running(coordinator, Slow):
            await (await coordinator.registered()).exit()
            await begun.wait()
        assert finished.is_set()


async def test_stop_in_the_middle_of_an_action_is_said() -> None:
    made = Made()
    async with ScriptedCoordinator() as coordinator:
        async with running(coordinator, made):
            adapter = await coordinator.registered()
            assert await adapter.act("hang", timeout=0.2) is None
        assert "hang: the adapter was stopped during this action" in error_of(adapter.replies[0])["details"]
        assert made[0].closed == 1


@pytest.mark.parametrize("urgent", ["exit", "crash"])
async def test_an_exit_or_an_error_during_an_action_ends_the_registration(
    monkeypatch: pytest.MonkeyPatch, urgent: str
) -> None:
    """The action would have been waited for until its deadline."""
    monkeypatch.setattr(loop, "_WHILE", 0)
    monkeypatch.setattr(Counter, "killable", True)
    reports: list[str] = []

    async def poll(busy: bool) -> ActionMessage:
        return ActionMessage(action=urgent, id="2")

    async def report(error: ErrorBody) -> None:
        reports.append(error.details)

    coordinator: Any = SimpleNamespace(uuid="1", poll=poll, report=report)
    async with asyncio.timeout(60):
        registration = loop._Registration(Counter(), coordinator)
        assert not await registration._perform_killable(ActionMessage(action="hang", id="1"))
    assert [one.partition(":")[0] for one in reports] == ([] if urgent == "exit" else ["crash"])


class Brisk:
    """A coordinator that answers a response with the next action; the last one it holds for ever.

    :param ids: those of the actions.
    :param lost: whether it is not reachable any more then.
    """

    uuid = "1"

    def __init__(self, ids: list[str | None], lost: bool) -> None:
        self.lost = lost
        self.left = [ActionMessage(action="count_up", id=id) for id in ids]
        self.asked: list[object] = []
        self.held = asyncio.Event()

    async def register(self, registration: Registration) -> None:
        pass

    async def poll(self) -> ActionMessage:
        self.asked.append("poll")
        return await self.next()

    async def next(self) -> ActionMessage:
        if not self.left:
            self.held.set()
            await asyncio.Event().wait()
        return self.left.pop(0)

    async def respond(
        self, id: str | None, response: JsonObject, poll: bool = False, attempts: int | None = None
    ) -> ActionMessage | None:
        self.asked.append((id, response["count"]))
        if attempts is not None and self.lost:
            raise CoordinatorUnreachableError("http://lab", 1.0, "it is gone")
        return await self.next() if poll else None

    async def report(self, error: ErrorBody) -> None:
        self.asked.append(error.details)


@pytest.mark.parametrize(
    ("ids", "lost", "asked"),
    [
        (["a", "b", "c"], False, ["poll", ("a", 1), ("b", 2), ("c", 3), ("c", 3), "the client has exited"]),
        ([None, None], False, ["poll", (None, 1), "poll", (None, 2), "poll", "the client has exited"]),
        (["a"], True, ["poll", ("a", 1), ("a", 1)]),
    ],
    ids=["with ids", "without", "lost"],
)
async def test_a_response_asks_for_the_next_action(
    ids: list[str | None], lost: bool, asked: list[object]
) -> None:
    """If the client exits meanwhile, it is sent once more, because it may not have arrived.

    Without an id it would be taken for the response to the next action.
    """

    class Mortal(Counter):
        async def watch(self) -> None:
            await coordinator.held.wait()
            raise RuntimeError("the client has exited")

    coordinator: Any = Brisk(ids, lost)
    async with asyncio.timeout(60):
        await loop._Registration(Mortal(), coordinator).run()
    assert coordinator.asked == asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_ends_cleanly_on_signals(number: signal.Signals) -> None:
    made = Made()
    async with ScriptedCoordinator() as coordinator, asyncio.timeout(60):
        task = asyncio.create_task(serve(made, coordinator.url, options=FAST))
        await polled(await coordinator.registered())
        os.kill(os.getpid(), number)
        await task
    assert made[0].closed == 1
    assert not asyncio.get_running_loop().remove_signal_handler(number), "the handler is still there"


async def test_cancelling_serve_is_no_clean_end() -> None:
    async with ScriptedCoordinator() as coordinator:
        task = asyncio.create_task(serve(Counter, coordinator.url, options=FAST))
        await polled(await coordinator.registered())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
