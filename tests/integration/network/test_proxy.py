"""The proxy process between real HTTP clients and servers."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
from aiohttp import web

from trafficlight.coordinator import network as network_module
from trafficlight.coordinator.network import NetworkProxy, RunningProxy
from trafficlight.errors import ActionError, LabError, Skipped
from trafficlight.network.connection import CaseNetwork
from trafficlight.network.control import ClientNetwork, Exchange

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Setting(NamedTuple):
    """A case whose client reaches a homeserver through the proxy."""

    network: ClientNetwork
    url: str
    recording: Path
    changes: list[tuple[str, str, bool]]


@pytest.fixture
async def proxy() -> AsyncIterator[RunningProxy]:
    lab = NetworkProxy()
    yield await lab.running()
    await lab.close()


def _socket_of(proxy: RunningProxy | None) -> Callable[[], Awaitable[Path]]:
    async def socket() -> Path:
        assert proxy is not None
        return proxy.socket

    return socket


@contextlib.asynccontextmanager
async def case(proxy: RunningProxy, target: str, folder: Path, role: str = "alice") -> AsyncIterator[Setting]:
    changes: list[tuple[str, str, bool]] = []
    network = CaseNetwork(
        _socket_of(proxy),
        record=True,
        recording=lambda role: folder / f"{role}.har",
        on_change=lambda *change: changes.append(change),
    )
    client = ClientNetwork(role, network)
    try:
        yield Setting(client, await client.url_for(target), folder / f"{role}.har", changes)
    finally:
        await network.close()


@contextlib.asynccontextmanager
async def raw_server(connected: Connected) -> AsyncIterator[str]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await connected(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    seen = {"method": request.method, "target": request.raw_path, "body": body.decode()}
    return web.json_response(seen, headers={"X-Seen": request.headers.get("X-Sent", "")})


@pytest.fixture
async def homeserver() -> AsyncIterator[str]:
    """A server that answers with what it was asked."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def setting(proxy: RunningProxy, homeserver: str, tmp_path: Path) -> AsyncIterator[Setting]:
    async with case(proxy, homeserver, tmp_path) as found:
        yield found


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


def recorded(path: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(path.read_bytes())["log"]["entries"]
    return entries


async def entries(path: Path, count: int) -> list[dict[str, Any]]:
    """Wait until a recording has this many entries, and return them."""
    async with asyncio.timeout(10):
        while len(found := recorded(path)) < count:
            await asyncio.sleep(0.01)
    return found


# What passes


ANSWERS = [
    b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nx-Odd :  a  \r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
]


async def test_bytes_pass_untouched(proxy: RunningProxy, tmp_path: Path) -> None:
    requests = [
        b"GET /a?b=%20c HTTP/1.1\r\nhost:  127.0.0.1 \r\nX-a: 1\r\nX-A:2\r\n\r\n",
        b"PUT /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /c HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabc",
        b"DELETE /d HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /e HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    got = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for request, answer in zip(requests, ANSWERS, strict=True):
            got.append(await reader.readexactly(len(request)))
            writer.write(answer)

    async with raw_server(serve) as target, case(proxy, target, tmp_path) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.url.rpartition(":")[2])
        for request, answer in zip(requests, ANSWERS, strict=True):
            writer.write(request)
            assert await reader.readexactly(len(answer)) == answer
        assert await reader.read() == b""
        writer.close()
        assert got == requests
        assert [one["response"]["status"] for one in await entries(found.recording, 6)] == [
            200,
            200,
            204,
            304,
            500,
            200,
        ]


async def test_pipelined_requests_are_answered_in_order(setting: Setting) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setting.url.rpartition(":")[2])
    writer.write(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answers = await reader.read()
    writer.close()
    assert answers.index(b'"/1"') < answers.index(b'"/2"')


async def test_a_head_request_has_an_answer_without_a_body(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    for _ in range(2):  # the second one shows that the connection is in step
        async with client.head(f"{setting.url}/x") as answer:
            assert answer.status == 200
            assert int(answer.headers["Content-Length"]) > 0


async def test_a_client_may_wait_for_100_continue(setting: Setting, client: aiohttp.ClientSession) -> None:
    async with client.put(f"{setting.url}/x", data=b"abc", expect100=True) as answer:
        assert (await answer.json())["body"] == "abc"


async def test_a_websocket_passes(proxy: RunningProxy, tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async def repeat(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data * 2)
        return socket

    application = web.Application()
    application.router.add_get("/socket", repeat)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with case(proxy, f"http://127.0.0.1:{runner.addresses[0][1]}", tmp_path) as found:
        async with client.ws_connect(f"{found.url}/socket") as socket:
            await socket.send_str("ab")
            assert (await socket.receive()).data == "abab"
    await runner.cleanup()


async def test_a_client_that_goes_frees_the_homeserver(proxy: RunningProxy, tmp_path: Path) -> None:
    """An open long poll of a client that was killed must not be answered."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with raw_server(serve) as target, case(proxy, target, tmp_path) as found:
        _, writer = await asyncio.open_connection("127.0.0.1", found.url.rpartition(":")[2])
        writer.write(b"GET /sync HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            await asked.wait()
            writer.close()
            await gone.wait()
        (entry,) = await entries(found.recording, 1)
        assert entry["response"]["status"] == 0


async def test_a_homeserver_that_is_away_is_away(
    proxy: RunningProxy, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with raw_server(lambda reader, writer: asyncio.sleep(0)) as target:
        pass
    async with case(proxy, target, tmp_path) as found:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get(f"{found.url}/sync")


async def test_what_is_not_http_is_cut_off(setting: Setting) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setting.url.rpartition(":")[2])
    writer.write(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()


async def test_a_prefix_of_the_homeserver_stays(
    proxy: RunningProxy, homeserver: str, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with case(proxy, f"{homeserver}/prefix", tmp_path) as found:
        async with client.get(f"{found.url}/sync") as answer:
            assert (await answer.json())["target"] == "/prefix/sync"


# Rules


async def test_block(setting: Setting, client: aiohttp.ClientSession) -> None:
    async with setting.network.block("PUT", "/keys/query", status=429, json={"errcode": "M_X"}) as rule:
        async with client.put(f"{setting.url}/v3/keys/query", data=b"abc") as answer:
            assert answer.status == 429
            assert await answer.json() == {"errcode": "M_X"}
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
        async with client.get(f"{setting.url}/v3/keys/query") as answer:
            assert answer.status == 200
    assert [(one.method, one.path, one.body) for one in rule.exchanges] == [("PUT", "/v3/keys/query", b"abc")]
    async with client.put(f"{setting.url}/v3/keys/query") as answer:
        assert answer.status == 200
    assert setting.changes == [
        ("alice", "block PUT /keys/query with 429", True),
        ("alice", "block PUT /keys/query with 429: 1 matched", False),
    ]
    comments = [one.get("comment") for one in await entries(setting.recording, 3)]
    assert comments == ["block PUT /keys/query with 429: answered", None, None]


@pytest.mark.parametrize(
    ("options", "statuses"),
    [({"times": 2}, [503, 503, 200, 200]), ({"nth": 2}, [200, 503, 200, 200]), ({}, [503] * 4)],
)
async def test_how_many_matches_count(
    setting: Setting, client: aiohttp.ClientSession, options: Any, statuses: list[int]
) -> None:
    async with setting.network.block("/x", **options):
        found = []
        for _ in range(4):
            async with client.get(f"{setting.url}/x") as answer:
                found.append(answer.status)
    assert found == statuses


async def test_intercept_changes_request_and_answer(setting: Setting, client: aiohttp.ClientSession) -> None:
    def ask_more(exchange: Exchange) -> None:
        exchange.json = exchange.json | {"more": 1}
        exchange.headers.append(("X-Sent", "by the test"))

    async def answer_less(exchange: Exchange) -> None:
        assert exchange.status == 200
        exchange.json = json.loads(exchange.json["body"])
        exchange.status = 201

    async with setting.network.intercept("/x", on_request=ask_more, on_response=answer_less, body={"a": 1}):
        async with client.post(f"{setting.url}/x", json={"a": 1, "b": 2}) as answer:
            assert answer.status == 201
            assert answer.headers["X-Seen"] == "by the test"
            assert await answer.json() == {"a": 1, "b": 2, "more": 1}
        async with client.post(f"{setting.url}/x", json={"a": 2}) as answer:
            assert answer.status == 200


async def test_hold_the_request(setting: Setting, client: aiohttp.ClientSession) -> None:
    async with setting.network.hold("/x") as rule:
        asking = [asyncio.create_task(client.post(f"{setting.url}/x?{name}")) for name in "abcd"]
        held = {(await rule.next()).exchange.target: one for one in range(4)}
        assert sorted(held) == ["/x?a", "/x?b", "/x?c", "/x?d"]
        first, second, third, _ = rule._held
        assert not any(task.done() for task in asking)
        first.release()
        second.answer(418)
        third.drop()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    statuses = sorted(answer.status for answer in answers if isinstance(answer, aiohttp.ClientResponse))
    assert statuses == [200, 200, 418]
    assert sum(isinstance(answer, aiohttp.ClientConnectionError) for answer in answers) == 1
    for answer in answers:
        if isinstance(answer, aiohttp.ClientResponse):
            answer.release()


async def test_hold_the_answer(setting: Setting, client: aiohttp.ClientSession) -> None:
    async with setting.network.hold("/x", on="response") as rule:
        asking = asyncio.create_task(client.post(f"{setting.url}/x"))
        held = await rule.next()
        assert held.exchange.status == 200
        assert held.exchange.json["target"] == "/x", "the homeserver has done it"
        held.drop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await asking


async def test_delay_ends_with_its_rule(setting: Setting, client: aiohttp.ClientSession) -> None:
    async with setting.network.delay("/x", seconds=3600) as rule:
        asking = asyncio.create_task(client.get(f"{setting.url}/x"))
        await rule.wait()
        assert not asking.done()
    (await asking).release()
    async with setting.network.delay("/x", seconds=0.001, on="response"):
        (await client.get(f"{setting.url}/x")).release()


async def test_offline_breaks_what_is_open(
    proxy: RunningProxy, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            asked.set()

    async with raw_server(serve) as target, case(proxy, target, tmp_path) as found:
        poll = asyncio.create_task(client.get(f"{found.url}/sync"))
        await asked.wait()
        async with found.network.offline():
            with pytest.raises(aiohttp.ClientConnectionError):
                await poll
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get(f"{found.url}/sync")
        asked.clear()
        poll = asyncio.create_task(client.get(f"{found.url}/sync"))
        await asked.wait()
        poll.cancel()
    assert found.changes == [("alice", "offline", True), ("alice", "offline", False)]


async def test_wait_for_a_request(setting: Setting, client: aiohttp.ClientSession) -> None:
    waiting = asyncio.create_task(setting.network.wait_for("POST", "/keys/claim"))
    while not setting.changes:
        await asyncio.sleep(0)
    (await client.get(f"{setting.url}/keys/claim")).release()
    (await client.post(f"{setting.url}/keys/claim", data="x")).release()
    seen = await waiting
    assert (seen.method, seen.status, seen.json["body"]) == ("POST", 200, "x")
    with pytest.raises(ActionError, match=r"^alice: intercept /keys/claim: no request matched within 0.01 s"):
        await setting.network.wait_for("/keys/claim", timeout=0.01)


async def test_several_rules_apply_in_order(setting: Setting, client: aiohttp.ClientSession) -> None:
    order: list[str] = []
    async with (
        setting.network.intercept("/x", on_request=lambda exchange: order.append("first")),
        setting.network.block("GET", "/x"),
        setting.network.intercept("/x/*", on_request=lambda exchange: order.append("never")),
    ):
        (await client.get(f"{setting.url}/x/y")).release()
    assert order == ["first"]


# What can go wrong


async def test_rules_for_the_same_requests_collide(setting: Setting) -> None:
    async with setting.network.block("/x"):
        with pytest.raises(
            RuntimeError, match="alice: hold /x collides with block /x with 503: both are for /x"
        ):
            async with setting.network.hold("/x"):
                pass
    async with setting.network.hold("/x"), setting.network.block("POST", "/x"):
        pass
    async with setting.network.block("/x", nth=1), setting.network.block("/x", nth=2):
        with pytest.raises(RuntimeError, match="collides"):
            async with setting.network.block("/x", times=3):
                pass


@pytest.mark.parametrize(
    ("request_", "options", "problem"),
    [
        (("http://hs/x",), {}, "begins with a slash"),
        (("FETCH", "/x"), {}, "is not a method"),
        (("GET", "/x", "/y"), {}, "by its method and its path"),
        ((), {}, "begins with a slash"),
        (("/x",), {"times": 0}, "times=0 matches nothing"),
        (("/x",), {"nth": 1.5}, "nth=1.5 matches nothing"),
        (("/x",), {"query": {"limit": 10}}, "parameters are texts"),
        ((re.compile("/X", re.IGNORECASE),), {}, "flags into it"),
        (("/x",), {"body": {"a": b"b"}}, r"body={'a': b'b'} matches nothing: it is not JSON"),
        (("/x",), {"status": 99}, "block /x with 99: an answer has a status from 200 to 599"),
    ],
)
async def test_a_rule_that_matches_nothing_is_refused(
    setting: Setting, request_: tuple[Any, ...], options: Any, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        async with setting.network.block(*request_, **options):
            pass


async def test_a_rule_that_does_nothing_is_refused(setting: Setting) -> None:
    with pytest.raises(ValueError, match="seconds=0 is not a time to wait"):
        async with setting.network.delay("/x", seconds=0):
            pass
    with pytest.raises(ValueError, match="intercept /x does nothing"):
        async with setting.network.intercept("/x"):
            pass


async def test_a_callback_that_raises_fails_the_test(setting: Setting, client: aiohttp.ClientSession) -> None:
    with pytest.raises(ValueError, match=r"the body of <Exchange GET /x> is not JSON: b''"):
        async with setting.network.intercept("/x", on_request=lambda exchange: exchange.json):
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get(f"{setting.url}/x")


async def test_a_callback_that_raises_ends_what_the_test_waits_for(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    """It was said only when the client noticed, which took a client that tries again 44 s."""
    rule = setting.network.intercept("/x", on_request=lambda exchange: os.environ["NOWHERE"])
    with pytest.raises(KeyError, match="NOWHERE") as raised:
        async with rule:
            asking = asyncio.create_task(client.post(f"{setting.url}/x"))
            await asyncio.Event().wait()
    assert "<lambda>" in [entry.name for entry in raised.traceback]
    assert raised.value.__cause__ is None
    with pytest.raises(aiohttp.ClientConnectionError):
        await asking


async def test_a_callback_skips_the_test(setting: Setting, client: aiohttp.ClientSession) -> None:
    def skip(exchange: Exchange) -> None:
        raise Skipped("an old client")

    with pytest.raises(Skipped, match="an old client"):
        async with setting.network.intercept("/x", on_request=skip):
            await client.get(f"{setting.url}/x")


async def test_what_a_callback_raised_counts_and_not_what_came_of_it(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    with pytest.raises(KeyError, match="NOWHERE") as raised:
        async with setting.network.intercept("/x", on_request=lambda exchange: os.environ["NOWHERE"]):
            try:
                await client.post(f"{setting.url}/x")
            except BaseException as error:
                raise RuntimeError("the client has failed") from error
    assert isinstance(raised.value.__cause__, RuntimeError)


async def test_a_decision_that_is_no_json_fails_the_test(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        async with setting.network.intercept(
            "/x",
            on_request=lambda exchange: exchange.headers.append((b"X", b"y")),  # type: ignore[arg-type]
        ):
            await client.post(f"{setting.url}/x")


async def test_a_time_limit_of_the_callback_itself_is_its_own(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    def give_up(exchange: Exchange) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match=r"^mine$"):
        async with setting.network.intercept("/x", on_request=give_up):
            await client.post(f"{setting.url}/x")


async def test_each_rule_sees_what_the_one_before_has_changed(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    def add_header(exchange: Exchange) -> None:
        exchange.headers.append(("X-Sent", "first"))

    def change_body(exchange: Exchange) -> None:
        assert ("X-Sent", "first") in exchange.headers
        exchange.body = b"second"

    def refuse(exchange: Exchange) -> None:
        assert exchange.json["body"] == "second"
        exchange.answer(418)

    async with (
        setting.network.intercept("/x", on_request=add_header),
        setting.network.intercept("POST", "/x", on_request=change_body, on_response=refuse),
        setting.network.intercept("POST", "/*", on_response=lambda exchange: exchange.drop()),
        client.post(f"{setting.url}/x", data=b"none") as answer,
    ):
        assert answer.status == 418
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert [one["response"]["status"] for one in await entries(setting.recording, 1)] == [418]


async def test_a_rule_puts_the_proxy_before_a_client_without_an_address(
    proxy: RunningProxy, homeserver: str, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    network = CaseNetwork(
        _socket_of(proxy),
        record=False,
        recording=lambda role: tmp_path / role,
        on_change=lambda *change: None,
    )
    bob = ClientNetwork("bob", network)
    async with bob.block("/x"), client.get(f"{await bob.url_for(homeserver)}/x") as answer:
        assert answer.status == 503
    alice = ClientNetwork("alice", network)
    assert await alice.url_for(homeserver) == homeserver
    alice.use()
    async with client.get(f"{await alice.url_for(homeserver)}/x"), alice.block("/x"):
        pass
    await network.close()


async def test_a_proxy_that_was_started_ahead_is_the_one_of_the_first_case() -> None:
    lab = NetworkProxy()
    lab.start_ahead()
    first, second = await asyncio.gather(lab.running(), lab.running())
    assert first is second
    await lab.close()
    assert first.ended


async def test_a_start_that_fails_is_tried_again_but_not_for_every_case(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab = NetworkProxy()
    monkeypatch.setattr(sys, "executable", "/no/python")
    for _ in range(5):
        lab.start_ahead()
        while lab._ahead is not None and not lab._ahead.done():
            await asyncio.wait([lab._ahead])
    assert (lab.failed, len(caplog.records)) == (True, 1), "it is said once"
    with pytest.raises(LabError, match=r"/no/python.*\(3 times in a row; the next try is in \d+ s\)"):
        await lab.running()
    monkeypatch.undo()
    monkeypatch.setattr(network_module, "_TRIES", 4)  # as if the pause were over
    lab.start_ahead()
    await lab.running()
    assert not lab.failed
    await lab.close()


async def test_a_start_ahead_ends_with_the_lab() -> None:
    lab = NetworkProxy()
    lab.start_ahead()
    await asyncio.sleep(0)
    await lab.close()
    assert not [one for one in psutil.Process().children() if "trafficlight.network" in one.cmdline()]


async def test_a_proxy_ends_at_once(homeserver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "_END", 60.0)  # also on a busy machine
    lab = NetworkProxy()
    proxy = await lab.running()
    async with case(proxy, homeserver, tmp_path):
        await lab.close()
        assert await proxy.wait() == "the lab's network proxy ended (exit code 0)"


async def test_a_callback_has_a_time_limit(setting: Setting, client: aiohttp.ClientSession) -> None:
    with pytest.raises(TimeoutError, match=r"intercept /x: the function was not done with <Exchange GET /x>"):
        async with setting.network.intercept("/x", on_request=lambda _: asyncio.sleep(3600), timeout=0.01):
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get(f"{setting.url}/x")


async def test_a_callback_that_blocks_has_a_time_limit(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    def block(exchange: Exchange) -> None:
        end = asyncio.get_running_loop().time() + 0.02
        while asyncio.get_running_loop().time() < end:
            pass

    with pytest.raises(TimeoutError, match=r"intercept /x: the function was not done with <Exchange GET /x>"):
        async with setting.network.intercept("/x", on_request=block, timeout=0.01):
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get(f"{setting.url}/x")


async def test_a_callback_that_answers_with_no_status(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    with pytest.raises(ValueError, match="99: an answer has a status from 200 to 599"):
        async with setting.network.intercept("/x", on_request=lambda exchange: exchange.answer(99)):
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get(f"{setting.url}/x")


async def test_a_client_that_was_not_given_the_proxy(homeserver: str, tmp_path: Path) -> None:
    network = CaseNetwork(
        _socket_of(None), record=False, recording=lambda role: tmp_path / role, on_change=lambda *change: None
    )
    client = ClientNetwork("alice", network)
    assert await client.url_for(homeserver) == homeserver
    with pytest.raises(RuntimeError, match=r"call alice.network.use\(\) before it registers"):
        async with client.block("/x"):
            pass
    with pytest.raises(RuntimeError, match="bob is not part of a running case"):
        async with ClientNetwork("bob", None).block("/x"):
            pass


async def test_only_homeservers_on_this_machine_are_recorded(proxy: RunningProxy, tmp_path: Path) -> None:
    for url in ("http://192.0.2.1:8008", "https://127.0.0.1:8448"):
        async with case(proxy, url, tmp_path) as found:
            assert found.url == url
    network = CaseNetwork(
        _socket_of(proxy),
        record=False,
        recording=lambda role: tmp_path / role,
        on_change=lambda *change: None,
    )
    client = ClientNetwork("alice", network)
    client.use()
    assert (await client.url_for("http://192.0.2.1:8008")).startswith("http://127.0.0.1:")
    await network.close()


async def test_a_case_that_is_killed_leaves_no_rule(
    proxy: RunningProxy, homeserver: str, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with case(proxy, homeserver, tmp_path) as killed, case(proxy, homeserver, tmp_path, "bob") as other:
        rule = killed.network.hold("/x")
        await rule.__aenter__()
        await killed.network._case.close()
        (await client.get(f"{killed.url}/x")).release()  # adapters may still log out
        (await client.get(f"{other.url}/x")).release()
        with pytest.raises(LabError, match="the lab's network proxy ended"):
            await rule.__aexit__(None, None, None)


async def test_a_proxy_that_is_killed(homeserver: str, tmp_path: Path, client: aiohttp.ClientSession) -> None:
    lab = NetworkProxy()
    proxy = await lab.running()
    async with case(proxy, homeserver, tmp_path) as found:
        (await client.get(f"{found.url}/x")).release()
        assert len(await entries(found.recording, 1)) == 1
        (process,) = [
            one
            for one in psutil.Process().children(recursive=True)
            if "trafficlight.network" in one.cmdline()
        ]
        os.kill(process.pid, signal.SIGKILL)
        assert await proxy.wait() == "the lab's network proxy ended (signal 9)"
        with pytest.raises(LabError, match="the lab's network proxy ended"):
            await found.network._case.call("offline", "alice", cut=True)
        assert len(recorded(found.recording)) == 1, "what it had recorded is there"
    async with case(await lab.running(), homeserver, tmp_path) as found:
        (await client.get(f"{found.url}/x")).release()
    await lab.close()


async def test_a_recording_is_written_where_it_is_needed(
    setting: Setting, client: aiohttp.ClientSession
) -> None:
    await (await client.get(f"{setting.url}/x")).read()
    await setting.network._case.end_recordings(keep=True)
    assert len(recorded(setting.recording)) == 1, "as soon as that is known"
    await (await client.get(f"{setting.url}/x")).read()
    await setting.network._case.end_recordings(keep=False)
    await setting.network._case.end_recordings(keep=True)
    assert len(recorded(setting.recording)) == 1


async def test_a_last_request_arrives_though_its_client_is_gone(proxy: RunningProxy, tmp_path: Path) -> None:
    """It was dropped, as the proxy cut both sides before it had sent it."""
    arrived = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nlast")
        arrived.set()

    async with raw_server(connected) as target, case(proxy, target, tmp_path) as found:
        url = urlsplit(found.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nlast")
        writer.close()
        async with asyncio.timeout(60):
            await arrived.wait()


async def test_a_recording_that_cannot_be_written(
    proxy: RunningProxy, homeserver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with case(proxy, homeserver, tmp_path / "none") as found:
        assert found.url == homeserver, "the test does not need the proxy"
        sentence = "the network proxy cannot serve alice: .*No such file"
        assert re.search(f"the requests of alice are not recorded: {sentence}", caplog.text)
        found.network.use()
        with pytest.raises(LabError, match=sentence):
            await found.network.url_for(homeserver)
