"""Clients with a user interface in a real Chromium."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trafficlight.drivers.recipes import RECIPES

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Start

pytestmark = [pytest.mark.network, pytest.mark.timeout(1500)]

# To register in a browser takes seconds, and minutes where the machine is busy.
_PATIENT = {"TRAFFICLIGHT_ACTION_DEADLINE": "200", "TRAFFICLIGHT_CASE_DEADLINE": "1300"}

_LIFE = """
from trafficlight import Test
from trafficlight.client_types import ElementWeb, HydrogenWeb, Nio
from trafficlight.server_types import SynapseStable


class Life(Test):
    clients = {"alice": %(client)s, "bob": Nio}
    servers = {"server": [SynapseStable]}

    async def run(self, alice, bob, server):
        await alice.register(server)
        await bob.register(server)
        await alice.create_room("A room")
        await alice.invite_user(bob.user_id)
        await bob.accept_invite()
        await alice.send_message("Hello\\nBob")
        sent = await bob.find_message("Hello\\nBob")
        seen = await alice.find_message("Hello\\nBob")
        assert (seen["event_id"], seen["user"]) == (sent["event_id"], alice.user_id)
        assert seen["encrypted"]
        if %(signs)s:
            assert seen["shield"] == "none"
            assert await alice.get_trust(bob.user_id) == "unverified"

        await alice.kill()
        await bob.send_message("Hello Alice")
        await alice.restart()
        await alice.open_room("A room")
        await alice.verify_message_in_timeline("Hello Alice")

        await alice.logout()
        await alice.login(server)
        await alice.open_room("A room")
        await alice.verify_last_message_is_utd()
        await alice.open_room("No such room")
"""


@pytest.mark.parametrize(
    ("name", "client", "signs"),
    [
        pytest.param("hydrogen-web", "HydrogenWeb", False, id="hydrogen"),
        pytest.param("element-web", "ElementWeb", True, id="element", marks=pytest.mark.nightly),
    ],
)
async def test_it_talks_with_nio_and_leaves_evidence_of_a_failure(
    start: "Start", tmp_path: Path, name: str, client: str, signs: bool
) -> None:
    if reason := RECIPES[name].unsupported():
        pytest.skip(reason)
    test = tmp_path / "life_test.py"
    test.write_text(_LIFE % {"client": client, "signs": signs})

    running = await start("run", test, environment=_PATIENT)

    assert await running.ended(timeout=1400) == 1, running.output + running.errors
    (case,) = running.cases().values()
    (failure,) = case.result
    assert "open_room: expected a room No such room; there is A room" in str(failure.message)
    left = {path.suffix for path in running.session().glob("cases/**/clients/alice/open_room-*")}
    assert left == {".png", ".zip"}


@pytest.mark.nightly
async def test_two_elements_verify_each_other(start: "Start") -> None:
    if reason := RECIPES["element-web"].unsupported():
        pytest.skip(reason)
    arguments = ("verification", "-k", "VerifiedByEmoji", "--clients", "element-web")
    running = await start("run", *arguments, environment=_PATIENT)
    assert await running.ended(timeout=1400) == 0, running.output + running.errors
    assert [case.result for case in running.cases().values()] == [[]]


# LiveKit takes minutes to compile.
@pytest.mark.nightly
async def test_participants_of_a_call_see_each_other(start: "Start") -> None:
    if reason := RECIPES["element-call"].unsupported():
        pytest.skip(reason)
    running = await start("run", "video", "--clients", "element-call", "-n", "1", environment=_PATIENT)
    assert await running.ended(timeout=1400) == 0, running.output + running.errors
    cases = running.cases()
    assert len(cases) == 7
    assert [name for name, case in cases.items() if case.result] == []
    tiles = running.session().glob("cases/*/SeeEachOther.test_one_server/*/attempt-1/clients/*/tile-*.png")
    assert {path.parent.name for path in tiles} == {"alice", "bob"}
