"""A client that costs next to nothing: one kept-alive connection, written by hand."""

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


class Connection:
    """One connection to a server.

    :param url: the base URL of the server.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the server."""
        return self._host, self._port

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        media_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Return the status and body of an answer."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        if body or method == "POST":
            head += f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        await self._writer.drain()
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        _, _, rest = answer.partition("content-length:")
        length = int(rest.split("\r\n", 1)[0]) if rest else 0
        content = await self._reader.readexactly(length)
        if "\r\nconnection: close" in answer:
            self._writer.close()
            self._reader = self._writer = None
        return int(answer.split(" ", 2)[1]), content

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of an answer.

        :raises RuntimeError: the status is not 200.
        """
        status, raw = await self.request(method, path, b"" if body is None else json.dumps(body).encode())
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {raw[:200]!r}")
        return json.loads(raw)
