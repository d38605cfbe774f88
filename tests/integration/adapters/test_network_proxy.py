"""The network proxy as an adapter: its six actions, between a real client and a server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web

from trafficlight.adapters.network_proxy import NetworkProxyAdapter
from trafficlight.adapters.sdk import ActionFailed, JsonObject

SYNC = "/_matrix/client/v3/sync"


class Homeserver(NamedTuple):
    url: str
    seen: list[str]


@pytest.fixture
async def homeserver() -> AsyncIterator[Homeserver]:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.path}")
        named = {"m.homeserver": {"base_url": "https://matrix.example.org/"}, "m.other": {"base_url": "x"}}
        if request.path == "/.well-known/matrix/client":
            return web.json_response(named, headers={"Access-Control-Allow-Origin": "*"})
        if request.path.endswith("/login"):
            return web.json_response({"user_id": "@a:b", "well_known": named})
        return web.json_response({})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield Homeserver(f"http://127.0.0.1:{runner.addresses[0][1]}", seen)
    await runner.cleanup()


class Proxy:
    """Proxies one after another, as a driver's process has them, and a client of them."""

    def __init__(self, folder: Path, client: aiohttp.ClientSession) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._folder, self._client = folder, client
        self.uploads: list[bytes] = []

    async def start(self) -> None:
        self._adapter = NetworkProxyAdapter(self._listener)

        async def upload(path: Path, name: str | None = None) -> str:
            self.uploads.append(await asyncio.to_thread(path.read_bytes))
            return path.name

        self._adapter.context = SimpleNamespace(storage=self._folder, upload=upload)
        await self._adapter.open()

    async def end(self) -> None:
        await self._adapter.close()

    def close(self) -> None:
        self._listener.close()

    @property
    def url(self) -> str:
        return str(self._adapter.registration().endpoint).rstrip("/")

    async def do(self, name: str, **data: str | int) -> JsonObject:
        return await self._adapter.perform(name, data)

    async def ask(self, path: str, method: str = "GET") -> aiohttp.ClientResponse:
        async with self._client.request(method, self.url + path) as answer:
            await answer.read()
            return answer


@pytest.fixture
async def proxy(tmp_path: Path, homeserver: Homeserver) -> AsyncIterator[Proxy]:
    async with aiohttp.ClientSession() as client:
        proxy = Proxy(tmp_path, client)
        await proxy.start()
        assert await proxy.do("proxyTo", url=homeserver.url) == {"response": "proxyToSet"}
        yield proxy
        await proxy.end()
        proxy.close()


async def test_a_disabled_endpoint_answers_so_that_browsers_show_it(proxy: Proxy) -> None:
    assert await proxy.do("disableEndpoint", endpoint="/sync") == {"response": "endpointDisabled"}

    refused = await proxy.ask(SYNC)
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (503, "*")
    assert (await proxy.ask(SYNC, "OPTIONS")).status == 200
    assert (await proxy.ask("/_matrix/client/v3/login")).status == 200
    assert await proxy.do("enableEndpoint", endpoint="/sync") == {"response": "endpointEnabled"}
    assert (await proxy.ask(SYNC)).status == 200


async def test_a_test_for_clients_of_the_past_names_what_clients_of_today_ask(proxy: Proxy) -> None:
    await proxy.do("disableEndpoint", endpoint="/_matrix/client/r0/sync")
    assert (await proxy.ask(SYNC)).status == 503
    assert (await proxy.ask("/_matrix/client/r0/sync")).status == 503


async def test_only_the_request_is_delayed_until_the_test_ends_the_delay(
    proxy: Proxy, homeserver: Homeserver
) -> None:
    assert await proxy.do("delayEndpoint", endpoint="/sync", delay=10**6) == {"response": "endpointDelayed"}
    # A second delay replaces the first.
    await proxy.do("delayEndpoint", endpoint="/sync", delay=2 * 10**6)
    assert (await proxy.ask(SYNC, "OPTIONS")).status == 200
    asking = asyncio.create_task(proxy.ask(SYNC))
    accessed = await proxy.do("waitUntilEndpointAccessed", endpoint="/sync")
    assert accessed == {"response": "endpointAccessed"}
    assert homeserver.seen == [f"OPTIONS {SYNC}"]

    assert await proxy.do("undelayEndpoint", endpoint="/sync") == {"response": "endpointUndelayed"}
    assert (await asking).status == 200


async def test_a_wait_counts_each_request_once_and_fails_when_none_comes(proxy: Proxy) -> None:
    await proxy.do("disableEndpoint", endpoint="/sync")
    await proxy.ask(SYNC)
    await proxy.do("waitUntilEndpointAccessed", endpoint="/sync", timeout=30_000)
    with pytest.raises(ActionFailed, match=r"no request to /sync within 0\.01 s"):
        await proxy.do("waitUntilEndpointAccessed", endpoint="/sync", timeout=10)
    await proxy.ask(SYNC)
    await proxy.do("enableEndpoint", endpoint="/sync")
    with pytest.raises(ActionFailed, match=r"no request to /sync within 0\.01 s"):
        await proxy.do("waitUntilEndpointAccessed", endpoint="/sync", timeout=10)


@pytest.mark.parametrize("path", ["/.well-known/matrix/client", "/_matrix/client/v3/login"])
async def test_a_homeserver_that_names_itself_names_the_proxy(proxy: Proxy, path: str) -> None:
    content = await (await proxy.ask(path)).json()
    named = content.get("well_known", content)
    assert named["m.homeserver"]["base_url"] == f"{proxy.url}/"
    assert named["m.other"]["base_url"] == "x"


async def test_an_answer_that_names_no_homeserver_is_not_changed(proxy: Proxy) -> None:
    await proxy.ask("/config/client/server.json")
    await proxy.end()
    assert b"base URL: answer passed" in proxy.uploads[0]
    await proxy.start()


async def test_the_next_case_finds_nothing_of_the_last(proxy: Proxy, homeserver: Homeserver) -> None:
    await proxy.do("disableEndpoint", endpoint="/sync")
    await proxy.ask(SYNC)
    url = proxy.url

    await proxy.end()
    await proxy.start()

    assert b'"status": 503' in proxy.uploads[0]
    assert proxy.url == url, "it is registered once"
    with pytest.raises(aiohttp.ClientConnectionError):
        await proxy.ask(SYNC)
    await proxy.do("proxyTo", url=f"{homeserver.url}/")
    assert (await proxy.ask(SYNC)).status == 200


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("proxyTo", {"url": "localhost"}, "'localhost' is not the base URL of a homeserver"),
        ("proxyTo", {"url": "http://a/b"}, "'http://a/b' is not the base URL of a homeserver"),
        ("disableEndpoint", {"endpoint": ""}, "'' matches nothing: name a part of a path"),
        ("enableEndpoint", {"endpoint": "http://a/sync"}, "'http://a/sync' matches nothing"),
        ("delayEndpoint", {"endpoint": "/sync?since=1", "delay": 1}, "matches nothing"),
        ("delayEndpoint", {"endpoint": "/sync", "delay": 0}, "a delay of 0 ms: name a positive one"),
    ],
)
async def test_what_has_no_effect_is_an_error(
    proxy: Proxy, name: str, data: dict[str, str | int], words: str
) -> None:
    with pytest.raises(ActionFailed, match=words):
        await proxy.do(name, **data)
