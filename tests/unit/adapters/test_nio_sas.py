"""The nio adapter's verification by emoji: both sides show the same, and no lie is believed."""

from types import SimpleNamespace
from typing import Any

import pytest

from trafficlight.adapters.nio.sas import Party, Sent, Verification
from trafficlight.adapters.nio.verification import Verifications

ALICE = Party("@alice:hs", "PHONE", {"ed25519:PHONE": "phone key", "ed25519:master A": "master A"})
BOB = Party("@bob:hs", "LAPTOP", {"ed25519:LAPTOP": "laptop key", "ed25519:master B": "master B"})
ROOMS = pytest.mark.parametrize("room", [None, "!room:hs"])


def two(room: str | None = None, bob: Party = BOB) -> tuple[Verification, Verification]:
    """Both sides of a verification that alice has asked for."""
    return (
        Verification("flow", ALICE, BOB.user_id, asked=True, room_id=room, other=bob),
        Verification("flow", BOB, ALICE.user_id, asked=False, room_id=room, other=ALICE),
    )


def deliver(sent: Sent, to: Verification, back: Verification, without: str = "") -> None:
    """Deliver messages and the answers to them, until there are none; all but those of one kind."""
    for kind, content in sent:
        if kind != without:
            deliver(to.receive(kind, content), back, to, without)


def with_emoji(room: str | None = None, bob: Party = BOB) -> tuple[Verification, Verification]:
    asking, accepting = two(room, bob)
    deliver(accepting.accept(), asking, accepting)
    assert (asking.phase, accepting.phase) == ("ready", "ready")
    deliver(accepting.start(), asking, accepting)
    return asking, accepting


@ROOMS
def test_both_show_the_same_emoji_and_confirm_each_others_keys(room: str | None) -> None:
    asking, accepting = with_emoji(room)
    assert asking.emoji is not None
    assert len(asking.emoji) == 7
    assert asking.emoji == accepting.emoji

    deliver(asking.confirm(), accepting, asking)
    assert (asking.phase, accepting.phase) == ("started", "started"), "the other side has not confirmed"
    deliver(accepting.confirm(), asking, accepting)

    assert (asking.phase, accepting.phase) == ("done", "done")
    assert asking.confirmed == frozenset(BOB.keys)
    assert accepting.confirmed == frozenset(ALICE.keys)


@ROOMS
def test_start_may_overtake_ready(room: str | None) -> None:
    asking, accepting = two(room)
    ready = accepting.accept()

    deliver(accepting.start(), asking, accepting)
    deliver(ready, asking, accepting)

    assert asking.emoji is not None
    assert asking.emoji == accepting.emoji


@ROOMS
def test_messages_name_the_verification(room: str | None) -> None:
    _, accepting = two(room)
    ((kind, content),) = accepting.accept()
    assert kind == "ready"
    named = content.get("transaction_id"), content.get("m.relates_to", {}).get("event_id")
    assert named == (("flow", None) if room is None else (None, "flow"))


def test_start_of_the_smaller_user_id_counts() -> None:
    asking, accepting = two()
    deliver(accepting.accept(), asking, accepting)
    by_alice, by_bob = asking.start(), accepting.start()
    deliver(by_bob, asking, accepting)
    deliver(by_alice, accepting, asking)
    assert asking.emoji is not None
    assert asking.emoji == accepting.emoji


def test_key_that_the_homeserver_replaced_is_not_believed() -> None:
    false = Party(BOB.user_id, BOB.device_id, {**BOB.keys, "ed25519:LAPTOP": "another key"})
    asking, accepting = with_emoji(bob=false)
    deliver(accepting.confirm(), asking, accepting)
    assert (asking.phase, asking.cancel_code) == ("cancelled", "m.key_mismatch")
    assert (accepting.phase, accepting.cancel_code) == ("cancelled", "m.key_mismatch")


def test_identity_that_the_other_device_does_not_know_is_not_confirmed() -> None:
    replaced = Party(BOB.user_id, BOB.device_id, {"ed25519:LAPTOP": "laptop key", "ed25519:new": "new"})
    asking, accepting = with_emoji(bob=replaced)
    deliver(accepting.confirm(), asking, accepting)
    assert asking.confirmed == frozenset({"ed25519:LAPTOP"})


@pytest.mark.parametrize(
    ("kind", "changed", "code"),
    [
        ("key", {"key": "hF2jYUa4Qk6J6jJqDqC4ZbKQ7sSq0m6G6Y7Dq6Y7Dq4"}, "m.mismatched_commitment"),
        ("mac", {"mac": {}}, "m.key_mismatch"),
        ("mac", {"keys": "nothing"}, "m.key_mismatch"),
        ("accept", {"hash": "md5"}, "m.unknown_method"),
        ("accept", {"short_authentication_string": ["decimal"]}, "m.unknown_method"),
        ("accept", {"commitment": "nothing"}, "m.mismatched_commitment"),
        ("start", {"short_authentication_string": ["decimal"]}, "m.unknown_method"),
        ("start", {"hashes": None}, "m.invalid_message"),
    ],
)
def test_message_that_was_changed_cancels_it(kind: str, changed: dict[str, Any], code: str) -> None:
    """Whoever changes a message on its way; the side that started it commits first."""
    asking, accepting = two()
    deliver(accepting.accept(), asking, accepting)
    sides = {"asking": asking, "accepting": accepting}

    def change(sent: Sent, to: str) -> None:
        for one, content in sent:
            content = {**content, **changed} if one == kind else content
            change(sides[to].receive(one, content), "accepting" if to == "asking" else "asking")

    change(accepting.start(), "asking")
    if accepting.emoji is not None:
        change(accepting.confirm(), "asking")
    assert {asking.cancel_code, accepting.cancel_code} == {code}
    assert asking.confirmed is None


@pytest.mark.parametrize("kind", ["mac", "key", "accept", "done", "something"])
def test_message_that_makes_no_sense_cancels_it(kind: str) -> None:
    asking, _ = two()
    ((sent, content),) = asking.receive(kind, {})
    assert (sent, content["code"]) == ("cancel", "m.unexpected_message")
    assert asking.phase == "cancelled"
    assert asking.receive("ready", {}) == [], "what is cancelled stays so"


def test_other_side_learns_that_it_was_cancelled() -> None:
    asking, accepting = with_emoji()
    deliver(asking.cancel("m.mismatched_sas", "they differ"), accepting, asking)
    assert (accepting.phase, accepting.cancel_code) == ("cancelled", "m.mismatched_sas")
    assert accepting.cancel("m.user", "too late") == []


async def test_an_event_that_cannot_be_taken_does_not_end_the_sync(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(*arguments: object) -> None:
        raise RuntimeError("the homeserver is gone")

    own: Any = SimpleNamespace(_take=fail)
    await Verifications._take_event(own, {"type": "m.key.verification.start", "content": {}}, None)
    assert "the homeserver is gone" in caplog.text
