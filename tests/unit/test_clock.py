"""What waits for time to pass, on the real clock and on one that is turned by hand."""

import asyncio

import pytest

from tests.hand_clock import HandClock, settled
from trafficlight.clock import Clock, LoopClock, SystemClock, cooperative, race


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


class TestSleep:
    async def test_it_ends_when_its_time_is_over(self, clock: HandClock) -> None:
        sleep = asyncio.create_task(clock.sleep(3))
        await clock.turn(2.9)
        assert not sleep.done()
        await clock.turn(0.1)
        assert sleep.done()

    async def test_cancelled_it_leaves_no_call_behind(self, clock: HandClock) -> None:
        sleep = asyncio.create_task(clock.sleep(3))
        await settled()
        sleep.cancel()
        await asyncio.wait([sleep])
        assert clock.next is None

    async def test_cancelled_in_the_turn_in_which_its_time_is_over(self) -> None:
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        sleep = asyncio.create_task(SystemClock().sleep(0))
        await asyncio.sleep(0)  # it begins
        await asyncio.sleep(0)  # in this turn its call comes, behind this
        sleep.cancel()
        await asyncio.wait([sleep])
        assert sleep.cancelled()
        assert not wrong, "the call finds no waiter"


class TestTimeout:
    @pytest.mark.parametrize("real", [False, True])
    async def test_it_ends_what_takes_too_long(self, clock: HandClock, real: bool) -> None:
        used: Clock = SystemClock() if real else clock

        async def work() -> bool:
            with pytest.raises(TimeoutError):
                async with used.timeout(0.01) as limit:
                    await asyncio.Event().wait()
            return limit.expired()

        working = asyncio.create_task(work())
        await clock.turn(0.01)
        assert await working

    async def test_what_is_quick_enough_is_left_alone(self, clock: HandClock) -> None:
        async with clock.timeout(1) as limit:
            pass
        await clock.turn(2)
        assert not limit.expired()
        assert clock.next is None

    async def test_a_cancellation_from_outside_stays_one(self, clock: HandClock) -> None:
        async def work() -> None:
            async with clock.timeout(5):
                await asyncio.Event().wait()

        working = asyncio.create_task(work())
        await settled()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert clock.next is None

    async def test_a_time_out_within_is_told_from_its_own(self, clock: HandClock) -> None:
        with pytest.raises(TimeoutError):
            async with clock.timeout(5) as limit:
                raise TimeoutError
        assert not limit.expired()


class TestRace:
    async def test_the_first_to_finish_decides_and_the_others_have_ended(self) -> None:
        ended: list[str] = []

        async def slow() -> str:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append("slow")
            return "slow"

        async def quick() -> str:
            await asyncio.sleep(0)
            return "quick"

        assert await race(slow(), quick()) == "quick"
        assert ended == ["slow"]

    async def test_in_one_turn_the_earliest_argument_wins(self) -> None:
        async def fails() -> str:
            raise ValueError("first")

        async def works() -> str:
            return "second"

        with pytest.raises(ValueError, match="first"):
            await race(fails(), works())
        assert await race(works(), fails()) == "second"

    async def test_cancelled_it_leaves_nothing_running(self) -> None:
        ended: list[int] = []

        async def wait(number: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(number)

        racing = asyncio.create_task(race(wait(1), wait(2)))
        await settled()
        racing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await racing
        assert sorted(ended) == [1, 2]


async def test_cooperative_iteration_yields_to_the_loop() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert [item async for item in cooperative(range(200))] == list(range(200))
    counting.cancel()
    assert turns >= 4


class TestLoopClock:
    def test_the_time_in_which_the_loop_is_stopped_does_not_count(self) -> None:
        times = iter([100.0, 101.0, 102.0, 702.0, 703.0])
        clock = LoopClock(lambda: next(times))
        assert [clock.monotonic() for _ in range(4)] == [101.0, 102.0, 102.0, 103.0]
        assert clock.stopped == 600.0

    @pytest.mark.parametrize("cancelled", [False, True])
    async def test_a_call_is_deferred_by_that_time(self, cancelled: bool) -> None:
        time = [100.0]
        clock, called = LoopClock(lambda: time[0]), asyncio.Event()
        timer = clock.call_later(0.02, called.set)
        time[0] += 600.0  # in a debugger
        await SystemClock().sleep(0.021)  # the loop has called the timer before this
        assert not called.is_set()
        if cancelled:
            timer.cancel()
        time[0] += 0.02
        await SystemClock().sleep(0.021)
        assert called.is_set() is not cancelled
