"""Adapter programs that the lab starts itself, and starts again when they end."""

import asyncio
import contextlib
import logging
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from trafficlight.cache import CacheFolder
from trafficlight.client_types import DEVELOP, PINNED, ClientTypeSpec, did_you_mean
from trafficlight.config import AdapterProgram
from trafficlight.coordinator.pool import Pool
from trafficlight.drivers.recipes import RECIPES, DriverRecipe
from trafficlight.errors import ConfigError, DeployError, TrafficlightError
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.processes import (
    LAB_ONLY,
    ChildProcess,
    Progress,
    own_module,
    shorten_log,
    signal_marked,
    start_process,
)
from trafficlight.protocol import TOKEN_VARIABLES, JsonObject
from trafficlight.suites.model import Case
from trafficlight.text import read_tail, single_line

logger = logging.getLogger(__name__)

# Seconds that a program has to end after SIGTERM, before it is killed; the host of a driver needs half of it.
_GRACE = 6.0
_LOOK = 1.0  # seconds between two looks
_INSTANCE = "TRAFFICLIGHT_INSTANCE"
# Seconds before a program that ended is started again: doubled each time that it ends soon, up to the last.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
# Seconds that a program must have run for its end not to count as an early one.
_EARLY = 5.0
# Exits in a row, without a case in between, after which a program is not waited for.
_FAILED = 5
# Programs that are started at once: each start blocks the event loop for some milliseconds.
_STARTS = 4
# Bytes of output that are searched for the line that says why a program exited.
_TAIL = 8 << 10
# A version that a client type must have.
_EXACT = re.compile(r"==([\w.]+)")
_CAUSE = re.compile(r"\s*([\w.]*(error|exception)|panic|fatal|cannot start [^:]+)\b.*:", re.IGNORECASE)


@dataclass(slots=True)
class Program:
    """An adapter program, which is started again when it exits.

    :param name: for its log's name.
    :param command: what to run; ``{url}`` and ``{port}`` in it, and in the environment, are replaced.
    :param directory: its working directory; by default this process's.
    :param environment: variables to set besides the inherited ones.
    :param recipe: builds the driver that the command hosts, which is appended to it.
    :param version: the version of the client of that driver; by default the recipe's.
    :param count: how many adapters it registers.
    :ivar instance: names it, the same for all of its processes.
    :ivar secret: is in the URL of its processes: others cannot register as this program.
    :ivar running: whether it has a process now.
    :ivar failures: how often in a row it exited without having been in a case.
    """

    name: str
    command: Sequence[str]
    directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    recipe: type[DriverRecipe] | None = None
    version: str | None = None
    count: int = 1
    instance: str = field(default_factory=lambda: secrets.token_hex(8))
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    failures: int = 0
    running: bool = False


def programs_of(adapters: Mapping[str, AdapterProgram], cases: Iterable[Case] | None = None) -> list[Program]:
    """Return one entry for each process that the settings ask for: one host for all drivers of an entry.

    :param cases: the only cases to run: of a built-in adapter, no more are started than they have roles for.
    :raises ConfigError: an entry is wrong.
    """
    found = []
    for name, adapter in adapters.items():
        key = f"ADAPTERS.{name}"
        if adapter.command and adapter.driver:
            raise ConfigError("has a command and a driver: name one", key=key)
        if adapter.cwd is not None and not adapter.cwd.is_dir():
            raise ConfigError(f"no such directory: {adapter.cwd}", key=f"{key}.cwd")
        if adapter.command:
            command = _split(adapter.command, adapter, key)
            found += [Program(name, command, adapter.cwd, adapter.env) for _ in range(adapter.count)]
            continue
        if adapter.driver:
            driver = ["--driver", shlex.join(_split(adapter.driver, adapter, key))]
            found.append(
                Program(name, _host(adapter.count, driver), adapter.cwd, adapter.env, count=adapter.count)
            )
            continue
        if name not in RECIPES:
            known = ", ".join(RECIPES)
            raise ConfigError(f"needs a command or a driver: only {known} come with trafficlight", key=key)
        version = adapter.version or None
        for wanted, roles in _roles(name, cases).items() if cases is not None else [(version, adapter.count)]:
            count = min(roles, adapter.count)
            needed = _host(count, _labels(wanted) if cases is not None else ())
            recipe = RECIPES[name], wanted or version
            found.append(Program(name, needed, adapter.cwd, adapter.env, *recipe, count))
    return [program for program in found if program.command]


def absence_of(
    adapters: Mapping[str, AdapterProgram], drivers: Callable[[], Mapping[str, str]], kind: ClientTypeSpec
) -> str:
    """Return why no adapter of the settings registers as a type; empty if one may.

    What commands register as is not known, and that of drivers is known once they have.

    :param drivers: returns the types that drivers of the settings have registered as, by their entry.
    """
    type, types = kind.type, drivers()
    unknown = any(one.command or (one.driver and name not in types) for name, one in adapters.items())
    if unknown or type in types.values():
        return ""
    if type in adapters and type not in types:
        return f"ADAPTERS has no {type} of yours, as {kind.type_name} is" if kind.channel else ""
    named = (f"{types.get(one, one)} ({one})" if types.get(one, one) != one else one for one in adapters)
    hint = did_you_mean(type, (*adapters, *types.values())) if type not in types else ""
    return f"ADAPTERS has no {type}{hint}; it has {', '.join(named) or 'none'}"


def driver_types(programs: Iterable[Program], pool: Pool) -> dict[str, str]:
    """Return what the drivers that are no recipes' have registered as, by the names of their programs."""
    found = {one.name: pool.registration_of(one.instance) for one in programs if one.recipe is None}
    return {name: str(registration["type"]) for name, registration in found.items() if registration}


def _labels(version: str | None) -> list[str]:
    """Return the options that keep adapters of one version for the roles that ask for it."""
    if version is None:
        return []
    return ["--label", PINNED, *(("--label", "develop") if f"=={version}" == DEVELOP else ())]


def _host(count: int, options: Sequence[str] = ()) -> list[str]:
    """Return the command of a host of drivers; none if none are needed."""
    return [*own_module("trafficlight"), "adapter", "run", *options, "--count", str(count)] if count else []


def unsupported_of(programs: Iterable[Program]) -> dict[str, str]:
    """Return why this machine cannot run clients that come with trafficlight, by their types."""
    recipes = {program.recipe for program in programs if program.recipe is not None}
    return {one.name: why for one in recipes if (why := one.unsupported()) is not None}


def _roles(type: str, cases: Iterable[Case]) -> Counter[str | None]:
    """Return how many roles adapters of a type may fill, by the version that a role must have."""
    roles: Counter[str | None] = Counter()
    for case in cases:
        for kind in case.clients.values() if case.skip is None else ():
            # What the own `match` of a type accepts is not known. Channels are of builds that others bring.
            if (kind.type == type and not kind.channel) or kind.custom is not None:
                exact = _EXACT.fullmatch(kind.version)
                roles[exact[1] if exact else None] += 1
    return roles


def _split(command: str, adapter: AdapterProgram, key: str) -> list[str]:
    """Return the arguments of a command.

    :raises ConfigError: its program does not exist.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"{command!r}: {error}", key=key) from None
    program = arguments[0] if arguments else ""
    # A path is relative to the working directory.
    place = Path(adapter.cwd or "", program) if os.sep in program else program
    if shutil.which(place, path=adapter.env.get("PATH")) is None:
        raise ConfigError(f"no such program: {program} (commands are not run by a shell)", key=key)
    return arguments


class Supervisor:
    """Keeps adapter programs running until it is left.

    Each program gets a URL of its own, which identifies the adapters that register there.

    :param url: the coordinator's URL, passed as ``TRAFFICLIGHT_URL``, ``trafficlightURL`` and ``{url}``.
    :param token: the bearer token that registering takes.
    :param cache: where drivers are built.
    :param progress: called with a line for every slow step.
    :param exit_deadline: seconds after `exit` until a program that has neither exited nor registered again is
        ended.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        url: str,
        folder: Path,
        pool: Pool,
        *,
        token: str | None = None,
        cache: CacheFolder | None = None,
        progress: Progress = lambda _: None,
        exit_deadline: float = 45.0,
    ) -> None:
        self.programs = tuple(programs)
        self._cache, self._progress = cache or CacheFolder(), progress
        #: How many programs have drivers that are being built.
        self.building = 0
        self._exit_deadline = exit_deadline
        self._url = url
        self._environment = {name: value for name, value in os.environ.items() if name != LAB_ONLY}
        if token is not None:
            self._environment |= dict.fromkeys(TOKEN_VARIABLES, token)
        self._folder = folder
        self._pool = pool
        pool.own_programs |= {program.secret: program.instance for program in self.programs}
        self._directory = Path.cwd()
        self._running: set[ChildProcess] = set()
        self._exited: set[str] = set()  # the instances of programs that may have left processes behind
        self._killing = asyncio.Lock()
        self._starting = asyncio.Semaphore(_STARTS)
        self._ports = PortPicker()

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [process.pid for process in self._running]

    async def run(self) -> None:
        """Start every program, again and again, until this is cancelled; none is left running then."""
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        # What a killed program leaves in its temporary folder goes with this one.
        temporary = await asyncio.to_thread(
            tempfile.TemporaryDirectory, prefix="trafficlight-adapters-", ignore_cleanup_errors=True
        )
        self._environment["TMPDIR"] = temporary.name
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_logs_short())
                for number, program in enumerate(self.programs, 1):
                    log = self._folder / f"{program.name}-{number}.log"
                    group.create_task(self._keep(program, log))
        finally:
            await _stop(list(self._running))
            self._exited.update(program.instance for program in self.programs)
            await self._kill_leftovers()
            await asyncio.to_thread(temporary.cleanup)

    def all_registered(self) -> bool:
        """Whether each program has registered an adapter."""
        return all(self._pool.registration_of(program.instance) is not None for program in self.programs)

    def all_failed(self) -> bool:
        """Whether no missing adapter will register: their programs have exited again and again.

        Not where adapters of another origin are registered: more of those may come.
        """
        there = self._pool.usable
        missing = [program for program in self.programs if not there[program.instance]]
        others = there.keys() - {program.instance for program in self.programs}
        return bool(missing) and not others and all(program.failures >= _FAILED for program in missing)

    def starting(self) -> set[str]:
        """Return the types of programs with fewer adapters than they register.

        Not of those that keep exiting.
        """
        there = self._pool.usable
        short = (one for one in self.programs if one.failures < _FAILED and there[one.instance] < one.count)
        registrations = (self._pool.registration_of(one.instance) for one in short)
        return {one["type"] for one in registrations if one is not None}

    async def _keep(self, program: Program, log: Path) -> None:
        if program.recipe is None:
            await self._keep_running(program, log, program.environment)
            return
        recipe = program.recipe(self._cache, self._progress)
        if await self._build(program, recipe):
            async with recipe.services(log.with_suffix(".services.log")) as more:
                await self._keep_running(program, log, {**program.environment, **more})

    async def _keep_running(self, program: Program, log: Path, variables: Mapping[str, str]) -> None:
        pause = _FIRST_PAUSE
        loop = asyncio.get_running_loop()
        # An adapter passes this on without knowing it.
        url = f"{self._url}/program/{program.secret}"
        name = program.name
        own = {"TRAFFICLIGHT_URL": url, "trafficlightURL": url, _INSTANCE: program.instance}
        while True:
            port = self._ports.pick()
            self._ports.release(port)  # its process is to have it
            filled = partial(_filled, url=url, port=port)
            command = [filled(part) for part in program.command]
            environment = {name: filled(value) for name, value in variables.items()}
            began, printed = loop.time(), await asyncio.to_thread(_size, log)
            try:
                async with self._starting:
                    process = await start_process(
                        command,
                        environment={**self._environment, **environment, **own},
                        directory=program.directory or self._directory,
                        log=log,
                    )
            except (DeployError, OSError) as error:  # no processes, memory or files are left
                program.failures += 1
                logger.warning("the adapter program %s cannot be started: %s", name, error)
                self._note_missing(program, f"cannot be started: {error}")
                pause = min(pause * 2, _LONGEST_PAUSE)
                await asyncio.sleep(pause)
                continue
            self._running.add(process)
            program.running = True
            how = await self._exit_of(process, program)
            program.running = False
            self._running.discard(process)
            self._exited.add(program.instance)
            async with self._killing:  # one search for all that exited during the one before
                await self._kill_leftovers()
            cause = await asyncio.to_thread(_cause, log, printed)
            ending = f"{how}: {cause}" if cause else how
            used = self._pool.process_exited(program.instance, ending)
            asked = used and how == "exit code 0"
            level = logging.INFO if asked else logging.WARNING
            logger.log(level, "the adapter program %s exited (%s); its output is in %s", name, ending, log)
            program.failures = 0 if used else program.failures + 1
            if program.failures:
                times = f"{program.failures} times, last with" if program.failures > 1 else "with"
                self._note_missing(program, f"exited {times} {ending}")
            pause = _FIRST_PAUSE if loop.time() - began > _EARLY else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311

    async def _kill_leftovers(self) -> None:
        """Kill what programs that have exited left running."""
        exited, self._exited = self._exited, set()
        if exited:
            await asyncio.to_thread(signal_marked, _INSTANCE, exited, signal.SIGKILL)

    async def _keep_logs_short(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await asyncio.to_thread(_shorten_logs, self._folder)

    async def _build(self, program: Program, recipe: DriverRecipe) -> bool:
        """Build a program's driver; return whether it can be started."""
        self.building += 1
        registration = {"type": recipe.name, "version": program.version or ""}
        self._note_missing(program, "starts once its driver is ready", registration)
        try:
            driver = await recipe.install(program.version)
        except (TrafficlightError, OSError) as error:
            program.failures = _FAILED
            logger.warning("the driver of %s cannot be built: %s", program.name, error)
            self._note_missing(program, f"cannot be built: {error}", registration)
            return False
        finally:
            self.building -= 1
        program.command = [*program.command, "--driver", shlex.join(driver)]
        return True

    def _note_missing(self, program: Program, why: str, registration: JsonObject | None = None) -> None:
        registration = registration or self._pool.registration_of(program.instance)
        why = f"the program {program.name} {why}"
        self._pool.note_missing(program.instance, "process", why, registration)

    async def _exit_of(self, process: ChildProcess, program: Program) -> str:
        """Wait until a process exits; end one that neither exits nor registers again after `exit`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    return await process.wait()
            since = self._pool.since_exit(program.instance)
            # An `exit` before the start was for the process before this one.
            if since is not None and self._exit_deadline < since < loop.time() - began:
                logger.warning(
                    "the adapter program %s did not exit within %g s after `exit`",
                    program.name,
                    self._exit_deadline,
                )
                await _stop([process])


async def _stop(processes: Sequence[ChildProcess]) -> None:
    """End processes and their children: SIGTERM first, SIGKILL after a grace time."""
    for process in processes:
        process.signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_GRACE):
            await asyncio.gather(*(process.wait() for process in processes))
    except TimeoutError:
        for process in processes:
            process.signal(signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in processes))
    for process in processes:
        # Each leads a group of its own, with whatever it started in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _filled(text: str, url: str, port: int) -> str:
    return text.replace("{url}", url).replace("{port}", str(port))


def _cause(log: Path, since: int) -> str:
    """Return the line of a program's output that says why it exited: the last error, or the last line."""
    lines = [line for line in read_tail(log, _TAIL, since=since).splitlines() if line.strip()]
    errors = [line for line in lines if _CAUSE.match(line)]
    return single_line((errors or lines or [""])[-1])


def _shorten_logs(folder: Path) -> None:
    for log in folder.glob("*.log"):
        # Removed meanwhile, or no regular file.
        with contextlib.suppress(OSError), open(log, "rb+", buffering=0, opener=_appending) as file:
            shorten_log(file)


def _appending(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND | os.O_CLOEXEC)


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0
