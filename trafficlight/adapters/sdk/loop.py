"""The loop of an adapter: register, poll, perform, respond, and register again."""

import asyncio
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias
from uuid import uuid4

import aiohttp

from trafficlight.adapters.sdk.adapter import (
    ActionFailed,
    Adapter,
    CoordinatorUnreachableError,
    RegistrationLostError,
    ReportedError,
    UnsupportedActionError,
)
from trafficlight.adapters.sdk.coordinator import FEW_ATTEMPTS, Coordinator, Options
from trafficlight.clock import cancel_all
from trafficlight.errors import LabError
from trafficlight.protocol import EXIT, IDLE, TOKEN_VARIABLES, ActionMessage, ErrorBody, JsonObject
from trafficlight.version import VERSION

logger = logging.getLogger(__name__)

_LONGEST_IDLE = 60.0
_SHORTEST_ROUND = 1.0
_LAST_WORDS = 2.0
_LONGEST_CLOSE = 10.0
# Seconds that an action takes before it is asked whether it is to be ended.
_WHILE = 0.5


# The id of an action, None from a coordinator without ids, and the response to it.
_Response: TypeAlias = tuple[str | None, JsonObject]


class _Registration:
    """One adapter, for one registration.

    :param adapter: the fresh adapter.
    :param coordinator: its line to the coordinator.
    """

    def __init__(self, adapter: Adapter, coordinator: Coordinator) -> None:
        self._adapter = adapter
        self._coordinator = coordinator
        self._answered: _Response | None = None
        self._unacknowledged: _Response | None = None
        self._over = False  # the coordinator expects no report any more
        self.polled = False

    async def run(self) -> None:
        """Serve until the coordinator says ``exit``, does not know us any more, or an action goes wrong."""
        registration = self._adapter.registration()
        await self._coordinator.register(registration)
        logger.info("registered %s as %s", registration.type, self._coordinator.uuid)
        watching = asyncio.create_task(self._adapter.watch(), name="watch over the client")
        try:
            await self._serve(watching)
        finally:
            await cancel_all(watching)

    async def _serve(self, watching: "asyncio.Task[None]") -> None:
        coordinator = self._coordinator
        while True:
            asked = time.monotonic()
            polling = asyncio.ensure_future(self._next())
            try:
                if not watching.done():
                    await asyncio.wait([polling, watching], return_when=asyncio.FIRST_COMPLETED)
                if watching.done() and (lost := watching.exception()) is not None:
                    await cancel_all(polling)
                    await self._report_lost(str(lost))
                    return
                message = await polling
            finally:
                polling.cancel()
            if message.action == EXIT:
                _log_exit(coordinator.uuid, message)
                return
            self.polled = True
            if message.action == IDLE:
                # A coordinator that neither holds polls nor names a delay must not be flooded.
                least = asked + _SHORTEST_ROUND - time.monotonic()
                await asyncio.sleep(max(_idle_seconds(message), least))
            elif (response := await self._perform_killable(message)) is None:
                return
            elif response[0] is None:  # of a coordinator without ids, to which it must not be sent again
                await coordinator.respond(*response)
            else:
                self._unacknowledged = response

    async def _report_lost(self, why: str) -> None:
        """Report that the client is lost, after the response that was not acknowledged."""
        try:
            if self._unacknowledged is not None:  # not sent, or lost, or its answer is held
                await self._coordinator.respond(*self._unacknowledged, attempts=FEW_ATTEMPTS)
        except CoordinatorUnreachableError as trouble:
            logger.warning("neither the last response nor %r got through: %s", why, trouble)
        else:
            await self._coordinator.report(ErrorBody(type="adapter", details=why))

    async def _next(self) -> ActionMessage:
        """Send the last response, unless it was acknowledged, and return what to do next."""
        if self._unacknowledged is not None:
            following = await self._coordinator.respond(*self._unacknowledged, poll=True)
            self._unacknowledged = None
            if following is not None:
                return following
        return await self._coordinator.poll()

    async def _perform_killable(self, message: ActionMessage) -> _Response | None:
        """Perform an action and, if it takes a while and the test kills the client meanwhile, that too.

        :return: the action's response, to be sent after that to `kill`; None if the registration ends.
        """
        performing = asyncio.ensure_future(self._perform(message))
        try:
            if self._adapter.killable:
                await asyncio.wait([performing], timeout=_WHILE)
            while self._adapter.killable and not performing.done():
                polling = asyncio.ensure_future(self._coordinator.poll(busy=True))
                try:
                    await asyncio.wait([performing, polling], return_when=asyncio.FIRST_COMPLETED)
                    if not polling.done():
                        break
                    urgent = await polling
                finally:
                    await cancel_all(polling)
                if urgent.action == EXIT:
                    self._over = True
                    _log_exit(self._coordinator.uuid, urgent)
                    return None
                if urgent.id == message.id:  # an older coordinator
                    break
                if urgent.action == IDLE:
                    await asyncio.wait([performing], timeout=max(_idle_seconds(urgent), _SHORTEST_ROUND))
                    continue
                if (response := await self._perform(urgent)) is None:
                    self._over = True
                    return None
                await self._coordinator.respond(*response)
            return await performing
        finally:
            await cancel_all(performing)

    async def _perform(self, message: ActionMessage) -> _Response | None:
        """Perform one action and return its response; None if it failed, and the registration ends."""
        if self._answered is not None and message.id == self._answered[0]:
            return self._answered  # the response was lost: send it again, do not perform the action again
        logger.info("%s: %s", self._coordinator.uuid, message.action)
        try:
            response = message.id, await self._adapter.perform(message.action, message.data)
        except asyncio.CancelledError:
            if not self._over:
                with suppress(TimeoutError, LabError, aiohttp.ClientError):
                    async with asyncio.timeout(_LAST_WORDS):
                        stopped = "the adapter was stopped during this action"
                        await self._report(ErrorBody(type="adapter", details=stopped), message)
            raise
        except Exception as error:  # noqa: BLE001 - it is reported
            body = body_of(error)
            if body.type == "adapter":
                logger.error("%s: %s: %s", self._coordinator.uuid, message.action, body.details)
            await self._report(body, message)
            return None
        if message.id is not None:
            self._answered = response
        return response

    async def _report(self, body: ErrorBody, message: ActionMessage) -> None:
        body.details = f"{message.action}: {body.details}"
        await self._coordinator.report(body)


def body_of(error: Exception) -> ErrorBody:
    """Return the report of an error that an action raised; with the stack where that may help."""
    if isinstance(error, ReportedError):
        return ErrorBody(type=error.kind, path=error.path, details=str(error))
    if isinstance(error, UnsupportedActionError):
        return ErrorBody(type="unsupported", details=str(error))
    if isinstance(error, LabError):
        return ErrorBody(type="adapter", details=str(error))
    failed = isinstance(error, ActionFailed)
    what = str(error) if failed else f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    return ErrorBody(
        type="action" if failed else "adapter",
        path=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "",
        details=f"{what}\n\n{''.join(traceback.format_exception(error))}",
    )


def _log_exit(uuid: str, message: ActionMessage) -> None:
    logger.info("%s: asked to exit: %s", uuid, message.data.get("reason") or "no reason given")


def _idle_seconds(message: ActionMessage) -> float:
    try:
        milliseconds = float(message.data.get("delay") or 0)
    except (TypeError, ValueError):
        milliseconds = 0.0
    return min(max(milliseconds, 0.0) / 1000, _LONGEST_IDLE)


async def _serve_registration(
    factory: Callable[[], Adapter], http: aiohttp.ClientSession, url: str, token: str | None, options: Options
) -> bool:
    """Run an adapter for one registration; return whether it was given something to do, or `idle`."""
    adapter = factory()
    coordinator = Coordinator(http, url, str(uuid4()), options, token=token)
    adapter.context = coordinator
    registration = _Registration(adapter, coordinator)
    try:
        await adapter.open()
        await registration.run()
    except RegistrationLostError as error:
        logger.info("%s: the registration has ended: %s", coordinator.uuid, error)
    finally:
        closing = asyncio.ensure_future(_close(adapter, coordinator))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])  # stopped while cleaning up: finish that first
            raise
    return registration.polled


async def _close(adapter: Adapter, coordinator: Coordinator) -> None:
    try:
        async with asyncio.timeout(_LONGEST_CLOSE) as coordinator.closing:
            await adapter.close()
    except Exception:
        logger.exception("%s: cleaning up went wrong", coordinator.uuid)
    await asyncio.to_thread(coordinator.remove_storage)


async def _run_forever(
    factory: Callable[[], Adapter],
    http: aiohttp.ClientSession,
    url: str,
    token: str | None,
    options: Options,
    once: bool,
) -> None:
    delays = options.backoff.delays()
    while True:
        polled = await _serve_registration(factory, http, url, token, options)
        if once:
            return
        if polled:
            delays = options.backoff.delays()
        else:
            await asyncio.sleep(next(delays))  # registered and forgotten at once: do not spin


async def run(
    factory: Callable[[], Adapter],
    url: str,
    *,
    count: int = 1,
    token: str | None = None,
    once: bool = False,
    options: Options | None = None,
) -> None:
    """Run adapters until cancelled, each under a fresh uuid and with a fresh object per registration.

    :param factory: makes an adapter; usually the class itself.
    :param url: the coordinator's base URL.
    :param count: how many adapters to run at the same time in this process.
    :param token: the shared registration token; by default
        ``TRAFFICLIGHT_ADAPTER_TOKEN`` of the environment.
    :param once: end after the first registration of each adapter.
    :param options: timing, where the defaults do not fit.
    :raises RegistrationRefusedError: the coordinator refused them.
    :raises CoordinatorUnreachableError: it did not answer for ``options.patience`` seconds.
    """
    chosen = options or Options()
    shared = token or next(filter(None, map(os.environ.get, TOKEN_VARIABLES)), None)
    agent = {"User-Agent": f"trafficlight-adapter/{VERSION}"}
    # Held polls occupy a connection each, so there must be no limit on them.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=agent) as http:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(
                        _run_forever(factory, http, url, shared, chosen, once), name=f"adapter {number}"
                    )
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None


async def serve(
    factory: Callable[[], Adapter],
    url: str,
    *,
    count: int = 1,
    token: str | None = None,
    once: bool = False,
    options: Options | None = None,
) -> None:
    """Call :func:`run`, and end cleanly on SIGTERM and SIGINT: for a program's main function."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    stopped = False
    task = asyncio.ensure_future(run(factory, url, count=count, token=token, once=once, options=options))

    def stop(number: signal.Signals) -> None:
        nonlocal stopped
        stopped = True
        logger.info("%s: stopping", number.name)
        for known in signals:  # a second signal ends the process the hard way
            loop.remove_signal_handler(known)
        task.cancel()

    for known in signals:
        loop.add_signal_handler(known, stop, known)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
    finally:
        for known in signals:
            loop.remove_signal_handler(known)
