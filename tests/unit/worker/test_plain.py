"""What may travel to an adapter."""

import enum
from datetime import datetime
from typing import Any

import pytest

from trafficlight.worker.plain import plain


class Word(enum.StrEnum):
    SHARED = "shared"


@pytest.mark.parametrize(
    "value", ["text", "", 1, 1.5, True, None, [], {"a": [1, {"b": None}]}, "\ud800", "\N{SNOWMAN}"]
)
def test_json_goes_through(value: Any) -> None:
    assert plain("login", {"value": value}) == {"value": value}


def test_what_is_almost_json_becomes_json() -> None:
    found = plain("login", {"word": Word.SHARED, "pair": (1, 2)})
    assert found == {"word": "shared", "pair": [1, 2]}
    assert type(found["word"]) is str


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", datetime(2026, 11, 21), float("nan"), lambda: 0])
def test_what_is_none_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^send_message: cannot be sent as JSON: wrong=") as raised:
        plain("send_message", {"right": "text", "wrong": value})
    assert "right=" not in str(raised.value)


def test_what_contains_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(TypeError, match="cannot be sent as JSON"):
        plain("send_message", {"value": value})
