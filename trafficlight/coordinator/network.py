"""The process of the network proxy: started with the first case that may need it, and again if it dies."""

import asyncio
import contextlib
import contextvars
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path

from trafficlight.coordinator.adapter import Adapter
from trafficlight.errors import DeployError, LabError
from trafficlight.homeservers.provider import RunningServer
from trafficlight.homeservers.static import LeasedServer
from trafficlight.network.connection import PROXY_ENDED
from trafficlight.processes import ChildProcess, own_module, run_to_completion, start_process
from trafficlight.text import read_tail

logger = logging.getLogger(__name__)

# Seconds until it listens, and until it ends by itself.
_START, _END = 30.0, 2.0
# Starts that may fail in a row, each after up to _START; then, seconds until the next one.
_TRIES, _PAUSE = 3, 300.0
# Bytes of its output that a verdict quotes.
_TAIL = 2000


class RunningProxy:
    """A process of the network proxy.

    :ivar socket: its control socket.
    """

    def __init__(self, process: ChildProcess, folder: Path) -> None:
        self.socket = folder / "control"
        self._process, self._log = process, folder / "log"

    @classmethod
    async def start(cls, folder: Path) -> "RunningProxy":
        """Start one, and wait until it listens.

        :raises LabError: it does not.
        """
        command = [*own_module("trafficlight.network"), str(folder / "control")]
        try:
            process = await start_process(
                command, environment=dict(os.environ), directory=folder, log=folder / "log"
            )
        except (OSError, DeployError) as error:
            raise LabError(f"the network proxy cannot be started: {error}") from error
        proxy = cls(process, folder)
        try:
            async with asyncio.timeout(_START):
                await proxy._listening()
        except TimeoutError:
            await proxy.end()
            raise LabError(f"the network proxy did not start within {_START:g} s") from None
        except BaseException:
            await proxy.end()
            raise
        return proxy

    async def _listening(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_unix_connection(self.socket)
                writer.close()
                return
            if self._process.exited is not None:
                raise LabError(await self.wait())
            await asyncio.sleep(0.02)

    @property
    def ended(self) -> bool:
        """Whether it has exited."""
        return self._process.exited is not None

    async def wait(self) -> str:
        """Wait until it exits; return a sentence about it, with the end of its output."""
        how = await self._process.wait()
        output = (await asyncio.to_thread(read_tail, self._log, _TAIL)).strip()
        return f"{PROXY_ENDED} ({how})" + (f"\n{output}" if output else "")

    async def end(self) -> None:
        """End it. Idempotent."""
        self._process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_END):
                await self._process.wait()
        except TimeoutError:
            self._process.signal(signal.SIGKILL)
            await self._process.wait()


def unrecorded(
    record: str, adapters: Mapping[str, Adapter], servers: Iterable[RunningServer]
) -> tuple[str, ...]:
    """Return the roles of clients and the base URLs that no proxy comes between, unless a test uses it.

    A client on another machine does not reach the proxy. Nor does one that reaches an address which people
    chose through a tunnel, from a phone for instance, so those are recorded only where that is asked for.

    :param record: of which cases the traffic is recorded.
    :param adapters: the adapter of every role.
    """
    far = [role for role, adapter in adapters.items() if not _is_own(adapter.address)]
    if record == "always":
        return tuple(far)
    chosen = [server.cs_api for server in servers if isinstance(server, LeasedServer)]
    endpoints = [adapter.registration.endpoint for adapter in adapters.values()]
    return (*far, *chosen, *(url.rstrip("/") for url in endpoints if url))


def _is_own(address: str) -> bool:
    """Return whether an IP address is one of this machine's: no socket listens on another's."""
    try:
        family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True


class NetworkProxy:
    """The network proxy of a lab, whichever process it is at the time."""

    def __init__(self) -> None:
        self._current: RunningProxy | None = None
        self._starting = asyncio.Lock()
        self._folder: Path | None = None
        self._number = 0
        self._ahead: asyncio.Task[None] | None = None
        self._failures, self._problem, self._again = 0, "", 0.0
        self._said = ""

    @property
    def failed(self) -> bool:
        """Whether the last start failed: cases that do not need it do without."""
        return self._failures > 0

    @property
    def _paused(self) -> float:
        """Seconds for which it is not started again; 0 if it may be."""
        if self._failures < _TRIES:
            return 0.0
        return max(0.0, self._again - asyncio.get_running_loop().time())

    def start_ahead(self) -> None:
        """Start the process in the background, before a case needs it, if it has not been started."""
        if self._ahead is not None and not (self.failed and self._ahead.done() and not self._paused):
            return
        self._ahead = asyncio.get_running_loop().create_task(
            self._start_ahead(), name="start of the network proxy", context=contextvars.Context()
        )

    async def _start_ahead(self) -> None:
        try:
            await self.running()
        except LabError as error:
            if str(error) != self._said:  # the next case tries again, and may say the same
                self._said = str(error)
                logger.warning("requests of clients are not recorded: %s", error)

    async def running(self) -> RunningProxy:
        """Return the process; start one if there is none, or it has ended.

        :raises LabError: it cannot be started, or could not be several times a short time ago.
        """
        async with self._starting:
            if self._current is not None and not self._current.ended:
                return self._current
            if seconds := self._paused:
                again = f"{self._failures} times in a row; the next try is in {seconds:.0f} s"
                raise LabError(f"{self._problem} ({again})")
            try:
                self._current = await self._start()
            except LabError as error:
                self._failures, self._problem = self._failures + 1, str(error)
                self._again = asyncio.get_running_loop().time() + _PAUSE
                raise
            self._failures = 0
            return self._current

    async def _start(self) -> RunningProxy:
        try:
            if self._folder is None:
                self._folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="trafficlight-"))
            self._number += 1
            folder = self._folder / str(self._number)
            await asyncio.to_thread(folder.mkdir)
        except OSError as error:
            raise LabError(f"the network proxy cannot be started: {error}") from error
        return await RunningProxy.start(folder)

    async def close(self) -> None:
        """End the process. Idempotent."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)
        if self._current is not None:
            await run_to_completion(self._current.end())
        if self._folder is not None:
            await run_to_completion(asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True))
