"""Route requests to the main process of a Synapse or to a worker, as a reverse proxy in front of it does.

Usage: ``synapse_router.py JSON``, with ``ports`` (client, federation), ``certificate`` (file, key), and the
sockets of ``main`` and ``reader``.
"""

import asyncio
import json
import re
import ssl
import sys
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector, web
from yarl import URL

# What a generic worker answers without being the writer of a stream; all else is the main process's.
READER = re.compile(
    r"/_matrix/client/(api/v1|r0|v3|unstable)/("
    r"sync|events|initialSync|createRoom|publicRooms|search|joined_rooms|login|register|account/whoami"
    r"|(join|knock|profile)/.*|keys/(query|changes)"
    r"|rooms/[^/]+/(initialSync|joined_members|members|context/.*|messages|event/.*|state(/.*)?|aliases|send/.*"
    r"|redact(/.*)?|(join|knock|invite|leave|kick|ban|unban)))$"
    r"|/_matrix/client/(v1|unstable)/rooms/[^/]+/(hierarchy|relations/.*|threads)$"
    r"|/_matrix/federation/(v1/(event|state|state_ids|backfill|get_missing_events|publicRooms|query|make_join"
    r"|make_leave|send_join|send_leave|invite|event_auth|user/devices|hierarchy|send)"
    r"|v2/(send_join|send_leave|invite))(/.*)?$"
)
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade"})


class Router:
    """Forwards every request, and streams both bodies."""

    def __init__(self, main: str, reader: str) -> None:
        # Long polls have no end.
        self._main, self._reader = (
            ClientSession(
                connector=UnixConnector(path, limit=0), timeout=ClientTimeout(), auto_decompress=False
            )
            for path in (main, reader)
        )

    async def forward(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the answer of the process that a request is for."""
        session = self._reader if READER.match(request.rel_url.raw_path) else self._main
        headers = [one for one in request.headers.items() if one[0].lower() not in _HOP_BY_HOP]
        headers += [("X-Forwarded-For", request.remote or ""), ("X-Forwarded-Proto", request.scheme)]
        body = request.content if request.body_exists else None
        url = URL(f"http://localhost{request.raw_path}", encoded=True)
        try:
            async with session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        response.headers.add(name, value)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response
        except ClientError as error:
            return web.Response(status=502, text=str(error))


async def _serve(options: dict[str, Any]) -> None:
    router = Router(options["main"], options["reader"])
    runner = web.ServerRunner(web.Server(router.forward))
    await runner.setup()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*options["certificate"])
    for port, context in zip(options["ports"], (None, tls), strict=True):
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
