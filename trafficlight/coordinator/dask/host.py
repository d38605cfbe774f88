"""The lab on a Dask worker: runs cases of another coordinator's session, and sends what happens there."""

import asyncio
import contextlib
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import SecretStr

from trafficlight.config import Settings
from trafficlight.coordinator.dask.files import place, relocated, take
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.scheduling.queues import WaitingCase
from trafficlight.coordinator.session import Session
from trafficlight.processes import Progress
from trafficlight.results.case import INTERRUPTED
from trafficlight.results.events import Event, State, Upload, event_line
from trafficlight.results.folder import ResultsFolder
from trafficlight.suites.model import Case, Plan
from trafficlight.text import read_tail
from trafficlight.worker.assignment import Verdict

if TYPE_CHECKING:
    from trafficlight.coordinator.lab import Lab

logger = logging.getLogger(__name__)

# Seconds for which events are gathered before they are sent.
_GATHER = 0.05
# Seconds between two looks whether a case was cancelled.
_LOOK = 0.5
# Seconds without a case after which the lab ends: its coordinator may have been killed.
_IDLE = 120.0
# Bytes of the end of an adapter program's log that are sent.
_LOG = 1 << 20
# Bytes of a file that is sent after its attempt has ended.
_LATE_FILE = 64 << 20

Message: TypeAlias = dict[str, Any]
Send: TypeAlias = Callable[[Message], None]
# Opens a lab with the adapters that cases need.
OpenLab: TypeAlias = "Callable[[Settings, Sequence[Case], Path, Progress], AbstractAsyncContextManager[Lab]]"


@dataclass(frozen=True, slots=True)
class Setup:
    """What every machine needs to run cases of a session.

    :param session: its id.
    :param cases: some cases, which together need what all need.
    :param shipped: where the suites that come with trafficlight are at the coordinator.
    :param trees: the folders of its test files there.
    :param files: an archive of them.
    :param open_lab: opens the lab.
    """

    session: str
    settings: Settings
    cases: tuple[Case, ...]
    shipped: Path
    trees: tuple[Path, ...]
    files: bytes
    open_lab: OpenLab

    def settings_in(self, folder: Path) -> Settings:
        """Return the settings of a lab that nothing but its own adapters and the coordinator use."""
        return self.settings.model_copy(
            update={
                "host": "127.0.0.1",
                "port": 0,
                "dask": None,
                "results_folder": folder,
                "people_token": SecretStr(secrets.token_urlsafe()),
                "reporters": {},
                "history": "",
                "keep_results": None,
                "session_deadline": None,
                "case_limit": None,
            }
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended.

    :param seconds: how long it took.
    :param unclaimed: whether an adapter never began it, and another one could.
    :param files: an archive of its files; empty if there are none.
    """

    verdict: Verdict
    seconds: float
    unclaimed: bool = False
    files: bytes = b""


class Host:
    """A lab in a thread of a Dask worker.

    :param folder: for its files, and those of the attempts.
    :param send: sends a message to the coordinator; called in any thread.
    """

    def __init__(self, setup: Setup, folder: Path, send: Send) -> None:
        self._setup, self._folder, self._send = setup, folder, send
        self._guests: Future[tuple[asyncio.AbstractEventLoop, Guests]] = Future()
        self._lock = threading.Lock()
        self._running = 0
        #: Whether it takes no more cases.
        self.closed = False
        self._at_once = False
        self._thread = threading.Thread(target=self._serve, name="trafficlight", daemon=True)
        self._thread.start()

    def announce(self) -> bool:
        """Announce a case, so that the lab stays; return whether it takes one."""
        with self._lock:
            self._running += not self.closed
            return not self.closed

    def run(self, case: Case, attempt: int, cancelled: Callable[[], bool]) -> Ended:
        """Run an attempt of a case that :meth:`announce` announced. Blocks.

        :param cancelled: returns whether its verdict is no longer needed.
        """
        try:
            loop, guests = self._guests.result()
            future = asyncio.run_coroutine_threadsafe(guests.run(case, attempt), loop)
            while not future.done():
                with contextlib.suppress(TimeoutError, CancelledError):
                    future.exception(_LOOK)
                if not future.done() and cancelled():
                    self.cancel(case.id, "its coordinator has ended, or the machine was considered lost")
            ended = future.result()
            if self._at_once:
                verdict = Verdict(State.ERROR, "interrupted: its Dask worker was stopped", phase=INTERRUPTED)
                ended = replace(ended, verdict=verdict)
            return ended
        finally:
            with self._lock:
                self._running -= 1

    def cancel(self, case: str, reason: str) -> None:
        """Cancel a running case."""
        if self._guests.done() and self._guests.exception() is None:
            loop, guests = self._guests.result()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(guests.abort, case, reason)

    def close(self, *, at_once: bool) -> None:
        """End the lab. Blocks.

        :param at_once: whether not to wait for the last uploads of its adapters.
        """
        with self._lock:
            self.closed, self._at_once = True, at_once
        self._thread.join()

    def _say(self, line: str) -> None:
        self._send({"say": line})

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            logger.exception("the lab of a Dask worker failed")
            if not self._guests.done():
                self._guests.set_exception(error)
        finally:
            self.closed = True
            if not self._at_once:
                self._send_logs()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _send_logs(self) -> None:
        """Send the output of the adapter programs."""
        for path in sorted((self._folder / "adapters").glob("*.log")):
            with contextlib.suppress(OSError):
                self._send({"log": path.name, "content": read_tail(path, _LOG).encode()})

    async def _main(self) -> None:
        setup = self._setup
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        base = await asyncio.to_thread(place, setup.trees, setup.files, self._folder / "tests")
        here = partial(relocated, base=base, shipped=setup.shipped)
        cases = await asyncio.to_thread(lambda: [here(case) for case in setup.cases])
        settings = setup.settings_in(self._folder)
        async with setup.open_lab(settings, cases, self._folder / "adapters", self._say) as lab:
            folder = ResultsFolder(self._folder / setup.session)
            await asyncio.to_thread(folder.path.mkdir, exist_ok=True)
            guests = await asyncio.to_thread(Guests, lab, folder, self._send, here)
            guests.preparation = lab.prepare(cases)
            guests.preparation.on_change = lab.engine.wake
            lab.engine.admit(guests)
            self._guests.set_result((asyncio.get_running_loop(), guests))
            used = time.monotonic()
            while not self._ends(used):
                await asyncio.sleep(_LOOK)
                used = time.monotonic() if self._running else used
            if self._at_once:
                await lab.engine.stop("the Dask worker has ended")

    def _ends(self, used: float) -> bool:
        """Return whether the lab ends.

        :param used: when it last had a case, on the monotonic clock.
        """
        with self._lock:
            if not self._running and time.monotonic() - used >= _IDLE:
                self.closed = True
            return self.closed


class Guests(Session):
    """The cases of another coordinator's session that run in this lab, one attempt of each.

    :param folder: of the session, whose name is that of the session's folder at its coordinator.
    :param here: returns a case with the paths that it has on this machine. Blocks.
    """

    def __init__(self, lab: "Lab", folder: ResultsFolder, send: Send, here: Callable[[Case], Case]) -> None:
        super().__init__(folder, Plan(()), lab.journal, lab.clock, SessionOptions())
        self._lab, self._send, self._here = lab, send, here
        self._results: dict[str, asyncio.Future[Ended]] = {}
        self._lines: list[bytes] = []
        self._orders = 0
        self._unsubscribe = lab.journal.subscribe(self._forward, session=self.id)
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: not before the lab ends."""
        return bool(self.stopped) and not self.running

    async def run(self, case: Case, attempt: int) -> Ended:
        """Run an attempt of a case.

        :raises LabError: the lab is ending.
        """
        while (earlier := self._results.get(case.id)) is not None:  # whose coordinator takes it for lost
            await asyncio.wait([earlier])
            await asyncio.sleep(0)
        case = await asyncio.to_thread(self._here, case)
        for kind in case.clients.values():
            kind.evaluate = self._lab.matches
        why = (await asyncio.to_thread(self._lab.engine.unsupported, [case]))(case)
        if why is not None:
            return Ended(Verdict(State.SKIPPED, why, phase="prepare"), 0.0)
        result = self._results[case.id] = asyncio.get_running_loop().create_future()
        self._orders += 1
        self.waiting.add(WaitingCase(case, self._orders, self._clock.monotonic(), attempt))
        self._lab.engine.wake()
        ended: Ended = await result
        self._flush()
        files = await asyncio.to_thread(take, self.folder.attempt(case.id, attempt).path)
        return replace(ended, files=files)

    def abort(self, case: str, reason: str) -> None:
        """Cancel a case, if it runs or waits."""
        self._lab.engine.cancel_case(self, case, reason)

    def cancel_case(self, case: str, attempt: int | None, reason: str, *, waits: bool) -> None:
        """End a case that waits; its coordinator has recorded that it is cancelled."""
        if waits:
            self.end_waiting(case, State.SKIPPED, reason)

    def finish(
        self,
        case: WaitingCase,
        verdict: Verdict,
        seconds: float,
        *,
        by_hand: bool = False,
        unclaimed: bool = False,
        number: int | None = None,
    ) -> None:
        """Return the verdict of an attempt to its coordinator, which decides what follows."""
        self.running.remove(case.case.id)
        self._end(case.case.id, number, verdict, seconds, will_retry=unclaimed)

    def _end(
        self, case: str, attempt: int | None, verdict: Verdict, seconds: float, *, will_retry: bool = False
    ) -> None:
        self._results.pop(case).set_result(Ended(verdict, seconds, will_retry))

    async def close(self, *, interrupted: bool) -> None:
        """End it; waiting cases are lost."""
        self.closing = True
        for case in list(self.waiting):
            self.end_waiting(case, State.ERROR, "the lab of the Dask worker has ended")
        self._flush()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._stop_preparation()
        await asyncio.to_thread(self.writer.close)
        self.ended.set()

    def _forward(self, event: Event) -> None:
        """Send an event to the coordinator, soon; with its file, if the attempt has ended."""
        if isinstance(event, Upload) and event.case and event.case not in self._results:
            task = asyncio.create_task(self._send_late(event), name=f"send {event.path}")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(_GATHER, self._flush)
        self._lines.append(event_line(event))

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._send({"lines": lines})

    async def _send_late(self, event: Upload) -> None:
        path = self.folder.attempt(event.case or "", event.attempt or 1).path / event.path
        content = b""
        if event.size <= _LATE_FILE:
            content = await asyncio.to_thread(path.read_bytes)
        self._send({"lines": [event_line(event)], "file": event.path, "content": content})
