"""Adapters that go wrong at random: no case is stuck, each ends once, and nothing is left over."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from trafficlight.protocol import ErrorBody, Registration
from trafficlight.results.events import FINAL, CaseEnded, State

if TYPE_CHECKING:
    from tests.integration.coordinator.conftest import EngineHarness

CASES = 120

TEXT = "\n".join(
    f"""
class Chaos{n}(Test):
    clients = {{"alice": Nio, "bob": Nio}}

    async def run(self, alice, bob):
        await alice.perform("one")
        await asyncio.gather(alice.perform("two"), bob.perform("two"))
        await bob.perform("three")
"""
    for n in range(CASES)
)


class Unreliable:
    """A looping adapter of which one action in ten goes wrong, in one of many ways."""

    def __init__(self, bay: "EngineHarness", chance: random.Random) -> None:
        self.pool = bay.engine.pool
        self.chance = chance
        self.lives = 0
        self.mishaps: Counter[str] = Counter()

    async def loop(self) -> None:
        """Live again and again."""
        while True:
            self.lives += 1
            await self.live(f"{id(self)}-{self.lives}")
            await asyncio.sleep(self.chance.uniform(0, 0.002))

    async def live(self, uuid: str) -> None:
        adapter = self.pool.register(uuid, Registration.model_validate({"type": "nio"}))
        while (message := await adapter.channel.poll(20)).action != "exit":
            if message.action == "idle":
                continue
            if self.chance.random() >= 0.1:
                adapter.channel.respond(message.id, {"response": "done"})
                continue
            mishap = self.chance.choice(
                ["dies", "reports", "failure", "silent", "twice", "stale", "says error"]
            )
            self.mishaps[mishap] += 1
            match mishap:
                case "dies":
                    self.pool.lose(adapter, "its process ended (signal 9)")
                    return
                case "reports" | "failure":
                    type = "action" if mishap == "failure" else "adapter"
                    self.pool.report(adapter, ErrorBody(type=type, details="it went wrong"))
                    return
                case "silent":
                    continue
                case "twice":
                    for _ in range(2):
                        adapter.channel.respond(message.id, {"response": "done"})
                case "stale":
                    adapter.channel.respond("of another life", {"response": "done"})
                    adapter.channel.respond(None, {"response": "done"})
                case _:
                    adapter.channel.respond(message.id, {"response": "error"})


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_case_is_stuck(bay_with: Callable[..., Any], seed: int) -> None:
    bay = await bay_with(action=0.2)
    chance = random.Random(seed)
    adapters = [Unreliable(bay, chance) for _ in range(12)]
    async with asyncio.TaskGroup() as group:
        loops = [group.create_task(adapter.loop()) for adapter in adapters]
        session = await bay.submit(TEXT)
        cases = await bay.ended(session, 100)
        for loop in loops:
            loop.cancel()
    assert len(cases) == CASES
    assert all(case.state in FINAL for case in cases.values())
    ends = Counter(event.case for event in bay.events if isinstance(event, CaseEnded))
    assert set(ends.values()) == {1}
    assert sum((adapter.mishaps for adapter in adapters), Counter()).total() > 30
    # Faults of the client under test are distinguished from faults of the lab.
    messages = {case.message for case in cases.values() if case.state is State.ERROR}
    assert all(message for message in messages)
    states = Counter(case.state for case in cases.values())
    assert states[State.SUCCESS]
    assert states[State.FAILURE]
    assert states[State.ERROR]
