"""Real calls: Element Call in several Chromiums, through a real LiveKit."""

from typing import TYPE_CHECKING

import pytest

from trafficlight.drivers.recipes import ElementCallRecipe

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Start

# LiveKit takes minutes to compile.
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


async def test_participants_of_a_call_see_each_other(start: "Start") -> None:
    if reason := ElementCallRecipe.unsupported():
        pytest.skip(reason)
    running = await start("run", "video", "--clients", "element-call", "-n", "1")
    assert await running.ended(timeout=1750) == 0, running.output + running.errors
    cases = running.cases()
    assert len(cases) == 7
    assert [name for name, case in cases.items() if case.result] == []
    (see,) = running.session().glob("cases/video.calls_test/SeeEachOther.test_one_server/*/attempt-1")
    for role in ("alice", "bob"):
        assert list(see.glob(f"clients/{role}/tile-*.png"))
    assert list(running.session().glob("adapters/element-call-*.services.log"))
