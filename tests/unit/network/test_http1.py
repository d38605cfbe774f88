"""Messages are read as the bytes that they are."""

import asyncio
import contextlib
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.network.http1 import (
    LIMIT,
    ProtocolError,
    decoded,
    parse_head,
    read_body,
    read_head,
    render_response,
)


async def _read(sent: list[bytes], *, to_the_end: bool = False) -> tuple[bytes, bytes, bytes, bytes]:
    """Return a message's head, its body as bytes on the wire and as content, and what follows it."""
    reader = asyncio.StreamReader(limit=LIMIT)

    async def feed() -> None:
        for part in sent:
            reader.feed_data(part)
            await asyncio.sleep(0)
        reader.feed_eof()

    feeding = asyncio.create_task(feed())
    head = await read_head(reader)
    assert head is not None
    parts = [part async for part in read_body(reader, head, to_the_end=to_the_end)]
    await feeding
    rest = await reader.read()
    return head.raw, b"".join(raw for raw, _ in parts), b"".join(content for _, content in parts), rest


def _split(data: st.DataObject, whole: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=8)))
    return [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(st.binary(max_size=300), st.binary(max_size=20), st.data())
def test_a_body_with_a_length(body: bytes, rest: bytes, data: st.DataObject) -> None:
    head = f"PUT /x HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:{len(body)}\r\n\r\n".encode()
    found = asyncio.run(_read(_split(data, head + body + rest)))
    assert found == (head, body, body, rest)


@given(
    st.lists(st.binary(min_size=1, max_size=80), max_size=6), st.booleans(), st.binary(max_size=9), st.data()
)
def test_a_body_in_chunks(chunks: list[bytes], extras: bool, rest: bytes, data: st.DataObject) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    extension, trailer = (b";a=b", b"X-Sum: 1\r\n") if extras else (b"", b"")
    framed = b"".join(b"%X%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    body = framed + b"0\r\n" + trailer + b"\r\n"
    found = asyncio.run(_read(_split(data, head + body + rest)))
    assert found == (head, body, b"".join(chunks), rest)


@given(st.binary(max_size=300), st.data())
def test_a_body_until_the_end(body: bytes, data: st.DataObject) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    found = asyncio.run(_read(_split(data, head + body), to_the_end=True))
    assert found == (head, body, body, b"")


@given(st.binary(max_size=200))
def test_anything_is_read_or_refused(sent: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        asyncio.run(_read([sent + b"x\r\n\r\n"]))


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc", "the body ended 2 bytes too early"),
        (b"PUT /x HTTP/1.1\r\nContent-Length: -5\r\n\r\n", "Content-Length is '-5'"),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not the size of a chunk"),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "too early"),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab", "in the middle of a chunk"),
        (b"PUT /x HTTP/1.1\r\nHost", "in the middle of a head"),
        (b"PUT /x HTTP/2\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 fine\r\n\r\n", "not a status"),
        ("HTTP/1.1 20² OK\r\n\r\n".encode("latin-1"), "not a status"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "not a header"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * LIMIT + b"\r\n\r\n", "a head has more than"),
    ],
)
async def test_what_is_refused(sent: bytes, problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        await _read([sent])


def test_which_answers_have_a_body() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\n\r\n")
    assert head.has_body("GET")
    assert not head.has_body("HEAD")
    for status in (b"204", b"304", b"101"):
        assert not parse_head(b"HTTP/1.1 " + status + b"\r\n\r\n").has_body("GET")


def test_a_status_without_a_name_is_rendered() -> None:
    assert render_response(599, [("A", "b"), ("Transfer-Encoding", "chunked")], b"x") == (
        b"HTTP/1.1 599 \r\nA: b\r\nContent-Length: 1\r\n\r\nx"
    )


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_a_compressed_body_that_is_cut_shows_its_beginning(content: bytes, cut: int) -> None:
    shown = decoded(gzip.compress(content)[:cut], "gzip", 1000)
    assert content.startswith(shown)
    assert decoded(gzip.compress(content), "gzip", 1000) == content[:1000]


def test_other_encodings_are_left_as_they_are() -> None:
    assert decoded(b"abc", "br", 10) == b"abc"
    assert decoded(b"abc", "gzip", 10) == b"abc"
