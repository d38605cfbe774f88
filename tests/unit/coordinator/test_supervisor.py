"""Which programs are started, and what is said of one that exits."""

import asyncio
import contextlib
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from trafficlight import processes
from trafficlight.client_types import ClientTypeSpec, CustomMatch
from trafficlight.config import AdapterProgram
from trafficlight.coordinator import supervisor
from trafficlight.coordinator.supervisor import Program, Supervisor, absence_of, programs_of
from trafficlight.drivers.recipes import NioRecipe
from trafficlight.errors import ConfigError, DeployError
from trafficlight.processes import child_environment, start_process
from trafficlight.suites.model import Case

if TYPE_CHECKING:
    from tests.unit.coordinator.conftest import PoolHarness


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("cd somewhere && exec node x.mjs", r"no such program: cd \(commands are not run by a shell\)"),
        ("no-such-program-anywhere", "no such program: no-such-program-anywhere"),
        ("'unclosed", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_start_is_refused(command: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"ADAPTERS.mine: .*{why}"):
        programs_of({"mine": AdapterProgram(command=command)})


NIO = ClientTypeSpec("Nio", type="nio")
OTHER = ClientTypeSpec("Other", type="other")
BUILD_OF_ONES_OWN = ClientTypeSpec("NioDevelop", type="nio", channel="develop")
CUSTOM = ClientTypeSpec(
    "Mine", type="mine", custom=CustomMatch(Path("a_test.py"), (1, 1), "Mine", "A", "alice")
)


def _case(number: int, kinds: list[ClientTypeSpec]) -> Case:
    return Case(
        id=f"a_test.py::A@{number}",
        suite="a_test.py::A",
        path=Path("a_test.py"),
        file="a_test.py",
        class_name="A",
        method="run",
        line=1,
        clients={f"role{place}": kind for place, kind in enumerate(kinds)},
    )


@pytest.mark.parametrize(
    ("kinds", "started"),
    [
        ([[NIO, OTHER]], 1),
        ([[NIO, NIO]], 2),
        ([[NIO], [NIO, NIO]], 3),
        ([[NIO] * 6], 4),
        ([[OTHER], []], 0),
        ([[CUSTOM]], 1),
        ([[BUILD_OF_ONES_OWN]], 0),
    ],
)
def test_no_more_built_in_adapters_than_roles(kinds: list[list[ClientTypeSpec]], started: int) -> None:
    cases = [_case(number, some) for number, some in enumerate(kinds)]
    adapters = {"nio": AdapterProgram(count=4), "mine": AdapterProgram(command="true", count=2)}
    *nio, _, _ = programs_of(adapters, cases)
    assert [program.command[-2:] for program in nio] == [["--count", str(started)]] * bool(started)
    assert "--label" not in [word for program in nio for word in program.command]
    skipped = [replace(case, skip="not here") for case in cases]
    assert [program.name for program in programs_of(adapters, skipped)] == ["mine"] * 2


def test_adapters_of_a_version_are_labelled_for_the_roles_that_name_it() -> None:
    kinds = [NIO, replace(NIO, version="==0.26.0"), replace(NIO, version="==develop")]
    programs = programs_of({"nio": AdapterProgram(count=4)}, [_case(0, kinds)])
    labels = {
        program.version: [word for word in program.command if word in {"pinned", "develop"}]
        for program in programs
    }
    assert labels == {None: [], "0.26.0": ["pinned"], "develop": ["pinned", "develop"]}


def test_an_entry_names_a_command_or_a_driver(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ADAPTERS.mine: has a command and a driver"):
        programs_of({"mine": AdapterProgram(command="true", driver="true")})
    with pytest.raises(ConfigError, match=r"ADAPTERS.mine: needs a command or a driver"):
        programs_of({"mine": AdapterProgram()})
    with pytest.raises(ConfigError, match=r"ADAPTERS.mine.cwd: no such directory"):
        programs_of({"mine": AdapterProgram(command="true", cwd=tmp_path / "nowhere")})
    (program,) = programs_of({"mine": AdapterProgram(driver="sh -c 'echo  x'", count=2)})
    assert program.command[-5:] == ["run", "--driver", "sh -c 'echo  x'", "--count", "2"]
    assert program.count == 2
    assert programs_of({"nio": AdapterProgram(count=0)}) == []
    assert len(programs_of({"mine": AdapterProgram(command="true", count=2)})) == 2


def test_a_program_is_looked_up_in_its_working_directory(tmp_path: Path) -> None:
    (tmp_path / "mine").touch(0o755)
    (program,) = programs_of({"mine": AdapterProgram(command="./mine", cwd=tmp_path)})
    assert (program.command, program.directory) == (["./mine"], tmp_path)
    (program,) = programs_of({"mine": AdapterProgram(command="mine", env={"PATH": str(tmp_path)})})
    assert program.environment == {"PATH": str(tmp_path)}


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("hello\nlast\n\n", "last"),
        ("node:internal\nError: Cannot find module 'x'\n    at y\n\nNode.js v20.1.0\n", "Error: Cannot find"),
        ("Traceback:\n  File\nurllib.error.URLError: <refused>\n", "urllib.error.URLError: <refused>"),
        ("", ""),
    ],
)
def test_the_cause_of_an_exit_is_its_last_error(tmp_path: Path, output: str, cause: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"Error: of an earlier process\n{output}")
    found = supervisor._cause(log, len("Error: of an earlier process\n"))
    assert found.startswith(cause)
    assert bool(found) == bool(cause)


class FakePool:
    """Notes which processes exit, and why none is there."""

    def __init__(self) -> None:
        self.exited = asyncio.Semaphore(0)
        self.missing: list[str] = []
        self.own_programs: dict[str, str] = {}

    def process_exited(self, program: str, ending: str) -> bool:
        self.exited.release()
        return True

    def note_missing(self, program: str, what: str, why: str, registration: object) -> None:
        self.missing.append(why)

    def registration_of(self, program: str) -> None:
        return None

    def since_exit(self, program: str) -> None:
        return None


async def _run_until_exit(programs: list[Program], folder: Path, *others: Program) -> FakePool:
    """Run programs, and others that do not start, until each has exited once."""
    pool = FakePool()
    supervised = Supervisor([*others, *programs], "http://x", folder, pool)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(supervised.run())
        for _ in programs:
            await pool.exited.acquire()
        running.cancel()
    return pool


@pytest.mark.parametrize("error", [DeployError("cannot start true: no processes"), OSError("no files")])
async def test_a_program_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    errors = [error]

    async def failing_once(*args: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await start_process(*args, **options)

    monkeypatch.setattr(supervisor, "start_process", failing_once)
    pool = await _run_until_exit([Program("mine", ["true"])], tmp_path)
    assert pool.missing == [f"the program mine cannot be started: {error}"]


@pytest.mark.parametrize(
    "error", [DeployError("npm: exit code 1"), ConfigError("no network"), OSError("full")]
)
async def test_a_driver_that_cannot_be_built_costs_no_other_program(tmp_path: Path, error: Exception) -> None:
    class Failing(NioRecipe):
        async def install(self, version: str | None = None) -> list[str]:
            raise error

    pool = await _run_until_exit([Program("mine", ["true"])], tmp_path, Program("nio", [], recipe=Failing))
    assert pool.missing == [
        "the program nio starts once its driver is ready",
        f"the program nio cannot be built: {error}",
    ]


async def test_programs_do_not_get_the_token_of_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAFFICLIGHT_PEOPLE_TOKEN", "secret")
    assert "secret" not in child_environment().values()
    await _run_until_exit([Program("mine", ["env"])], tmp_path)
    printed = (tmp_path / "mine-1.log").read_text()
    assert "TRAFFICLIGHT_URL=" in printed
    assert "secret" not in printed


async def test_each_process_has_its_own_place_port_and_environment(tmp_path: Path) -> None:
    command = ["sh", "-c", "pwd; echo $PORT {port} {url}"]
    programs = [Program("mine", command, tmp_path, {"PORT": "{port}"}) for _ in range(2)]
    await _run_until_exit(programs, tmp_path)
    ports = set()
    for number in (1, 2):
        directory, said, *_ = (tmp_path / f"mine-{number}.log").read_text().splitlines()
        in_environment, in_command, url = said.split()
        assert directory == str(tmp_path)
        assert in_environment == in_command
        assert url.startswith("http://x/program/")
        ports.add(int(in_command))
    assert len(ports) == 2


async def test_what_a_program_leaves_running_ends_with_it(tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    await _run_until_exit([Program("mine", [sys.executable, "-c", script])], tmp_path)
    pid = int((tmp_path / "mine-1.log").read_text().split()[0])
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_the_output_of_a_program_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that printed all the time filled the disk with the results."""
    monkeypatch.setattr(processes, "_LONGEST_LOG", 5000)
    monkeypatch.setattr(processes, "_LOG_BEGINNING", 100)
    monkeypatch.setattr(processes, "_LOG_END", 50)
    monkeypatch.setattr(supervisor, "_LOOK", 0.01)
    log = tmp_path / "mine-1.log"
    # One write: what comes while the log is shortened is lost. Then it waits until its log is short again.
    script = f"""
import os
os.write(1, " ".join(map(str, ["first", *range(2000)])).encode() + b"\\n")
while os.path.getsize({str(log)!r}) > 5000:
    pass
print("last")
"""
    await _run_until_exit([Program("mine", [sys.executable, "-c", script])], tmp_path)
    printed = log.read_text()
    assert len(printed) <= 5000
    assert printed.startswith("first 0 1 2")
    assert "the log is too long: its middle is left out" in printed
    assert "1999\n" in printed
    assert "last\n" in printed


async def test_programs_that_exit_together_are_searched_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a thousand programs that exited searched all processes, and the lab had no thread left."""
    searched: list[set[str]] = []
    began, first = threading.Event(), threading.Event()

    def search(name: str, values: set[str], number: int) -> None:
        searched.append(set(values))
        began.set()
        first.wait()

    monkeypatch.setattr(supervisor, "signal_marked", search)
    programs = [Program("mine", ["true"]) for _ in range(20)]
    supervised = Supervisor(programs, "http://x", tmp_path, FakePool())  # type: ignore[arg-type]
    running = asyncio.create_task(supervised.run())
    await asyncio.to_thread(began.wait)
    while supervised.pids:
        await asyncio.sleep(0)
    first.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(searched) <= 3
    assert set.union(*searched) == {program.instance for program in programs}


async def test_few_programs_start_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds that were due together kept the event loop from anything else, such as ending on SIGTERM."""
    starting = most = 0

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal starting, most
        starting += 1
        most = max(most, starting)
        try:
            return await start_process(*args, **options)
        finally:
            starting -= 1

    monkeypatch.setattr(supervisor, "start_process", counted)
    await _run_until_exit([Program("mine", ["true"]) for _ in range(20)], tmp_path)
    assert most <= supervisor._STARTS


PYTHON = ClientTypeSpec("mautrix-python", type="mautrix-python")


def test_a_program_without_all_its_adapters_is_starting(tmp_path: Path, yard: "PoolHarness") -> None:
    program = Program("nio", ["true"], count=2)
    supervised = Supervisor([program], "http://x", tmp_path, yard.pool)
    alice, bob = (yard.adapter(uuid, program=program.instance, reusable=True) for uuid in "ab")
    assert supervised.starting() == set()
    yard.lease(role=bob)
    yard.pool.lose(alice, "its driver exited")
    assert supervised.starting() == {"nio"}
    program.failures = 5
    assert supervised.starting() == set(), "it keeps exiting"
    program.failures = 4
    yard.adapter("c", program=program.instance)
    assert supervised.starting() == set()
    yard.pool.on_reusable = lambda _: None
    assert bob.lease is not None
    yard.pool.release(bob.lease, "the case ended")
    assert supervised.starting() == {"nio"}, "its reset may start it again"


@pytest.mark.parametrize(
    ("asked", "registered", "why"),
    [
        ("mautrix-pyhton", {}, ""),  # what the driver registers as is not known yet
        ("mautrix-python", {"mine": "mautrix-python"}, ""),
        (
            "mautrix-pyhton",
            {"mine": "mautrix-python"},
            "ADAPTERS has no mautrix-pyhton, did you mean mautrix-python?; it has nio, mautrix-python (mine)",
        ),
        ("mine", {"mine": "mautrix-python"}, "ADAPTERS has no mine; it has nio, mautrix-python (mine)"),
        ("nio", {"mine": "mautrix-python"}, ""),
    ],
)
def test_a_type_that_no_driver_registers_as_is_absent(
    asked: str, registered: dict[str, str], why: str
) -> None:
    adapters = {"nio": AdapterProgram(), "mine": AdapterProgram(driver="python3 driver.py")}
    assert absence_of(adapters, lambda: registered, replace(PYTHON, type=asked)) == why
    commands = adapters | {"other": AdapterProgram(command="other {url}")}
    assert absence_of(commands, lambda: registered, replace(PYTHON, type=asked)) == ""
