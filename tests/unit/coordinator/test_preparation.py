"""Homeservers that are installed while the cases of others run."""

import asyncio

import pytest

from tests.hand_clock import HandClock, settled
from trafficlight.coordinator.preparation import Preparation
from trafficlight.errors import ConfigError, DeployError
from trafficlight.server_types import HomeServerSpec

QUICK = HomeServerSpec("Quick", "synapse", "1", "")
SLOW = HomeServerSpec("Slow", "dendrite", "1", "")


class Installer:
    """What prepares homeservers: until it is released, or in an error."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.released = {"Quick": asyncio.Event(), "Slow": asyncio.Event()}
        self.errors: dict[str, Exception] = {}
        self.changes = 0

    async def prepare(self, spec: HomeServerSpec) -> None:
        await self.released[spec.type_name].wait()
        if (error := self.errors.get(spec.type_name)) is not None:
            raise error

    def start(self) -> Preparation:
        preparation = Preparation([QUICK, SLOW, QUICK], self.prepare, self.clock)
        preparation.on_change = self._changed
        return preparation

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
def installer() -> Installer:
    return Installer()


async def test_one_does_not_wait_for_the_other(installer: Installer) -> None:
    preparation = installer.start()
    installer.released["Quick"].set()
    await preparation.first_result()
    assert preparation.pending == {"Slow"}
    installer.errors["Slow"] = DeployError("go build failed")
    installer.released["Slow"].set()
    await settled()
    assert (preparation.pending, preparation.problems) == (frozenset(), {"Slow": "go build failed"})
    assert installer.changes == 2


async def test_what_takes_long_is_not_waited_for(installer: Installer) -> None:
    preparation = installer.start()
    waiting = asyncio.create_task(preparation.first_result())
    await installer.clock.turn(19.9)
    assert not waiting.done()
    await installer.clock.turn(0.1)
    await waiting
    await preparation.close()
    assert installer.clock.next is None
    assert preparation.pending == frozenset()


@pytest.mark.parametrize("place", [ConfigError("there is no network"), OSError("disk full")])
async def test_a_place_where_none_can_be_prepared(installer: Installer, place: Exception) -> None:
    installer.errors = {"Quick": place, "Slow": place}
    for released in installer.released.values():
        released.set()
    preparation = installer.start()
    with pytest.raises(type(place), match=str(place)):
        await preparation.first_result()


@pytest.mark.parametrize("other", [DeployError("no such version"), None])
async def test_one_that_cannot_be_prepared_is_an_error_of_its_cases(
    installer: Installer, other: Exception | None
) -> None:
    installer.errors["Quick"] = ConfigError("there is no network")
    if other is not None:
        installer.errors["Slow"] = other
    for released in installer.released.values():
        released.set()
    preparation = installer.start()
    await preparation.first_result()
    await settled()
    assert preparation.problems["Quick"] == "there is no network"
