"""The host: an adapter that has a driver perform the actions, and acts on the driver's process itself."""

import asyncio
import hashlib
import itertools
import json
import logging
import os
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import platformdirs

from trafficlight.adapters.host.driver import Driver, DriverCommand, DriverError
from trafficlight.adapters.sdk import Adapter, JsonObject, Options, UnsupportedActionError, serve
from trafficlight.adapters.sdk.adapter import ReportedError
from trafficlight.processes import try_lock
from trafficlight.protocol import RESET, ErrorBody, Registration
from trafficlight.text import truncate

# The share of the coordinator's deadline for an action; seconds where it names none.
_SHARE, _LONGEST_ACTION = 0.95, 300.0
# Characters of a wrong answer that an error quotes.
_QUOTED = 500
# Seconds before a driver that did not start is started again.
_PAUSE = 5.0

logger = logging.getLogger(__name__)

_ON_PROCESS: Mapping[str, Callable[[Driver], Awaitable[None]]] = MappingProxyType(
    {
        "kill": Driver.kill,
        "restart": Driver.restart,
        "reload": Driver.restart,
        "suspend": Driver.suspend,
        "resume": Driver.resume,
        "clear_storage": Driver.clear_storage,
    }
)


class DriverAdapter(Adapter):
    """One registration of a driver.

    :param drivers: where its driver comes from.
    """

    type = "driver"
    killable = True

    def __init__(self, drivers: "Drivers") -> None:
        self._drivers = drivers
        self._driver: Driver | None = None
        self._used = False
        self._fine = True

    async def open(self) -> None:
        """Get a driver that runs."""
        self._driver = await self._drivers.take()

    async def close(self) -> None:
        """Upload what the driver leaves; end it, unless another registration can have it after a reset."""
        driver = self._driver
        if driver is None:
            return
        again = False
        try:
            if driver.hello.reusable and self._fine and driver.runs:
                again = not self._used or (await self._reset(driver))["response"] != "error"
            else:
                await driver.end()
                if self._used:
                    await self._upload(driver)
        except (DriverError, ReportedError) as error:
            logger.warning("the driver of %s cannot be reset: %s", driver.hello.type, error)
        finally:
            await self._drivers.give_back(driver, again=again)

    def registration(self) -> Registration:
        """Return what the driver says it is, with the actions on its process."""
        hello = self._running.hello
        actions = None if hello.actions is None else list(dict.fromkeys([*hello.actions, *_ON_PROCESS]))
        update: JsonObject = {
            "actions": actions,
            "instance": self._drivers.instance,
            "instance_secret": self._drivers.secret,
        }
        if self._drivers.labels:
            update["labels"] = [*hello.labels, *self._drivers.labels]
        return hello.model_copy(update=update)

    async def perform(self, name: str, data: JsonObject) -> JsonObject:
        """Have the driver perform an action, or perform it on the driver's process.

        :raises ReportedError: the driver reports an error.
        :raises UnsupportedActionError: the driver declares its actions, and not this one.
        :raises DriverError: the driver exited, did not answer, or was killed before.
        """
        self._fine = False
        response = await self._perform(name, data)
        self._fine = response.get("response") != "error"
        return response

    async def _perform(self, name: str, data: JsonObject) -> JsonObject:
        driver = self._running
        if name == RESET:
            return await self._reset(driver)
        if not self._used:
            self._used = True
            if not driver.hello.reusable:
                self._drivers.prepare()
        declared = driver.hello.actions
        # One that declares none may know `reload`: a page can do what its driver's process cannot.
        if name in _ON_PROCESS and name not in (["reload"] if declared is None else declared):
            await _ON_PROCESS[name](driver)
            return {"response": name}
        if declared is not None and name not in declared:
            raise UnsupportedActionError(f"{driver.hello.type} does not support this action")
        response = await self._ask(driver, name, data)
        # Most say nothing but which action it was.
        if said := {key: value for key, value in response.items() if (key, value) != ("response", name)}:
            await self._upload_named(driver, said)
        return response

    async def _ask(self, driver: Driver, name: str, data: JsonObject) -> JsonObject:
        deadline = self.context.action_deadline
        ran = driver.runs
        try:
            said = await driver.ask(name, data, _LONGEST_ACTION if deadline is None else _SHARE * deadline)
        except DriverError:
            if not (ran and driver.killed):
                raise
            return {"response": "error", "details": "the client was killed meanwhile"}
        if said.get("error") is not None:
            error = _reported(said["error"])
            if error.kind != "action":
                raise error
            # Not as an error report, which would end its part in the case: a test may expect the failure.
            return {"response": "error", "details": str(error), "path": error.path}
        if "response" not in said:
            shown = truncate(json.dumps(said, ensure_ascii=False), _QUOTED)
            raise DriverError(f"the driver answered with neither response nor error: {shown}")
        response = said["response"]
        if not isinstance(response, dict):
            response = {} if response is None else {"response": response}
        return {"response": name, **response}

    async def _reset(self, driver: Driver) -> JsonObject:
        """Have a reusable driver forget everything, and upload what it leaves of the case."""
        if driver.runs:
            response = await self._ask(driver, RESET, {})
        else:
            await driver.clear_storage()
            response = {"response": RESET}
        await self._upload(driver)
        self._used = False
        return response

    async def watch(self) -> None:
        """Raise when the driver's process exits unasked."""
        raise await asyncio.shield(self._running.lost)

    @property
    def _running(self) -> Driver:
        assert self._driver is not None, "open() comes first"
        return self._driver

    async def _upload(self, driver: Driver) -> None:
        """Upload the log, and then all evidence, small files first; they are deleted."""
        log = driver.log
        if await asyncio.to_thread(log.size):
            await self._upload_file(await asyncio.to_thread(log.path), log.name)
            await asyncio.to_thread(log.clear)
        for path in await asyncio.to_thread(_files, driver.evidence):
            await self._upload_file(path, path.relative_to(driver.evidence).as_posix())
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _upload_file(self, path: Path, name: str) -> None:
        """Upload a file; one that cannot be read costs no other."""
        try:
            await self.context.upload(path, name)
        except OSError as error:
            logger.warning("%s cannot be read: %s", name, error)

    async def _upload_named(self, driver: Driver, response: JsonObject) -> None:
        """Upload the evidence that a response names, so that the test can have it at once."""
        there = await asyncio.to_thread(_files, driver.evidence)
        if there:
            named = set(_strings(response))
            for path in there:
                name = path.relative_to(driver.evidence).as_posix()
                if name in named:
                    await self._upload_file(path, name)
                    await asyncio.to_thread(path.unlink, missing_ok=True)


class Drivers:
    """The drivers of one host: those that run, and one started ahead for each that is in use.

    :param command: how to start one.
    :param labels: words to register with, besides the driver's own.
    :param ahead: whether to start any ahead.
    :ivar instance: names this host in registrations, also after a restart; once it is entered.
    :ivar secret: proves that it is this host; None if there is none.
    """

    def __init__(self, command: DriverCommand, *, labels: Sequence[str] = (), ahead: bool = True) -> None:
        self._in_use = 0
        self.labels = labels
        self.instance = os.environ.get("TRAFFICLIGHT_INSTANCE", "")
        self.secret = os.environ.get("TRAFFICLIGHT_INSTANCE_SECRET")
        self._lock: int | None = None
        self._command = command
        self._ahead = ahead
        self._starting: deque[asyncio.Future[Driver]] = deque()

    async def __aenter__(self) -> Self:
        if not self.instance:
            self.instance, self.secret, self._lock = await asyncio.to_thread(
                _own_name, self._command, self.labels
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._starting:
            task.cancel()
        for one in await asyncio.gather(*self._starting, return_exceptions=True):
            if isinstance(one, Driver):
                await one.remove()
        if self._lock is not None:
            os.close(self._lock)

    def prepare(self) -> None:
        """Start a driver ahead for the next registration, in the background."""
        if self._ahead:
            self._starting.append(asyncio.create_task(self._started(), name="start of a driver"))

    async def take(self) -> Driver:
        """Return a driver that runs: one that was started ahead, or a new one.

        Where others of this host run, one that does not start is tried again.

        :raises DriverError: it does not start.
        """
        while True:
            ahead = bool(self._starting)
            try:
                driver = await (self._starting.popleft() if ahead else self._started())
            except DriverError as error:
                if ahead:
                    continue  # a new one says why
                if not self._in_use:
                    raise
                logger.warning("%s", error)
                await asyncio.sleep(_PAUSE)
                continue
            if not driver.lost.done():
                self._in_use += 1
                return driver
            await driver.remove()

    async def give_back(self, driver: Driver, *, again: bool) -> None:
        """Take a driver back: for the next registration, or to kill it and delete its folder."""
        self._in_use -= 1
        if again:
            ready = asyncio.get_running_loop().create_future()
            ready.set_result(driver)
            self._starting.append(ready)
        else:
            await driver.remove()

    async def _started(self) -> Driver:
        driver = Driver(self._command)
        try:
            await driver.start()
        except BaseException:
            await driver.remove()
            raise
        return driver


async def serve_driver(
    command: DriverCommand,
    url: str,
    *,
    labels: Sequence[str] = (),
    count: int = 1,
    token: str | None = None,
    once: bool = False,
    options: Options | None = None,
) -> None:
    """Host drivers until SIGTERM or SIGINT.

    :param command: how to start a driver.
    :param url: the coordinator's base URL.
    :param labels: words to register with, besides the drivers' own.
    :param count: how many to host at the same time.
    :param token: the shared registration token; by default
        ``TRAFFICLIGHT_ADAPTER_TOKEN`` of the environment.
    :param once: exit after one registration of each instead of registering again.
    :param options: timing, where the defaults do not fit.
    :raises DriverError: a driver does not start.
    :raises LabError: the coordinator rejected the registration, or did not answer for too long.
    """
    async with Drivers(command, labels=labels, ahead=not once) as drivers:
        await serve(lambda: DriverAdapter(drivers), url, count=count, token=token, once=once, options=options)


def _own_name(command: DriverCommand, labels: Sequence[str]) -> tuple[str, str, int | None]:
    """Return the name of a host, its secret, and the file that is locked while it has them.

    A restart finds the same.

    Each of several hosts with the same driver and labels has another name.
    """
    kind = json.dumps([command.arguments, str(command.directory), labels])
    folder = platformdirs.user_state_path("trafficlight") / "hosts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = folder / f"{hashlib.sha256(kind.encode()).hexdigest()[:16]}-{number}"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if try_lock(lock):
                name, _, secret = os.read(lock, 200).decode("ascii", "ignore").partition(" ")
                if not secret:  # an older version has left none
                    name, secret = name or secrets.token_hex(8), secrets.token_urlsafe(24)
                    os.pwrite(lock, f"{name} {secret}".encode(), 0)
                return name, secret, lock
            os.close(lock)
    except OSError as error:  # no folder that can be written
        logger.debug("this host has another name after a restart: %s", error)
    return secrets.token_hex(8), secrets.token_urlsafe(24), None


def _reported(error: Any) -> ReportedError:
    """Return the error that a driver reports; leniently, as it may be written in any language."""
    body = ErrorBody.model_validate(error if isinstance(error, dict) else {"details": error})
    details = body.details or str((body.model_extra or {}).get("message") or "no details")
    return ReportedError(details, kind=body.type, path=body.path)


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder, small ones first."""
    if folder.resolve() != folder:
        logger.warning("%s was replaced by a link, whose files are neither uploaded nor deleted", folder)
        return []
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # deleted meanwhile
            if path.is_file() and not path.is_symlink():
                found.append((path.stat().st_size, path))
    return [path for _, path in sorted(found)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
