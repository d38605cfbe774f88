"""Real clients of several stacks in the built-in suites."""

import sys
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
        ("verification", ["VerifiedByEmoji", "EmojiDoNotMatch"], ("nio", "js-sdk")),
    ],
)
async def test_every_pair_of_stacks_interoperates(
    start: "Start", suite: str, tests: list[str], stacks: tuple[str, ...]
) -> None:
    running = await start("run", suite, "-k", " or ".join(tests), "--clients", ",".join(stacks))
    assert await running.ended(timeout=850) == 0, running.output + running.errors
    cases = running.cases()
    assert len(cases) == len(tests) * len(stacks) ** 2
    # matrix-js-sdk sometimes drops the start of a verification: an expected failure, with its reason.
    failed = [name for name, case in cases.items() if case.result]
    assert [name for name in failed if suite != "verification" or "[alice=JsSdk,bob=Nio" not in name] == []


async def test_stacks_verify_and_restore(start: "Start") -> None:
    running = await start("run", "verification", "backup", "--clients", "js-sdk,mautrix-go")
    assert await running.ended(timeout=850) == 0, running.output + running.errors
    cases = running.cases()
    done = {name for name, case in cases.items() if not case.result}
    pair = "[alice=MautrixGo,bob=JsSdk,server=SynapseStable]"
    assert f"verification/verification_test.py::EmojiDoNotMatch{pair}" in done
    assert f"verification/verification_test.py::WrongQrCode{pair}" in done
    pair = "[alice=MautrixGo,bob=MautrixGo,server=SynapseStable]"
    assert f"verification/verification_test.py::VerifiedByQrCode{pair}" in done
    pair = "[alice=JsSdk,later=MautrixGo,server=SynapseStable]"
    assert f"backup/backup_test.py::RestoredByRecoveryKey{pair}" in done


async def test_stacks_keep_secrets(start: "Start") -> None:
    tests = (
        "crypto/membership_test.py::LeftAndBack.test_federated",
        "crypto/room_keys_test.py::RotatedByCount.test_one_server",
        "crypto/one_time_keys_test.py::FallbackKey.test_one_server",
        "crypto/one_time_keys_test.py::OneTimeKeyUsedTwice.test_one_server",
        "network/broken_network_test.py::KilledBeforeASync",
    )
    running = await start("run", *tests, "--clients", "js-sdk,mautrix-go")
    assert await running.ended(timeout=850) == 0, running.output + running.errors
    cases = running.cases()
    assert len(cases) == 20
    # mautrix-go has no fallback key.
    assert [name for name, case in cases.items() if case.result and "FallbackKey" not in name] == []


# It takes five minutes of two processors to build.
@pytest.mark.nightly
@pytest.mark.timeout(1800)
async def test_rust_sdk_chats_verifies_and_restores_with_the_others(start: "Start") -> None:
    if (reason := RECIPES["rust-sdk"].unsupported()) is not None:
        pytest.skip(reason)
    selected = "RustSdk and (SendMessages or EditedMessage or EncryptedFile or VerifiedByEmoji or Restored)"
    arguments = ("chat/send_messages_test.py", "messages", "verification", "backup", "-k", selected)
    running = await start("run", *arguments, "--clients", ",".join((*_STACKS, "rust-sdk")))
    assert await running.ended(timeout=1750) == 0, running.output + running.errors
    done = {name for name, case in running.cases().items() if not case.result}
    for alice, other in (("JsSdk", "RustSdk"), ("RustSdk", "JsSdk"), ("RustSdk", "RustSdk")):
        restored = f"RestoredByPassphrase[alice={alice},later={other},server=SynapseStable]"
        assert f"backup/backup_test.py::{restored}" in done
        if alice != "JsSdk":  # matrix-js-sdk sometimes drops the start of a verification
            verified = f"VerifiedByEmoji[alice={alice},bob={other},server=SynapseStable]"
            assert f"verification/verification_test.py::{verified}" in done


# A browser starts again four times.
@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*_ALL, "rust-sdk", "element-web"])
async def test_every_driver_passes_the_check(start: "Start", name: str) -> None:
    if (reason := RECIPES[name].unsupported()) is not None:
        pytest.skip(reason)
    built = await start("prepare", "chat/send_messages_test.py", "--clients", name)
    assert await built.ended(timeout=1500) == 0, built.output + built.errors
    command = f"{sys.executable} -m trafficlight adapter run {name} --url {{url}}"
    checked = await start("adapter", "check", "--against", "synapse", "--command", command)
    assert await checked.ended(timeout=600) == 0, checked.output + checked.errors
    assert any(line.endswith(" ok · 0 wrong · 0 note") for line in checked.output)


async def test_two_versions_of_a_client_meet(start: "Start") -> None:
    clients = "mautrix-go,mautrix-go==0.31.0"
    running = await start("run", "messages", "-k", "Reply", "--clients", clients)
    assert await running.ended(timeout=850) == 0, running.output + running.errors
    assert len(running.cases()) == 4
