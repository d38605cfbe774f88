"""The proxy process: forwards clients' requests to homeservers, records them, and lets tests decide.

A case connects to the control socket and sends one JSON object per line: ``open`` gives a client a URL for a
homeserver, ``federate`` puts the proxy before a homeserver's federation port, ``rule`` and ``remove`` say
which exchanges the case wants to decide about, ``offline`` cuts a line, ``decide`` answers what the proxy
asked with ``ask``, ``recordings`` says whether they are needed, once there is a verdict. Everything of a case
ends with its connection, however it ends.
"""

import asyncio
import base64
import itertools
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trafficlight.network.forwarding import ActiveRule, ClientSide, Connection, Dropped, PassingExchange
from trafficlight.network.gates import FederationConnection, Gate, contexts
from trafficlight.network.har import Recording
from trafficlight.network.rules import MESSAGE_LIMIT, Matcher

# Seconds that requests pass after the end of a case.
_LINGER = 10


class _Case:
    """A case, connected to the control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._lines: dict[str, ClientSide] = {}
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="recordings")

    async def run(self) -> None:
        """Do what the case asks for, until it disconnects."""
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                do, call, role = message.pop("do"), message.pop("call"), message.pop("role")
                if do == "decide":
                    asked = self._asked.pop(message["number"], None)
                    if asked is not None and not asked.done():
                        asked.set_result(message)
                    continue
                try:
                    answer = await self._handle(do, role, message)
                except OSError as error:
                    answer = {"error": f"the network proxy cannot serve {role}: {error}"}
                self._send({"call": call, **answer})
        except ConnectionError:
            pass
        finally:
            task = asyncio.current_task()
            await self._close(0 if task is not None and task.cancelling() else _LINGER)

    async def _handle(self, do: str, role: str, message: dict[str, Any]) -> dict[str, Any]:
        """Do what a message asks for; return the answer."""
        if do == "open":
            return {"url": await self._open(role, **message)}
        if do == "federate":
            await self._federate(**message)
            return {}
        if do == "recordings":
            await self._end_recordings(**message)
            return {}
        line = self._line(role)
        match do:
            case "rule":
                if line.passthrough:  # its open connections cannot be intercepted any more
                    line.passthrough = False
                    line.cut()
                rule = ActiveRule(matcher=Matcher(**message.pop("matcher")), **message)
                line.rules[rule.id] = rule
            case "remove":
                del line.rules[message["id"]]
            case "offline":
                line.offline += 1 if message["cut"] else -1
                if line.offline:
                    line.cut()
            case _:
                raise ValueError(do)
        return {}

    async def _open(self, role: str, target: str, recording: str) -> str:
        """Return the base URL under which a client reaches a homeserver.

        :param recording: the file of its recording; empty for none.
        :raises OSError: the file cannot be written, or there is no port.
        """
        loop = asyncio.get_running_loop()
        line = self._line(role)
        if recording and line.recording is None:
            line.recording = await loop.run_in_executor(self._disk, Recording, Path(recording))
        if target not in line.urls:
            url = urlsplit(target)
            server = await loop.create_server(
                lambda: Connection(line, target).protocol, "127.0.0.1", 0, backlog=256
            )
            line.servers.append(server)
            line.urls[target] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{url.path}"
        return line.urls[target]

    async def _federate(
        self,
        port: str,
        target: str,
        certificate: str,
        private_key: str,
        authority: str,
        asking: dict[str, tuple[str, str]],
        intercept: bool,
    ) -> None:
        """Listen where others look for a homeserver.

        :param asking: the line and the recording of each of them, by its server name.
        :param intercept: whether its requests are recorded, and not only connections.
        :raises OSError: the port is taken, or a file cannot be read or written.
        """
        loop, url = asyncio.get_running_loop(), f"https://127.0.0.1:{target}"
        tls = await loop.run_in_executor(
            self._disk, contexts, Path(certificate), Path(private_key), Path(authority)
        )
        unsigned = self._line(f"to {port}")
        lines = {}
        for server_name, (name, recording) in asking.items():
            line = lines[server_name] = self._line(name)
            line.recording = await loop.run_in_executor(self._disk, Recording, Path(recording))
            line.passthrough = len(asking) == 1 and not intercept
        for line in (unsigned, *lines.values()):
            line.urls[url] = f"https://localhost:{port}"
        gate = Gate(url, lines, unsigned, *tls)
        unsigned.servers.append(
            await loop.create_server(lambda: FederationConnection(gate).protocol, "127.0.0.1", int(port))
        )

    async def _end_recordings(self, keep: bool) -> None:
        """Write what was recorded up to now, or end the recordings."""
        for line in self._lines.values():
            line.write() if keep else line.discard()
        # One thread: what was submitted before has been done then.
        await asyncio.get_running_loop().run_in_executor(self._disk, int)

    def _line(self, role: str) -> ClientSide:
        return self._lines.setdefault(role, ClientSide(self._ask, self._disk))

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _ask(self, rule: ActiveRule, exchange: PassingExchange, stage: str, body: bytes) -> Any:
        """Return what the test decides about an exchange."""
        head = exchange.request if stage == "request" else exchange.response
        assert head is not None
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send(
            {
                "ask": number,
                "rule": rule.id,
                "stage": stage,
                "method": exchange.request.method,
                "target": exchange.request.target,
                "status": exchange.response.status if exchange.response is not None else None,
                "headers": head.headers,
                "body": base64.b64encode(body).decode(),
            }
        )
        try:
            return await asked
        finally:
            self._asked.pop(number, None)

    async def _close(self, linger: float) -> None:
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(Dropped())
        for line in self._lines.values():
            line.write()
            line.rules.clear()
            line.offline = 0
        # The adapters are released after the test's process has ended, and may still log out.
        await asyncio.sleep(linger)
        for line in self._lines.values():
            await line.close()
        await asyncio.to_thread(self._disk.shutdown)
        self._writer.close()


async def serve(socket: Path) -> None:
    """Serve cases on a control socket until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Case(reader, writer).run()

    server = await asyncio.start_unix_server(connected, socket, limit=MESSAGE_LIMIT)
    await ended.wait()
    server.close()  # and not wait_closed(), which waits for the cases
