"""What a body may hold, and that large ones are not walked through for nothing."""

import json

import pytest

from trafficlight.http import requests
from trafficlight.http.requests import parse_object, parsed_object
from trafficlight.http.responses import ApiError


@pytest.mark.parametrize("escape", [r"\ud800", r"\uD800", r"\udC00"])
def test_half_surrogate_pairs_are_replaced(escape: str) -> None:
    raw = f'{{"a{escape}": ["b{escape}", {{"c": "{escape}"}}]}}'.encode()
    assert parse_object(raw) == {"a\ufffd": ["b\ufffd", {"c": "\ufffd"}]}


def test_surrogate_pairs_are_kept() -> None:
    assert parse_object(rb'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_nesting_is_limited(opening: str) -> None:
    closing = "}" if opening.startswith("{") else "]"

    def nested(levels: int) -> bytes:
        return ('{"x":' + opening * (levels - 1) + "1" + closing * (levels - 1) + "}").encode()

    parse_object(nested(64))
    with pytest.raises(ApiError, match="nested deeper than 64 levels"):
        parse_object(nested(65))


async def test_a_large_body_is_parsed_without_a_look_at_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(requests, "_sanitized")
    body = {"numbers": list(range(100_000)), "text": "x" * 1_000_000}
    assert await parsed_object(json.dumps(body).encode()) == body
