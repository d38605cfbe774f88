"""What a body may hold, and that large ones are not walked through for nothing."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from trafficlight.http import requests
from trafficlight.http.requests import Bodies, parse_object
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
    assert await Bodies().read_object(sent(json.dumps(body).encode())) == body


async def sent(raw: bytes, last: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Send a body, but its last byte only when `last` is set."""
    yield raw[:-1]
    if last is not None:
        await last.wait()
    yield raw[-1:]


def body_of(size: int) -> bytes:
    return b'{"x":"%s"}' % (b"x" * size)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_large_body_waits_for_its_turn_and_a_small_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred large ones that lacked a byte took gigabytes."""
    monkeypatch.setattr(requests, "_LARGE_AT_ONCE", 1)
    bodies = Bodies()
    large, last = body_of(requests.LARGE), asyncio.Event()
    first = asyncio.create_task(bodies.read_object(sent(large, last)))
    await turns()
    second = asyncio.create_task(bodies.read_object(sent(large)))
    await turns()
    assert not second.done()
    assert len((await bodies.read_object(sent(body_of(100_000))))["x"]) == 100_000
    last.set()
    assert await first == await second
    monkeypatch.setattr(requests, "_TURN", 0)
    last.clear()
    first = asyncio.create_task(bodies.read_object(sent(large, last)))
    await turns()
    with pytest.raises(ApiError) as refused:
        await bodies.read_object(sent(large))
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "5")
    last.set()
    await first
    assert bodies.together == 0


async def test_all_small_bodies_have_a_limit_together_but_tiny_ones_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "_TOGETHER", 200_000)
    bodies = Bodies()
    last = asyncio.Event()
    first = asyncio.create_task(bodies.read_object(sent(body_of(150_000), last)))
    await turns()
    with pytest.raises(ApiError, match="too many request bodies; retry later"):
        await bodies.read_object(sent(body_of(60_000)))
    assert await bodies.read_object(sent(body_of(1000)))
    last.set()
    await first
    assert await bodies.read_object(sent(body_of(60_000)))
    assert bodies.together == 0


async def test_a_large_body_that_trickles_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve of them kept all others out."""
    monkeypatch.setattr(requests, "_LARGE_GRACE", 0)
    bodies = Bodies()
    with pytest.raises(ApiError, match="only 262151 bytes of a large body") as refused:
        await bodies.read_object(sent(body_of(requests.LARGE), asyncio.Event()))
    assert refused.value.status == 408
    assert not bodies.large.locked()
