"""HTTP/1.1 messages, read from a stream as the bytes that they are.

Libraries parse a message and serialise it again; the proxy forwards it byte for byte. So this reads only what
says where a message ends (RFC 9112, section 6), and keeps the bytes.
"""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus

LIMIT = 256 << 10
"""Bytes of a head, and of one part of a body."""

Headers = list[tuple[str, str]]


class ProtocolError(Exception):
    """What was sent is not HTTP/1.1; one line."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of a message.

    :param raw: its bytes, with the empty line.
    :param start: its first line, in three parts.
    :param headers: names and values, in order.
    :param first: the first value of each header, by its name in lower case.
    """

    raw: bytes
    start: tuple[str, str, str]
    headers: Headers
    first: dict[str, str]

    def get(self, name: str) -> str | None:
        """Return the value of a header; None if it is not there."""
        return self.first.get(name)

    @property
    def chunked(self) -> bool:
        """Whether the body is in chunks."""
        return (self.get("transfer-encoding") or "").lower().endswith("chunked")

    @property
    def length(self) -> int | None:
        """The bytes of the body, as the head says; None if it does not.

        :raises ProtocolError: it is not a number.
        """
        if self.chunked or (stated := self.get("content-length")) is None:
            return None
        if not (stated.isascii() and stated.isdigit()):
            raise ProtocolError(f"Content-Length is {stated!r}")
        return int(stated)

    @property
    def method(self) -> str:
        """The method of a request."""
        return self.start[0]

    @property
    def target(self) -> str:
        """The target of a request: its path, with the query."""
        return self.start[1]

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start[1])

    def has_body(self, method: str) -> bool:
        """Return whether a response to a request of this method has a body."""
        return method != "HEAD" and self.status >= 200 and self.status not in (204, 304)


def parse_head(raw: bytes) -> Head:
    """Return the parts of a head.

    :raises ProtocolError: it is not one.
    """
    first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    start = first.split(" ", 2)
    if len(start) == 2:
        start.append("")  # a response without a reason
    if len(start) != 3 or not ("HTTP/1." in start[0] or "HTTP/1." in start[2]):
        raise ProtocolError(f"not HTTP/1.1: {first[:80]!r}")
    if start[0].startswith("HTTP/") and not re.fullmatch("[0-9]{3}", start[1]):
        raise ProtocolError(f"not a status: {first[:80]!r}")
    headers: Headers = []
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ProtocolError(f"not a header: {line[:80]!r}")
        headers.append((name, value.strip()))
        found.setdefault(name.lower(), headers[-1][1])
    return Head(raw, (start[0], start[1], start[2]), headers, found)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read a head; None if the connection ends before it.

    :raises ProtocolError: what comes is not HTTP/1.1, or ends in the middle.
    """
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
        while raw.startswith(b"\r\n"):  # RFC 9112, section 2.2: empty lines before a message
            raw = raw[2:] or await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise ProtocolError("the connection ended in the middle of a head") from None
        return None
    except asyncio.LimitOverrunError:
        raise ProtocolError(f"a head has more than {LIMIT:,} bytes") from None
    return parse_head(raw)


async def read_body(
    reader: asyncio.StreamReader, head: Head, *, to_the_end: bool = False
) -> AsyncIterator[tuple[bytes, bytes]]:
    """Yield the parts of a body as they arrive: the bytes on the wire, and those of them that are content.

    :param to_the_end: whether a body without length ends with the connection, as that of a response.
    :raises ProtocolError: the body ends too early, or its chunks are malformed.
    """
    try:
        if head.chunked:
            async for part in _chunks(reader):
                yield part
        elif (left := head.length) is not None:
            while left:
                part_ = await reader.read(min(left, LIMIT))
                if not part_:
                    raise ProtocolError(f"the body ended {left:,} bytes too early")
                left -= len(part_)
                yield part_, part_
        elif to_the_end:
            while part_ := await reader.read(LIMIT):
                yield part_, part_
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise ProtocolError("the body ended in the middle of a chunk") from None


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    """Yield the parts of a body in chunks (RFC 9112, section 7.1), with extensions and trailers."""
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            left = int(line.split(b";")[0], 16)
        except ValueError:
            raise ProtocolError(f"not the size of a chunk: {line[:40]!r}") from None
        yield line, b""
        if not left:
            break
        while left:
            part = await reader.read(min(left, LIMIT))
            if not part:
                raise ProtocolError(f"the body ended {left:,} bytes too early")
            left -= len(part)
            yield part, part
        yield await reader.readexactly(2), b""
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        yield line, b""
    yield line, b""


def render_request(method: str, target: str, headers: Headers, body: bytes) -> bytes:
    """Return a request as bytes."""
    return _rendered(f"{method} {target} HTTP/1.1", headers, body)


def render_response(status: int, headers: Headers, body: bytes) -> bytes:
    """Return a response as bytes."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    return _rendered(f"HTTP/1.1 {status} {reason}", headers, body)


_FRAMING = frozenset({"content-length", "transfer-encoding"})


def _rendered(start: str, headers: Headers, body: bytes) -> bytes:
    kept = [(name, value) for name, value in headers if name.lower() not in _FRAMING]
    lines = [start, *(f"{name}: {value}" for name, value in [*kept, ("Content-Length", str(len(body)))])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace") + body


def decoded(content: bytes, encoding: str, limit: int) -> bytes:
    """Return a body without its content encoding, also one that is cut; as it is where that is not known.

    :param limit: bytes of the result.
    """
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return content
    try:
        return zlib.decompressobj(wbits=47).decompress(content, limit)  # 47: gzip or zlib
    except zlib.error:
        return content
