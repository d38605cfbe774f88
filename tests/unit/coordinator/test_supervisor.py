"""Which programs are started, and what is said of one that exits."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from trafficlight.config import AdapterProgram
from trafficlight.coordinator import supervisor
from trafficlight.coordinator.supervisor import Program, Supervisor, programs_of
from trafficlight.errors import ConfigError, DeployError
from trafficlight.processes import child_environment, start_process


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


def test_an_entry_names_a_command_or_a_driver(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ADAPTERS.mine: has a command and a driver"):
        programs_of({"mine": AdapterProgram(command="true", driver="true")})
    with pytest.raises(ConfigError, match=r"ADAPTERS.mine: needs a command or a driver"):
        programs_of({"mine": AdapterProgram()})
    with pytest.raises(ConfigError, match=r"ADAPTERS.mine.cwd: no such directory"):
        programs_of({"mine": AdapterProgram(command="true", cwd=tmp_path / "nowhere")})
    (program, _) = programs_of({"mine": AdapterProgram(driver="sh -c 'echo  x'", count=2)})
    assert program.command[-4:] == ["adapter", "run", "--driver", "sh -c 'echo  x'"]


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


@pytest.mark.parametrize("error", [DeployError("cannot start true: no processes"), OSError("no files")])
async def test_a_program_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    said: list[str] = []
    exited = asyncio.Event()
    errors = [error]

    async def failing_once(*args: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await start_process(*args, **options)

    def on_exit(*_: object) -> bool:
        exited.set()
        return True

    monkeypatch.setattr(supervisor, "start_process", failing_once)
    programs = [Program("mine", ["true"])]
    supervised = Supervisor(
        programs, "http://x", tmp_path, on_exit, lambda _, why: said.append(why), lambda _: None
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(supervised.run())
        await exited.wait()
        running.cancel()
    assert said == [f"the program mine cannot be started: {error}"]


async def test_programs_do_not_get_the_token_of_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAFFICLIGHT_PEOPLE_TOKEN", "secret")
    assert "secret" not in child_environment().values()
    exited = asyncio.Event()

    def on_exit(*_: object) -> bool:
        exited.set()
        return True

    programs = [Program("mine", ["env"])]
    supervised = Supervisor(programs, "http://x", tmp_path, on_exit, lambda *_: None, lambda _: None)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(supervised.run())
        await exited.wait()
        running.cancel()
    printed = (tmp_path / "mine-1.log").read_text()
    assert "TRAFFICLIGHT_URL=" in printed
    assert "secret" not in printed


async def test_each_process_has_its_own_place_port_and_environment(tmp_path: Path) -> None:
    exited = asyncio.Semaphore(0)

    def on_exit(*_: object) -> bool:
        exited.release()
        return True

    programs = [
        Program("mine", ["sh", "-c", "pwd; echo $PORT {port} {url}"], tmp_path, {"PORT": "{port}"})
    ] * 2
    supervised = Supervisor(programs, "http://x", tmp_path, on_exit, lambda *_: None, lambda _: None)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(supervised.run())
        await exited.acquire()
        await exited.acquire()
        running.cancel()
    ports = set()
    for number in (1, 2):
        directory, said, *_ = (tmp_path / f"mine-{number}.log").read_text().splitlines()
        in_environment, in_command, url = said.split()
        assert directory == str(tmp_path)
        assert in_environment == in_command
        assert url.startswith("http://x/program/")
        ports.add(int(in_command))
    assert len(ports) == 2
