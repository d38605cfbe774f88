"""Real clients of several stacks in the built-in suites: nio, matrix-js-sdk, mautrix-go, Hydrogen."""

from typing import TYPE_CHECKING

import pytest

from trafficlight.drivers.recipes import RECIPES

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Start

# Installs and builds what the cache has not.
pytestmark = [pytest.mark.network, pytest.mark.timeout(900)]

_STACKS = ("nio", "js-sdk", "mautrix-go")
_ALL = (*_STACKS, "hydrogen-web")


@pytest.fixture(autouse=True)
def installed() -> None:
    if reasons := [why for name in _ALL if (why := RECIPES[name].unsupported()) is not None]:
        pytest.skip("; ".join(reasons))


@pytest.mark.parametrize(
    ("suite", "tests", "stacks"),
    [
        ("chat/send_messages_test.py", ["SendMessages"], _ALL),
        ("messages", ["SignedSender", "EditedMessage", "EncryptedFile"], _STACKS),
    ],
)
async def test_every_pair_of_stacks_interoperates(
    start: "Start", suite: str, tests: list[str], stacks: tuple[str, ...]
) -> None:
    running = await start("run", suite, "-k", " or ".join(tests), "--clients", ",".join(stacks))
    assert await running.ended(timeout=850) == 0, running.output + running.errors
    cases = running.cases()
    assert len(cases) == len(tests) * len(stacks) ** 2
    assert [name for name, case in cases.items() if case.result] == []


async def test_stacks_verify_and_restore(start: "Start") -> None:
    running = await start("run", "verification", "backup", "--clients", "js-sdk,mautrix-go")
    assert await running.ended(timeout=850) == 0, running.output + running.errors
    cases = running.cases()
    done = {name for name, case in cases.items() if not case.result}
    pair = "[alice=MautrixGo,bob=JsSdk,server=SynapseStable]"
    assert f"verification/verification_test.py::EmojiDoNotMatch{pair}" in done
    pair = "[alice=JsSdk,later=MautrixGo,server=SynapseStable]"
    assert f"backup/backup_test.py::RestoredByRecoveryKey{pair}" in done


async def test_two_versions_of_a_client_meet(start: "Start") -> None:
    clients = "mautrix-go,mautrix-go==0.31.0"
    running = await start("run", "messages", "-k", "Reply", "--clients", clients)
    assert await running.ended(timeout=850) == 0, running.output + running.errors
    assert len(running.cases()) == 4
