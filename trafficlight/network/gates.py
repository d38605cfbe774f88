"""Connections between homeservers: TLS passthrough, or interception where a rule or a recording needs it."""

import asyncio
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trafficlight.network.forwarding import ClientSide, Connection, Dropped, PassingExchange, joined
from trafficlight.network.http1 import Head, parse_head

_ORIGIN = re.compile(r'X-Matrix\s(?:[^"]|"[^"]*")*?(?<![\w-])origin\s*=\s*"?([^",\s]+)', re.IGNORECASE)
# What a recording has of a connection whose requests are not seen.
_CONNECT = parse_head(b"CONNECT / HTTP/1.1\r\n\r\n")
_CONNECTED = parse_head(b"HTTP/1.1 200 Connected\r\n\r\n")


def origin_of(request: Head) -> str:
    """Return the server name of the homeserver that signed a request; empty if none did."""
    found = _ORIGIN.match(request.get("authorization") or "")
    return found[1] if found is not None else ""


@dataclass(frozen=True)
class Gate:
    """The port at which the others find a destination homeserver.

    :param target: its base URL.
    :param lines: the lines to it, by the server name of the source homeserver.
    :param unsigned: the line of unsigned requests, if there are several others.
    :param inward: presents its certificate to the source.
    :param outward: checks its certificate.
    """

    target: str
    lines: Mapping[str, ClientSide]
    unsigned: ClientSide
    inward: ssl.SSLContext
    outward: ssl.SSLContext


def contexts(certificate: Path, private_key: Path, authority: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts for the source and for the destination. Blocks."""
    inward = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    inward.load_cert_chain(certificate, private_key)
    return inward, ssl.create_default_context(cafile=str(authority))


class FederationConnection(Connection):
    """A connection of a homeserver to another one."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        only = next(iter(gate.lines.values())) if len(gate.lines) == 1 else gate.unsigned
        super().__init__(only, gate.target, gate.outward)

    @property
    def _cut_off(self) -> bool:
        return bool(self._line.offline or all(line.offline for line in self._gate.lines.values()))

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.task, first = asyncio.current_task(), self._line
        first.connections.add(self)
        try:
            if first.passthrough:
                await self._pass_through(reader, writer)
                return
            try:
                if self._cut_off:
                    raise ConnectionError
                await writer.start_tls(self._gate.inward)
            except (OSError, asyncio.CancelledError):
                writer.transport.abort()
                return
            await super()._run(reader, writer)
        finally:
            first.connections.discard(self)

    async def _exchange(self, request: Head) -> bool:
        self._line.connections.discard(self)
        self._line = self._gate.lines.get(origin_of(request), self._line)
        self._line.connections.add(self)
        if self._cut_off:
            raise Dropped
        return await super()._exchange(request)

    async def _pass_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection as it is, encrypted."""
        line, exchange, up = self._line, PassingExchange(_CONNECT), None
        try:
            if not self._cut_off:
                up = await self._connected(None)
                exchange.response, exchange.answered = _CONNECTED, time.monotonic()
                await joined((reader, up[1], exchange.sent), (up[0], writer, exchange.received))
        except (OSError, asyncio.CancelledError):
            pass  # what a homeserver sees of another one that is not there, or is cut off
        finally:
            for one in (writer, up[1] if up is not None else None):
                if one is not None:
                    one.close() if not self._cut_off else one.transport.abort()
            line.record(line.urls[self._target], exchange)
