"""LiveKit, which carries the media of calls, and the service that authorises Matrix users for it."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from trafficlight.cache import CacheFolder
from trafficlight.errors import DeployError
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.homeservers.probe import unless_exited, wait_until_accepting
from trafficlight.processes import (
    ChildProcess,
    Progress,
    child_environment,
    run_to_completion,
    run_tool,
    start_process,
)

logger = logging.getLogger(__name__)

VERSION = "1.9.12"
"""The pinned version."""
_PACKAGE = "github.com/livekit/livekit-server/cmd/server"
# Seconds.
_START_LIMIT, _TOKEN_VALID = 30.0, 3600
_ASK_LIMIT = aiohttp.ClientTimeout(total=10)
_FEDERATION_PORT = 8448
# A host with a port, as in user ids.
_SERVER_NAME = re.compile(r"(\[[\da-fA-F:.]+\]|[\w.-]+)(:\d+)?", re.ASCII)
_CORS = {f"Access-Control-Allow-{what}": "*" for what in ("Origin", "Headers", "Methods")}


async def install_livekit(cache: CacheFolder, progress: Progress) -> Path:
    """Return the path of LiveKit's program, compiled by Go on first use.

    :raises DeployError: it cannot be compiled.
    """

    async def build(folder: Path) -> None:
        progress(f"LiveKit {VERSION}: compiling it with go (first use)")
        environment = child_environment({"CGO_ENABLED": "0", "GOBIN": str(folder)}, proxies=True)
        command = ["go", "install", "-trimpath", "-ldflags", "-s -w", f"{_PACKAGE}@v{VERSION}"]
        await run_tool(f"compiling LiveKit {VERSION}", command, environment=environment)
        progress(f"LiveKit {VERSION}: compiled")

    return await cache.ensure(f"drivers/livekit-{VERSION}", build) / "server"


@asynccontextmanager
async def livekit(program: Path, log: Path) -> AsyncIterator[str]:
    """Serve calls until this is left, and yield the URL of their authorisation service.

    LiveKit starts when the first user asks to be authorised, and again for the next one if it has exited.

    :param log: gets its output.
    """
    service = _Service(program, log)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", service.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        await service.stop()


class _Service:
    def __init__(self, program: Path, log: Path) -> None:
        self._program, self._log = program, log
        self._key, self._secret = "trafficlight", secrets.token_hex(32)
        self._ports = PortPicker()
        self._port, *self._media_ports = (self._ports.pick() for _ in range(3))
        self._process: ChildProcess | None = None
        self._starting = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.Response:
        """Answer as the service lk-jwt-service does, to web pages of any origin."""
        if request.method == "OPTIONS":
            return web.Response(headers=_CORS)
        if (request.method, request.path) != ("POST", "/sfu/get"):
            return _refused(404, "M_UNRECOGNIZED", "not implemented")
        try:
            asked = await request.json()
            room, device, token = str(asked["room"]), str(asked["device_id"]), asked["openid_token"]
            user = await _owner(str(token["access_token"]), str(token["matrix_server_name"]))
        except (ValueError, KeyError, TypeError) as error:
            return _refused(400, "M_BAD_JSON", repr(error))
        except (aiohttp.ClientError, OSError, PermissionError) as error:
            logger.warning("a user of calls cannot be authorised: %s", error)
            return _refused(401, "M_UNAUTHORIZED", f"the homeserver does not confirm the token: {error}")
        try:
            async with self._starting:
                await self._ensure_started()
        except DeployError as error:
            logger.warning("LiveKit: %s", error)
            return _refused(500, "M_UNKNOWN", str(error))
        answer = {"url": f"ws://127.0.0.1:{self._port}", "jwt": self._token(f"{user}:{device}", room)}
        return web.json_response(answer, headers=_CORS)

    async def stop(self) -> None:
        """Kill LiveKit, which would wait for its participants after SIGTERM."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            await self._process.wait()
        for port in (self._port, *self._media_ports):
            self._ports.release(port)

    async def _ensure_started(self) -> None:
        if self._process is not None and self._process.exited is None:
            return
        tcp, udp = self._media_ports
        configuration = {
            "port": self._port,
            "bind_addresses": ["127.0.0.1"],
            "keys": {self._key: self._secret},
            "logging": {"level": "warn"},
            "rtc": {
                "tcp_port": tcp,
                "udp_port": udp,
                "node_ip": "127.0.0.1",
                "use_external_ip": False,
                "interfaces": {"includes": ["lo"]},
                "enable_loopback_candidate": True,
            },
        }
        process = await start_process(
            [str(self._program)],
            environment=child_environment({"LIVEKIT_CONFIG": json.dumps(configuration)}),
            directory=self._program.parent,
            log=self._log,
        )
        try:
            accepting = wait_until_accepting(
                lambda: asyncio.open_connection("127.0.0.1", self._port), _START_LIMIT, "its port"
            )
            await unless_exited(accepting, process.wait())
        except BaseException:
            process.signal(signal.SIGKILL)
            await run_to_completion(process.wait())
            raise
        self._process = process

    def _token(self, identity: str, room: str) -> str:
        """Return a JSON Web Token for a participant of a room."""
        now = int(time.time())
        rights = dict.fromkeys(("roomJoin", "roomCreate", "canPublish", "canSubscribe"), True)
        claims = {
            "iss": self._key,
            "sub": identity,
            "nbf": now - 60,
            "exp": now + _TOKEN_VALID,
            "video": {"room": room, **rights},
        }
        signed = f"{_encoded({'alg': 'HS256', 'typ': 'JWT'})}.{_encoded(claims)}"
        digest = hmac.digest(self._secret.encode(), signed.encode(), hashlib.sha256)
        return f"{signed}.{_base64(digest)}"


async def _owner(token: str, server_name: str) -> str:
    """Return the user whom a homeserver gave an OpenID token.

    :raises PermissionError: it gave the token to none of its users.
    """
    named = _SERVER_NAME.fullmatch(server_name)
    if named is None:
        raise ValueError(f"{server_name!r} is not a server name")
    address = server_name if named[2] else f"{server_name}:{_FEDERATION_PORT}"
    url = f"https://{address}/_matrix/federation/v1/openid/userinfo"
    async with aiohttp.ClientSession(timeout=_ASK_LIMIT) as session:
        # Homeservers of tests have certificates of their own.
        async with session.get(url, params={"access_token": token}, ssl=False) as answer:
            said = await answer.json(content_type=None)
    user = said.get("sub") if isinstance(said, dict) else None
    if not isinstance(user, str) or not user.endswith(f":{server_name}"):
        raise PermissionError(f"{server_name} answered with status {answer.status}, and none of its users")
    return user


def _refused(status: int, code: str, error: str) -> web.Response:
    return web.json_response({"errcode": code, "error": error}, status=status, headers=_CORS)


def _encoded(value: Any) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
