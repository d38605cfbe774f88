"""The service that authorises Matrix users for LiveKit."""

import asyncio
import base64
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from trafficlight.drivers.livekit import livekit
from trafficlight.homeservers.certificates import Certificates

# Serves its port as LiveKit does, and says how it was configured.
_PROGRAM = """#!/usr/bin/env python3
import json, os, socket, sys
configuration = json.loads(os.environ["LIVEKIT_CONFIG"])
print("started with", sorted(configuration), flush=True)
listening = socket.create_server(("127.0.0.1", configuration["port"]))
while True:
    connection, _ = listening.accept()
    if connection.recv(4) == b"exit":
        sys.exit(3)
"""


@pytest_asyncio.fixture
async def server_name(tmp_path: Path) -> AsyncIterator[str]:
    """A homeserver that knows one token."""

    async def userinfo(request: web.Request) -> web.Response:
        users = {"right": f"@alice:{request.host}", "other": "@alice:elsewhere.example"}
        if (user := users.get(request.query["access_token"])) is None:
            return web.json_response({"errcode": "M_UNKNOWN_TOKEN"}, status=401)
        return web.json_response({"sub": user})

    files = Certificates.create(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.private_key)
    application = web.Application()
    application.router.add_get("/_matrix/federation/v1/openid/userinfo", userinfo)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest_asyncio.fixture
async def service(tmp_path: Path) -> AsyncIterator[str]:
    program = tmp_path / "livekit"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    async with livekit(program, tmp_path / "livekit.log") as url:
        yield url


async def ask(service: str, server_name: str, token: str = "right") -> tuple[int, dict[str, str]]:
    opened = {"access_token": token, "matrix_server_name": server_name, "token_type": "Bearer"}
    body = {"room": "!kitchen", "device_id": "PHONE", "openid_token": opened}
    async with aiohttp.ClientSession() as session, session.post(f"{service}/sfu/get", json=body) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        return answer.status, await answer.json()


def claims(jwt: str) -> dict[str, object]:
    payload = jwt.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


async def test_user_whom_the_homeserver_confirms_may_enter_the_room(
    service: str, server_name: str, tmp_path: Path
) -> None:
    log = tmp_path / "livekit.log"
    assert not log.exists(), "it starts with the first user"

    status, answer = await ask(service, server_name)

    assert status == 200, answer
    said = claims(answer["jwt"])
    assert said["sub"] == f"@alice:{server_name}:PHONE"
    video = said["video"]
    assert isinstance(video, dict)
    assert video["room"] == "!kitchen"
    assert all(video[right] for right in ("roomJoin", "canPublish", "canSubscribe"))
    assert "started with" in log.read_text()


@pytest.mark.parametrize(
    ("token", "name", "status"),
    [("wrong", None, 401), ("other", None, 401), ("right", "127.0.0.1:1", 401), ("right", "a/b?c", 400)],
)
async def test_others_may_not(
    service: str, server_name: str, tmp_path: Path, token: str, name: str | None, status: int
) -> None:
    refused, answer = await ask(service, name or server_name, token)
    assert refused == status
    assert "jwt" not in answer
    assert not (tmp_path / "livekit.log").exists()


async def test_livekit_that_exited_is_started_again(service: str, server_name: str, tmp_path: Path) -> None:
    _, answer = await ask(service, server_name)
    host, port = answer["url"].removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"exit")
    assert await reader.read() == b"", "it has exited"
    writer.close()

    # The first request after its end may still find it.
    while (tmp_path / "livekit.log").read_text().count("started with") < 2:
        status, answer = await ask(service, server_name)
        assert status == 200, answer


async def test_livekit_that_does_not_start_is_named(server_name: str, tmp_path: Path) -> None:
    program = tmp_path / "livekit"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    async with livekit(program, tmp_path / "livekit.log") as service:
        status, answer = await ask(service, server_name)
    assert status == 500
    assert "exit code 7" in answer["error"]


async def test_livekit_that_never_listens_is_not_taken_for_started(
    server_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trafficlight.drivers.livekit._START_LIMIT", 0.2)
    program = tmp_path / "livekit"
    program.write_text('#!/bin/sh\necho "process $$"\nexec sleep 600\n')
    program.chmod(0o755)
    async with livekit(program, tmp_path / "livekit.log") as service:
        for _ in range(2):
            status, answer = await ask(service, server_name)
            assert (status, answer["error"]) == (500, "its port did not accept connections within 0.2 s")
    for word in (tmp_path / "livekit.log").read_text().split("process ")[1:]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(word), 0)


async def test_what_a_page_asks_besides_is_refused_in_its_origin(service: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.options(f"{service}/sfu/get") as answer:
            assert answer.headers["Access-Control-Allow-Headers"] == "*"
        async with session.post(f"{service}/get_token", json={}) as answer:
            assert answer.status == 404
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
