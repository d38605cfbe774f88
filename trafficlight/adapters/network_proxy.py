"""The driver of the network proxy: the lab's own proxy, as an adapter that tests name in a role.

Clients take it for their homeserver. What a case has changed ends with the case.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trafficlight.adapters.sdk import ActionFailed, Adapter, JsonObject, action, drive
from trafficlight.network.connection import decision_of
from trafficlight.network.forwarding import ActiveRule, ClientSide, Connection, PassingExchange
from trafficlight.network.har import Recording
from trafficlight.network.rules import Matcher
from trafficlight.protocol import Registration
from trafficlight.version import VERSION

# Answers in which a homeserver may name itself.
_DISCOVERY = Matcher(r"/login$|/\.well-known/matrix/client$|/client/server\.json$", pattern=True)
_PORT = "port"


class _Endpoint:
    """What the case wants of one endpoint."""

    def __init__(self) -> None:
        self.blocked = False
        self.delay = 0.0
        self.changed = asyncio.Event()
        self.accessed = asyncio.Event()

    def change(self, *, blocked: bool | None = None, delay: float | None = None) -> None:
        """Apply to what comes, and to what is delayed already; only later requests count as accesses."""
        self.blocked = self.blocked if blocked is None else blocked
        self.delay = self.delay if delay is None else delay
        self.changed.set()
        self.changed = asyncio.Event()
        self.accessed.clear()

    async def decide(self) -> dict[str, Any]:
        """Return what becomes of a request."""
        self.accessed.set()
        if self.delay:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), self.delay)
        if not self.blocked:
            return decision_of("passed")
        body = {"errcode": "M_UNKNOWN", "error": "disabled by the test"}
        return decision_of("answered", 503, [("Content-Type", "application/json")], json.dumps(body).encode())


class NetworkProxyAdapter(Adapter):
    """The proxy for one case.

    :param listener: the socket on which it accepts clients, of the whole process: one port is registered.
    """

    type = "network-proxy"
    version = VERSION

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="recording")
        self._line = ClientSide(self._decide, self._disk, offline=1)
        self._endpoints: dict[str, tuple[int, _Endpoint]] = {}
        self._target = ""

    def registration(self) -> Registration:
        """Return the registration, with the base URL for clients."""
        return super().registration().model_copy(update={"endpoint": self._endpoint})

    async def open(self) -> None:
        """Accept clients, whose connections are cut until it is known where to forward."""
        loop = asyncio.get_running_loop()
        port = str(self._listener.getsockname()[1])
        await asyncio.to_thread((self.context.storage / _PORT).write_text, port)
        self._line.recording = await loop.run_in_executor(self._disk, Recording, self._recording)
        self._line.rules[0] = ActiveRule(0, "base URL", _DISCOVERY, request=False, response=True)
        self._line.servers.append(
            await loop.create_server(
                lambda: Connection(self._line, self._target).protocol, sock=self._listener.dup()
            )
        )

    async def close(self) -> None:
        """Cut the clients' connections, and leave the recording of what they asked."""
        recorded = self._line.recording is not None
        await self._line.close()
        await asyncio.to_thread(self._disk.shutdown)
        if recorded:
            await self.context.upload(self._recording)

    @property
    def _recording(self) -> Path:
        return self.context.storage / "network.har"

    @action("proxyTo")
    async def proxy_to(self, url: str) -> JsonObject:
        """Forward all requests to a base URL. Connections to another one are cut."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ActionFailed(f"{url!r} is not the base URL of a homeserver: write http://host:port")
        self._target = url.rstrip("/")
        self._line.urls[self._target] = self._endpoint.rstrip("/")
        await self._line.disconnect()
        self._line.offline = 0
        return {"response": "proxyToSet"}

    @action("disableEndpoint")
    async def disable_endpoint(self, endpoint: str) -> JsonObject:
        """Answer requests to an endpoint with 503, and with the headers that let browsers show it."""
        self._named(endpoint).change(blocked=True)
        return {"response": "endpointDisabled"}

    @action("enableEndpoint")
    async def enable_endpoint(self, endpoint: str) -> JsonObject:
        """Forward requests to a disabled endpoint again."""
        self._named(endpoint).change(blocked=False)
        return {"response": "endpointEnabled"}

    @action("delayEndpoint")
    async def delay_endpoint(self, endpoint: str, delay: int) -> JsonObject:
        """Delay requests to an endpoint, other than the preflights of browsers, by milliseconds."""
        if delay <= 0:
            raise ActionFailed(f"a delay of {delay} ms: name a positive one, or undelayEndpoint")
        self._named(endpoint).change(delay=delay / 1000)
        return {"response": "endpointDelayed"}

    @action("undelayEndpoint")
    async def undelay_endpoint(self, endpoint: str) -> JsonObject:
        """Delay requests to an endpoint no longer, those that are delayed already included."""
        self._named(endpoint).change(delay=0)
        return {"response": "endpointUndelayed"}

    @action("waitUntilEndpointAccessed")
    async def wait_until_endpoint_accessed(self, endpoint: str, timeout: int = 15_000) -> JsonObject:
        """Wait for a request, or return at once if one came since the endpoint was last named."""
        named = self._named(endpoint)
        try:
            await asyncio.wait_for(named.accessed.wait(), timeout / 1000)
        except TimeoutError:
            raise ActionFailed(f"no request to {endpoint} within {timeout / 1000:g} s") from None
        named.accessed.clear()
        return {"response": "endpointAccessed"}

    def _named(self, endpoint: str) -> _Endpoint:
        """Return an endpoint; from now on its requests count.

        :raises ActionFailed: no request can match it.
        """
        if not endpoint or "://" in endpoint or "?" in endpoint:
            raise ActionFailed(f"{endpoint!r} matches nothing: name a part of a path, such as /sendToDevice")
        if endpoint not in self._endpoints:
            # Tests for clients of the past name /r0/, which is /v3/ today.
            pattern = re.sub("/client/(?:r0|v3)/", "/client/(?:r0|v3)/", re.escape(endpoint))
            id = len(self._endpoints) + 1
            self._endpoints[endpoint] = id, _Endpoint()
            matcher = Matcher(pattern, pattern=True)
            self._line.rules[id] = ActiveRule(id, endpoint, matcher, request=True, response=False)
        return self._endpoints[endpoint][1]

    async def _decide(
        self, rule: ActiveRule, exchange: PassingExchange, stage: str, body: bytes
    ) -> dict[str, Any]:
        if stage == "request":
            return await self._endpoints[rule.name][1].decide()
        assert exchange.response is not None
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return decision_of("passed")
        servers = list(_homeservers(content))
        if not servers:
            return decision_of("passed")
        for server in servers:
            server["base_url"] = self._endpoint
        # The body has no content encoding any more.
        headers = [one for one in exchange.response.headers if one[0].lower() != "content-encoding"]
        return decision_of("changed", exchange.response.status, headers, json.dumps(content).encode())


def _homeservers(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the places in which discovery information names a homeserver."""
    if isinstance(content, dict):
        for one in (content, content.get("well_known")):
            if isinstance(one, dict) and isinstance(found := one.get("m.homeserver"), dict):
                yield found


def _listener(port: Path) -> socket.socket:
    """Return a socket that listens, on the port of the process before this one where there was one."""
    number = int(port.read_text()) if port.exists() else 0
    return socket.create_server(("127.0.0.1", number), backlog=256)


async def _main() -> None:
    port = Path(os.environ["TRAFFICLIGHT_STORAGE"]) / _PORT
    with await asyncio.to_thread(_listener, port) as listener:
        await drive(lambda: NetworkProxyAdapter(listener))


if __name__ == "__main__":
    asyncio.run(_main())
