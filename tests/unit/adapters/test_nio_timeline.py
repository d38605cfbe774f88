"""The nio adapter's timeline: order, gaps, and what it would warn about."""

from itertools import pairwise
from typing import Any

import nio  # type: ignore[import-untyped,unused-ignore]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.adapters.nio.adapter import _entry
from trafficlight.adapters.nio.identity import Shield
from trafficlight.adapters.nio.timeline import Message, Timeline


def text(number: int, *, decrypted: bool = True) -> Any:
    event = nio.RoomMessageText.from_dict(
        {
            "event_id": f"${number}",
            "sender": "@alice:s",
            "origin_server_ts": number,
            "type": "m.room.message",
            "content": {"msgtype": "m.text", "body": str(number)},
        }
    )
    event.decrypted = decrypted
    return event


def texts(numbers: range) -> list[Any]:
    return [text(number) for number in numbers]


def bodies(timeline: Timeline) -> list[int]:
    return [int(message.body) for message in timeline.messages]


def test_repeated_events_are_shown_once() -> None:
    timeline = Timeline("!r")
    timeline.take(texts(range(3)))
    timeline.take(texts(range(5)))
    assert bodies(timeline) == [0, 1, 2, 3, 4]
    assert timeline.gap is None


@given(known=st.integers(0, 5), missing=st.integers(0, 25), new=st.integers(0, 5), page=st.integers(1, 10))
def test_gap_is_filled_in_order(known: int, missing: int, new: int, page: int) -> None:
    total = known + missing + new
    timeline = Timeline("!r")
    timeline.take(texts(range(known)))
    timeline.take(texts(range(known + missing, total)), gap="start")
    backwards = list(reversed(texts(range(known + missing))))
    for start in range(0, max(len(backwards), 1), page):
        more = start + page < len(backwards)
        timeline.fill(backwards[start : start + page], "more" if more else None)
    assert bodies(timeline) == list(range(total))
    assert all(first < second for first, second in pairwise(bodies(timeline)))
    assert timeline.gap is None


@pytest.mark.parametrize(
    ("message", "shield", "issues", "words"),
    [
        (Message("$", "@a:s", "x", encrypted=True), "none", [], "'x' by @a:s (encrypted)"),
        (Message("$", "@a:s", "x", encrypted=True), "grey", ["unverified device"], "'x' by @a:s (encrypted)"),
        (Message("$", "@a:s", "x", encrypted=False), "grey", ["unencrypted"], "'x' by @a:s (unencrypted)"),
    ],
)
def test_issues(message: Message, shield: Shield, issues: list[str], words: str) -> None:
    assert message.issues(room_encrypted=True, shield=shield) == issues
    assert str(message) == words


def test_clear_message_in_a_clear_room_is_fine() -> None:
    assert Message("$", "@a:s", "x", encrypted=False).issues(room_encrypted=False, shield="grey") == []
    assert Timeline("!r").describe() == "the timeline is empty"


def event(kind: str, number: str, content: dict[str, Any], sender: str = "@alice:s", **more: Any) -> Any:
    fields = {"event_id": number, "sender": sender, "origin_server_ts": 1, "type": kind, "content": content}
    return nio.Event.parse_event({**fields, **more})


def edit(number: str, of: str, body: str, sender: str = "@alice:s") -> Any:
    content = {
        "msgtype": "m.text",
        "body": f"* {body}",
        "m.new_content": {"msgtype": "m.text", "body": body},
        "m.relates_to": {"rel_type": "m.replace", "event_id": of},
    }
    return event("m.room.message", number, content, sender)


def message(number: str, body: str) -> Any:
    return event("m.room.message", number, {"msgtype": "m.text", "body": body})


def reaction(number: str, to: str, key: str, sender: str) -> Any:
    relation = {"rel_type": "m.annotation", "event_id": to, "key": key}
    return event("m.reaction", number, {"m.relates_to": relation}, sender)


def redaction(number: str, of: str) -> Any:
    return event("m.room.redaction", number, {}, redacts=of)


@given(order=st.permutations(["message", "edit", "reaction", "other"]))
def test_a_message_is_shown_with_what_arrived_about_it_in_any_order(order: list[str]) -> None:
    events = {
        "message": message("$1", "helo"),
        "edit": edit("$2", "$1", "hello"),
        "reaction": reaction("$3", "$1", "+1", "@bob:s"),
        "other": edit("$4", "$1", "mine now", sender="@bob:s"),
    }
    timeline = Timeline("!r")
    for one in order:
        timeline.take([events[one]])
    shown = [(one.body, one.edited, one.reactions) for one in timeline.messages]
    assert shown == [("hello", True, {"+1": ["@bob:s"]})]


def test_redacted_message_shows_nothing_of_itself() -> None:
    timeline = Timeline("!r")
    timeline.take([message("$1", "oops"), message("$2", "fine"), reaction("$3", "$1", "+1", "@bob:s")])
    timeline.take([redaction("$4", "$1")])
    assert [(shown.body, shown.redacted, shown.reactions) for shown in timeline.messages] == [
        ("", True, {}),
        ("fine", False, {}),
    ]
    assert timeline.describe().endswith("redacted message by @alice:s; 'fine' by @alice:s (unencrypted)")


def test_redacted_reaction_is_gone() -> None:
    timeline = Timeline("!r")
    timeline.take([message("$1", "fine"), reaction("$2", "$1", "+1", "@bob:s"), redaction("$3", "$2")])
    assert timeline.messages[0].reactions == {}


class _Keys:
    """A client whose keys have arrived: it decrypts an event to what it is told."""

    def __init__(self, **clear: Any) -> None:
        self._clear = clear

    def decrypt_event(self, event: Any) -> Any:
        return self._clear[event.event_id]


def undecrypted(number: str) -> Any:
    ids = {"session_id": "s", "sender_key": "k", "device_id": "d"}
    return event("m.room.encrypted", number, {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "", **ids})


def test_reaction_whose_key_comes_late_is_no_message() -> None:
    timeline = Timeline("!r")
    timeline.take([message("1", "hello"), undecrypted("2")])
    assert len(timeline.messages) == 2
    clear = reaction("2", "1", "👍", "@bob:s")

    assert timeline.decrypt(_Keys(**{"2": clear})) == [clear]

    (shown,) = timeline.messages
    assert shown.reactions == {"👍": ["@bob:s"]}


@pytest.mark.parametrize(("fallback", "names"), [(True, {"thread"}), (False, {"thread", "reply_to"})])
def test_the_fallback_of_a_thread_is_no_reply(fallback: bool, names: set[str]) -> None:
    relation = {
        "rel_type": "m.thread",
        "event_id": "$1",
        "m.in_reply_to": {"event_id": "$2"},
        "is_falling_back": fallback,
    }
    message = Message("$3", "@alice:s", "hello", encrypted=True, content={"m.relates_to": relation})
    entry = _entry(message, True, "none", [])
    assert entry.keys() & {"thread", "reply_to"} == names
