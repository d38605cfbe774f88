"""Connections as programs make them: many, closed early, half sent, and more than the system allows."""

import asyncio
import contextlib
import errno
import http.client
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import h2.connection
import h2.exceptions
import psutil
import pytest
from quart import Quart

from tests.integration.http.conftest import TEST_FILE, HttpHarness
from trafficlight.http import server

FILES = 96


@pytest.fixture
def limited_lab(tmp_path: Path) -> Iterator[tuple[psutil.Process, int, Path]]:
    """Serve a lab that may have few open files; yield its process, its port and its log."""
    log = tmp_path / "log"
    command = ["serve", "--port", "0", "--workers", "0", "--results", str(tmp_path / "results")]
    (tmp_path / "some_test.py").write_text(TEST_FILE.format(client_type="none", body="        pass"))
    command.append("some_test.py")
    limit = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES})); "
    run = f"sys.argv = ['trafficlight', *{command!r}]; runpy.run_module('trafficlight', run_name='__main__')"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", limit + run], stdout=output, stderr=output, cwd=tmp_path
        )
    try:
        for _ in range(900):
            if "/status" in log.read_text() or process.poll() is not None:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        line = next((line for line in log.read_text().splitlines() if "/status" in line), None)
        assert line is not None, log.read_text()
        yield psutil.Process(process.pid), urlsplit(line.split()[-1]).port or 0, log
    finally:
        process.kill()
        process.wait()


def naive(port: int, method: str, path: str, body: bytes | None = None) -> int:
    """Send a request as `requests.post` does: one connection, kept alive, closed by the client."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_connections_that_clients_closed_are_closed(limited_lab: tuple[psutil.Process, int, Path]) -> None:
    """Each was kept for 75 s: adapters with a connection for each request used up all open files."""
    process, port, log = limited_lab
    before = process.num_fds()
    for number in range(150):
        assert naive(port, "POST", f"/client/naive-{number}/register", b'{"type": "naive"}') == 200
        assert naive(port, "GET", f"/client/naive-{number}/poll?wait=0") == 200
    assert process.num_fds() < before + FILES // 3
    assert "no new connections" not in log.read_text()


def test_more_connections_than_the_system_allows(limited_lab: tuple[psutil.Process, int, Path]) -> None:
    """They were accepted until nothing could be opened any more, with thousands of tracebacks."""
    process, port, log = limited_lab
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    kept.request("POST", "/client/kept/register", b'{"type": "kept"}')
    kept.getresponse().read()
    idle = []
    for number in range(FILES - FILES // 4 - 1):  # others are closed for new ones
        idle.append(socket.create_connection(("127.0.0.1", port)))
        head = f"POST /client/{number}/register HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 16\r\n\r\n"
        idle[-1].sendall(head.encode() + b'{"type": "kept"}')
        assert idle[-1].recv(12) == b"HTTP/1.1 200"
    idle += [socket.create_connection(("127.0.0.1", port)) for _ in range(75)]
    for _ in range(100):
        if "no new connections" in log.read_text():
            break
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0.1)
    kept.request("GET", "/readyz")
    answer = kept.getresponse()
    assert (answer.status, b"no new connections are accepted" in answer.read()) == (503, True)
    for connection in idle:
        connection.close()
    kept.close()
    assert naive(port, "GET", "/readyz") == 200
    text = log.read_text()
    assert 1 <= text.count("no new connections are accepted") < 5
    assert "Traceback" not in text


def test_the_limit_of_open_files_is_raised() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] <= 256:
        pytest.skip(f"the hard limit is {before[1]}")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        with server.process_tuned():
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_stalled_body_is_refused(site: HttpHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a body held a connection for minutes."""
    monkeypatch.setattr("trafficlight.http.requests._STALLED", 0.2)
    for path in ("/client/a/register", "/login"):
        address = urlsplit(site.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{{".encode())
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"request_timeout" in answer


async def test_a_trickling_body_is_refused(site: HttpHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte a minute held a connection for days."""
    monkeypatch.setattr("trafficlight.http.requests._GRACE", 0.3)
    address = urlsplit(site.url)
    for path in ("/client/a/register", "/login"):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n".encode())

        async def trickle(writer: asyncio.StreamWriter = writer) -> None:
            while True:
                writer.write(b"{")
                await writer.drain()
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        async with asyncio.timeout(60):
            answer = await reader.read(1000)
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"bytes of the body in" in answer


async def test_strangers_do_not_use_up_the_connections(
    site: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_connection_limit", lambda: 8)
    monkeypatch.setattr(server, "_FIRST_REQUEST", 0)
    assert (await site.post("/client/a/register", json={"type": "nio"})).status == 200
    polling = asyncio.create_task(site.get("/client/a/poll?wait=5"))
    address = urlsplit(site.url)
    strangers = [await asyncio.open_connection(address.hostname, address.port) for _ in range(30)]
    async with asyncio.timeout(60):
        assert await strangers[0][0].read() == b""  # the oldest was closed
    assert (await polling).status == 200
    for _, writer in strangers:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /status HTTP/1.1\r\nHo", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_an_idle_connection_is_closed(site: HttpHarness, sent: bytes) -> None:
    """After the first line of HTTP/2 it was never closed."""
    assert site.app is not None
    site.app.config["SERVER"]._config.keep_alive_timeout = 0.3
    address = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(sent)
    async with asyncio.timeout(60):
        while await reader.read(1000):
            pass
    writer.close()


async def test_streams_that_are_opened_and_reset_are_no_error_of_ours(
    site: HttpHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger wrote a traceback of 30 lines into the log for each connection."""
    address = urlsplit(site.url)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    head = [(":method", "GET"), (":path", "/status"), (":scheme", "http"), (":authority", address.netloc)]
    for stream in range(1, 2003, 2):
        client.send_headers(stream, head, end_stream=True)
        client.reset_stream(stream)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(client.data_to_send())
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            while await reader.read(10_000):
                pass
    writer.close()
    assert "a connection failed" not in caplog.text
    assert (await site.get("/healthz")).status == 200


async def test_a_websocket_is_refused(site: HttpHarness) -> None:
    """It was a 500."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for path in ("/status", "/client/a/poll"):
        answer = await site.get(path, headers=headers)
        assert (answer.status, answer.json()["error"]["code"]) == (426, "no_websockets")


async def test_responses_do_not_wait_for_the_client_to_acknowledge() -> None:
    """Without TCP_NODELAY, head and body of a response arrive 40 ms apart on a connection that is kept."""
    listening = server.bind("127.0.0.1", 0)
    accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    class Recorder(server._Connection):
        async def run(self) -> None:
            accepted.set_result(self.writer.get_extra_info("socket").dup())
            self.writer.close()

    with listening, pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "_Connection", Recorder)
        serving = server.Server(Quart("nothing"), listening)
        accepting = asyncio.create_task(serving.accept())
        _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
        with await accepted as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await writer.wait_closed()
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await serving.close()


async def test_a_refused_body_does_not_block_the_next_request(site: HttpHarness) -> None:
    """A client that reuses the connection gets an answer, or learns that it is closed."""
    port = urlsplit(site.url).port or 0
    assert await asyncio.to_thread(naive, port, "POST", "/client/x/register", b'{"type": "nio"}') == 200
    head = "{} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n"
    size = 3 << 20
    refused = head.format("POST /client/x/upload", size).encode() + b"x" * size

    def refused_then_another() -> bytes:
        received = b""
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(refused)
                received = connection.recv(65536)
                connection.sendall(head.format("GET /healthz", 0).encode())
                while b"HTTP/1.1 200" not in received and (more := connection.recv(65536)):
                    received += more
        return received

    # It raises TimeoutError if the connection is neither used nor closed.
    assert (await asyncio.to_thread(refused_then_another))[:12] in (b"HTTP/1.1 415", b"")


def test_which_errors_of_a_connection_are_of_the_peer() -> None:
    peer = [ConnectionResetError(), TimeoutError(), ssl.SSLError(), OSError(errno.EHOSTUNREACH, "")]
    assert all(map(server._is_of_peer, [*peer, h2.exceptions.ProtocolError(), ExceptionGroup("", peer)]))
    own = [OSError(errno.ENOSPC, "no space"), ValueError()]
    assert not any(map(server._is_of_peer, [*own, ExceptionGroup("", [*peer, *own])]))
