"""Drivers behind the host: their actions, their process, their files, and every way to misbehave."""

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from trafficlight import processes as processes_module
from trafficlight.adapters.conformance import Reply, ScriptedAdapter, ScriptedCoordinator
from trafficlight.adapters.host import DriverCommand, serve_driver
from trafficlight.adapters.host import driver as driver_module
from trafficlight.adapters.host.adapter import Drivers
from trafficlight.adapters.host.driver import Driver, DriverError
from trafficlight.adapters.host.log import DriverLog
from trafficlight.adapters.sdk import Options
from trafficlight.adapters.sdk.coordinator import Backoff
from trafficlight.protocol import TOKEN_VARIABLES, ActionMessage

PROGRAM = Path(__file__).parent / "programs" / "driver.py"
# Seconds; a busy machine starts a process slowly.
PATIENCE = 60.0


def command(*arguments: str) -> DriverCommand:
    return DriverCommand([sys.executable, str(PROGRAM), *arguments])


@asynccontextmanager
async def hosted(
    *arguments: str, once: bool = False, labels: Sequence[str] = ()
) -> AsyncIterator[ScriptedCoordinator]:
    options = Options(backoff=Backoff(0.01, 0.05))
    async with ScriptedCoordinator() as coordinator:
        task = asyncio.create_task(
            serve_driver(command(*arguments), coordinator.url, labels=labels, once=once, options=options)
        )
        try:
            yield coordinator
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def ask(adapter: ScriptedAdapter, action: str, **data: Any) -> Reply:
    reply = await adapter.act(action, data, timeout=PATIENCE)
    assert reply is not None, f"{action} was not answered"
    return reply


async def do(adapter: ScriptedAdapter, action: str, **data: Any) -> dict[str, Any]:
    reply = await ask(adapter, action, **data)
    assert reply.kind == "respond", reply.body
    body: dict[str, Any] = reply.body
    return body


async def error_of(adapter: ScriptedAdapter, action: str, **data: Any) -> dict[str, Any]:
    reply = await ask(adapter, action, **data)
    assert reply.kind == "error", reply.body
    error: dict[str, Any] = reply.body["error"]
    return error


async def failure_of(adapter: ScriptedAdapter, action: str, **data: Any) -> str:
    body = await do(adapter, action, **data)
    assert body["response"] == "error"
    return str(body["details"])


def processes() -> list[psutil.Process]:
    """Return the drivers that this process runs."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has exited
            if str(PROGRAM) in child.cmdline():
                found.append(child)
    return found


async def becomes(pid: int, *states: str) -> None:
    """Wait until a process has one of these states, a letter or "gone"."""

    def state() -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except OSError:
            return "gone"

    async with asyncio.timeout(PATIENCE):
        while await asyncio.to_thread(state) not in states:
            await asyncio.sleep(0.01)


def uploads(adapter: ScriptedAdapter) -> dict[str | None, bytes]:
    return {one.name: one.content for one in adapter.uploads}


async def test_the_registration_is_what_the_driver_says() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        body = dict(adapter.body)
        assert body.pop("instance") != body.pop("instance_secret")
        assert body == {"type": "counter", "version": "1.0", "labels": ["quick"]}


async def test_labels_of_the_host_are_added_to_those_of_the_driver() -> None:
    async with hosted(labels=["pinned"]) as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        assert adapter.body["labels"] == ["quick", "pinned"]


async def test_a_host_has_the_same_name_after_a_restart() -> None:
    """And another one than a second host with the same driver, or one with another driver."""

    def hosts(*arguments: str) -> Drivers:
        return Drivers(command(*arguments), ahead=False)

    async with hosts() as first, hosts() as second, hosts("other") as other:
        names = [(host.instance, host.secret) for host in (first, second, other)]
        assert len({*itertools.chain(*names)}) == 6
    async with hosts() as first, hosts() as second, hosts("other") as other:
        assert [(host.instance, host.secret) for host in (first, second, other)] == names


async def test_where_nothing_can_be_written_a_host_has_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    async with Drivers(command(), ahead=False) as drivers:
        assert drivers.instance


async def test_actions_on_the_process_are_declared_with_those_of_the_driver() -> None:
    async with hosted("declares") as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        own = ["kill", "restart", "reload", "suspend", "resume", "clear_storage"]
        assert adapter.body["actions"] == ["count", "fail", "die", *own]
        error = await error_of(adapter, "echo")
        assert error["type"] == "unsupported"
        assert "echo" in error["details"]


async def test_an_answer_reaches_the_coordinator() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        data = {"text": "\u2028 \U0001f600", "big": "x" * 200_000}
        body = await do(adapter, "echo", **data)
        assert {key: body[key] for key in data} == data
        assert body["response"] == "echo"
        reply = await ask(adapter, "echo", id="$event")
        assert (reply.body["id"], reply.action) == ("$event", reply.id)
        assert (await do(adapter, "text"))["response"] == "done"
        assert (await do(adapter, "unknown"))["response"] == "unknown"


@pytest.mark.parametrize(
    ("action", "kind", "details"),
    [
        ("refuse", "unsupported", "refuse: no camera"),
        ("break", "adapter", "break: the driver is broken"),
        ("die", "adapter", "die: the driver exited (exit code 7):\nstarting\nError: out of dances"),
    ],
)
async def test_an_error_is_passed_on_and_ends_the_life(action: str, kind: str, details: str) -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "count")
        error = await error_of(adapter, action)
        assert (error["type"], error["details"]) == (kind, details)
        following = await coordinator.registered(2, timeout=PATIENCE)
        assert (await do(following, "count"))["count"] == 1
        assert "starting\n" in uploads(adapter)["driver.log"].decode()


async def test_a_failed_action_leaves_the_client_in_the_case() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "count")
        told = {"details": "expected 2 messages, saw 1", "path": "driver.py:1"}
        assert (await do(adapter, "fail")).items() >= told.items()
        assert (await do(adapter, "count"))["count"] == 2


async def test_what_is_no_message_is_logged() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        assert (await do(adapter, "chatter"))["heard"] is True
        await adapter.exit()
        await coordinator.registered(2, timeout=PATIENCE)
        log = uploads(adapter)["driver.log"].decode(errors="replace")
        for line in ("npm notice: new version", '{"level": "info"}', '{"id": 999, "response": {}}', "[[["):
            assert line in log
        assert len(log) < 10_000
        assert "the input ended" in log


async def test_what_is_printed_before_the_first_message_is_logged() -> None:
    """A text was, and a number was refused, as the first message must be an object."""
    driver = Driver(command("chatty"))
    await driver.start()
    await driver.end()
    log = driver.log.tail(1000).splitlines()
    await driver.remove()
    assert driver.hello.type == "counter"
    # What it says on standard error comes in between, at any place.
    assert [line for line in log if line != "starting"][:3] == ["hello", "5.5", '"text"']


@pytest.mark.parametrize(
    ("line", "quoted"), [({}, '{"id": 1}'), ({"err": "boom"}, '"err": "boom"'), ({"error": None}, "null")]
)
async def test_an_answer_without_response_is_an_error(line: dict[str, Any], quoted: str) -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        error = await error_of(adapter, "answer", **line)
        assert "neither response nor error: " in error["details"]
        assert quoted in error["details"]


async def test_no_response_and_no_error_may_be_stated() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        assert (await do(adapter, "answer", response=None, error=None))["response"] == "answer"


async def test_a_line_that_is_too_long_ends_the_action() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        assert "a line of more than 32 MiB" in (await error_of(adapter, "long"))["details"]


async def test_an_exit_between_actions_is_reported_at_once() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "die_later")
        assert await coordinator.until(lambda: len(adapter.replies) > 1, PATIENCE)
        error = adapter.replies[1].body["error"]
        assert error["type"] == "adapter"
        assert error["details"] == "the driver exited (exit code 7):\nstarting\nError: out of dances"
        await coordinator.registered(2, timeout=PATIENCE)


async def test_a_child_that_holds_the_output_does_not_hide_the_exit() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        assert "the driver exited (exit code 8)" in (await error_of(adapter, "leave_child"))["details"]


async def test_the_process_is_killed_restarted_and_suspended() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        first = await do(adapter, "count")
        await do(adapter, "restart")
        second = await do(adapter, "count")
        assert (second["count"], second["pid"] == first["pid"]) == (2, False)
        await do(adapter, "kill")
        with pytest.raises(ProcessLookupError):
            os.kill(second["pid"], 0)
        await do(adapter, "restart")
        third = await do(adapter, "count")
        assert third["count"] == 3
        await do(adapter, "suspend")
        await becomes(third["pid"], "T")
        await do(adapter, "resume")
        assert (await do(adapter, "count"))["count"] == 4
        await do(adapter, "clear_storage")
        assert (await do(adapter, "count"))["count"] == 1
        assert "killed" in (await do(adapter, "kill") and await error_of(adapter, "count"))["details"]
        await coordinator.registered(2, timeout=PATIENCE)


async def test_the_process_is_killed_during_an_action() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await adapter.say(ActionMessage(action="hang", id="1"))
        await coordinator.until(lambda: adapter.delivered, PATIENCE)
        await adapter.say(ActionMessage(action="kill", id="2"))
        await coordinator.until(lambda: len(adapter.replies) == 2, PATIENCE)
        replies = {reply.id: reply.body for reply in adapter.replies}
        assert replies["1"] == {"response": "error", "details": "the client was killed meanwhile", "id": "1"}
        assert replies["2"] == {"response": "kill", "id": "2"}
        await do(adapter, "restart")
        assert (await do(adapter, "count"))["count"] == 1


@pytest.mark.parametrize(("declared", "again"), [("declares", True), ("reloads", False), ("", False)])
async def test_reload_restarts_a_driver_that_declares_others_only(declared: str, again: bool) -> None:
    async with hosted(*filter(None, [declared])) as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        first = await do(adapter, "count")
        await do(adapter, "reload")
        second = await do(adapter, "count")
        assert (second["count"], second["pid"] != first["pid"]) == (2, again)


async def test_what_a_driver_starts_in_a_session_of_its_own_shares_its_fate() -> None:
    async with hosted("reusable") as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        browser = (await do(adapter, "browse"))["browser"]
        await do(adapter, "suspend")
        await becomes(browser, "T")
        await do(adapter, "resume")
        await becomes(browser, "S")
        await do(adapter, "kill")
        await becomes(browser, "gone", "Z")
        await do(adapter, "restart")
        browser = (await do(adapter, "browse"))["browser"]
        await error_of(adapter, "die")
        await coordinator.registered(2, timeout=PATIENCE)
        await becomes(browser, "gone", "Z")


async def test_a_suspended_driver_does_not_keep_its_life_from_ending() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "suspend")
        assert "suspended" in (await error_of(adapter, "count"))["details"]
        await coordinator.registered(2, timeout=PATIENCE)


async def test_a_life_begins_without_the_files_of_the_last_one() -> None:
    async with hosted() as coordinator:
        for number in (1, 2, 3):
            adapter = await coordinator.registered(number, timeout=PATIENCE)
            assert (await do(adapter, "count"))["count"] == 1
            await adapter.exit()
        assert len({one.body["instance"] for one in coordinator.adapters}) == 1


async def test_evidence_is_uploaded() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "picture")
        assert uploads(adapter) == {"tiles/1.png": b"png"}, "what the answer names is there with it"
        await adapter.exit()
        await coordinator.registered(2, timeout=PATIENCE)
        assert uploads(adapter).keys() == {"tiles/1.png", "trace.zip", "driver.log"}
        assert len(adapter.uploads) == 3


async def test_evidence_whose_name_is_not_utf_8_is_uploaded() -> None:
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "odd_name")
        assert uploads(adapter) == {"_.png": b"png"}
        await adapter.exit()
        await coordinator.registered(2, timeout=PATIENCE)


async def test_a_file_that_cannot_be_uploaded_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what the coordinator refuses nor what cannot be read; the log comes first, large files last."""
    opened = os.open

    def broken(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("b.png"):
            raise PermissionError(13, "Permission denied", "b.png")
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", broken)
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "film")
        coordinator.refusals.append(("upload", 413))
        await adapter.exit()
        await coordinator.registered(2, timeout=PATIENCE)
        notes = ["driver.log.not-uploaded.txt", "b.png.not-uploaded.txt"]
        assert [one.name for one in adapter.uploads] == [*notes, "a-video.mp4"]
        assert b"driver.log was not uploaded: 413 the script requests it" in uploads(adapter)[notes[0]]
        assert b"Permission denied" in uploads(adapter)[notes[1]]


async def test_of_a_long_log_the_beginning_and_the_end_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log was looked at four times a second: until then, a driver could fill the disk of all others."""
    monkeypatch.setattr(processes_module, "_LONGEST_LOG", 5000)
    monkeypatch.setattr(processes_module, "_LOG_BEGINNING", 1000)
    monkeypatch.setattr(processes_module, "_LOG_END", 500)
    monkeypatch.setattr(driver_module, "_CHUNK", 100)
    sizes, write = [], DriverLog.write

    def watched(log: DriverLog, data: bytes) -> None:
        write(log, data)
        sizes.append(log.size())

    monkeypatch.setattr(DriverLog, "write", watched)
    driver = Driver(command())
    await driver.start()
    await driver.ask("flood", {}, PATIENCE)
    await driver.end()
    log = driver.log.tail(10_000)
    await driver.remove()
    assert max(sizes) <= 5000
    assert log.startswith("starting\nline 0\nline 1\n")
    assert "the log is too long: its middle is left out" in log
    assert log.endswith("line 1999\nthe input ended\n")


async def test_an_error_names_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        monkeypatch.setattr(driver_module, "_FREE", 1 << 60)
        details = (await error_of(adapter, "die"))["details"]
        assert f"the driver exited (exit code 7); no space is left in {tmp_path}:\n" in details
        monkeypatch.undo()


@pytest.mark.parametrize("folder", ["EVIDENCE", "STORAGE"])
async def test_a_link_in_place_of_a_folder_costs_no_file(tmp_path: Path, folder: str) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    async with hosted("reusable") as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "count")
        await do(adapter, "link", folder=folder, target=str(tmp_path))
        await do(adapter, "echo", name="thesis.txt")
        await do(adapter, "clear_storage")
        assert (await do(adapter, "count"))["count"] == 1
        await do(adapter, "reset")
        assert "thesis.txt" not in uploads(adapter)
        await do(adapter, "kill")
        await adapter.exit()
        await coordinator.registered(2, timeout=PATIENCE)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_what_a_full_disk_refuses_of_a_log_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DriverLog(tmp_path / "driver.log")
    log.write(b"before")
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(log, "_file", full)
        log.write(b"lost")
        monkeypatch.undo()
    assert log.tail(100) == "before"
    log.close()


@pytest.mark.parametrize("kind", ["mkfifo", "mkdir", "symlink"])
async def test_what_a_driver_puts_in_place_of_its_log_costs_nothing(tmp_path: Path, kind: str) -> None:
    """A named pipe there made the host wait for ever, and no signal ended it."""
    async with hosted("reusable") as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        await do(adapter, "replace_log", kind=kind, target=str(tmp_path / "precious"))
        assert (await do(adapter, "chatter"))["heard"] is True
        await do(adapter, "restart")
        await adapter.exit()
        await coordinator.registered(2, timeout=PATIENCE)
        log = uploads(adapter)["driver.log"].decode(errors="replace")
        assert log.count("starting\n") == 2
        assert "npm notice: new version" in log
    assert not (tmp_path / "precious").exists()


async def test_a_storage_that_cannot_be_cleared_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(driver_module, "empty_folder", full)
    async with hosted() as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        error = await error_of(adapter, "clear_storage")
        assert "the driver's storage cannot be cleared: [Errno 13] Permission denied" in error["details"]


async def test_a_reusable_driver_plays_on_after_a_reset() -> None:
    async with hosted("reusable") as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        first = await do(adapter, "count")
        await do(adapter, "picture")
        await do(adapter, "reset")
        assert {"trace.zip", "driver.log"} <= uploads(adapter).keys()
        second = await do(adapter, "count")
        assert (second["count"], second["pid"]) == (1, first["pid"])
        await do(adapter, "kill")
        await do(adapter, "reset")
        third = await do(adapter, "count")
        assert (third["count"], third["pid"] == first["pid"]) == (1, False)
        await adapter.exit()
        following = await coordinator.registered(2, timeout=PATIENCE)
        fourth = await do(following, "count")
        assert (fourth["count"], fourth["pid"]) == (1, third["pid"]), "also for another registration"
        await failure_of(following, "fail")
        await following.exit()
        last = await coordinator.registered(3, timeout=PATIENCE)
        assert (await do(last, "count"))["pid"] != third["pid"]


@pytest.mark.parametrize("mode", ["remembers", "hangs"])
async def test_a_driver_that_cannot_be_reset_gets_no_other_case(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    if mode == "hangs":
        monkeypatch.setattr("trafficlight.adapters.sdk.loop._LONGEST_CLOSE", 0.05)
    async with hosted(mode) as coordinator:
        adapter = await coordinator.registered(timeout=PATIENCE)
        first = await do(adapter, "count")
        await adapter.exit()
        following = await coordinator.registered(2, timeout=PATIENCE)
        second = await do(following, "count")
        assert (second["count"], second["pid"] == first["pid"]) == (1, False)


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("exit", r"the driver exited \(exit code 1\):\nError: no browser here"),
        ("wrong", "its first message: type: must be text"),
        ("list", r"its first message must be an object, not \[1\]"),
        ("silent", r'no line {"type": ...} on standard output within 0.5 s \(does a driver buffer'),
    ],
)
async def test_a_driver_that_does_not_say_what_it_is_ends_the_host(mode: str, why: str) -> None:
    driver = Driver(command(mode), start_limit=0.5 if mode == "silent" else PATIENCE)
    with pytest.raises(DriverError, match=why):
        await driver.start()
    await driver.remove()
    if mode != "silent":
        with pytest.raises(DriverError, match=why):
            await serve_driver(command(mode), "http://127.0.0.1:9")


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_start_leaves_nothing(
    turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is cancelled shortly after the process began."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    driver = Driver(command("silent"))
    starting = asyncio.create_task(driver.start())
    async with asyncio.timeout(PATIENCE):
        while not processes():
            await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not processes()
    await driver.remove()
    assert not [name for name in os.listdir(tmp_path) if name.startswith("trafficlight-")]


async def test_a_failed_restart_leaves_no_process(tmp_path: Path) -> None:
    driver = Driver(command("spare", str(tmp_path / "marker")))
    await driver.start()
    with pytest.raises(DriverError, match="only once"):
        await driver.restart()
    assert driver._process is None
    assert not processes()
    await driver.remove()


@pytest.mark.parametrize("when", ["it ends", "it is created"])
async def test_a_kill_during_a_restart_counts(when: str) -> None:
    driver = Driver(command())
    await driver.start()
    restarting = asyncio.create_task(driver.restart())
    async with asyncio.timeout(PATIENCE):
        while not (driver.killed if when == "it ends" else driver._spawning.locked()):
            await asyncio.sleep(0)
    await driver.kill()
    assert not processes()
    with pytest.raises(DriverError, match=r"the driver was killed|signal 9"):
        await restarting
    assert not processes()
    await driver.remove()


async def test_no_such_program() -> None:
    driver = Driver(DriverCommand(["no-such-program"]))
    with pytest.raises(DriverError, match="cannot start no-such-program"):
        await driver.start()
    await driver.remove()


async def test_a_driver_that_does_not_answer() -> None:
    driver = Driver(command("deaf"))
    await driver.start()
    with pytest.raises(DriverError, match=r"did not answer within 0\.1 s:\nstarting"):
        await driver.ask("echo", {"big": "x" * 1_000_000}, 0.1)
    await driver.remove()


async def test_a_driver_that_lingers_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_INPUT_GRACE", 0.05)
    driver = Driver(command("lingers"))
    await driver.start()
    (process,) = processes()
    await driver.end()
    assert not process.is_running()
    await driver.remove()


async def test_a_driver_started_ahead_that_fails_does_not_count(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    async with Drivers(command("spare", str(marker))) as drivers:
        first = await drivers.take()
        drivers.prepare()
        await asyncio.wait(drivers._starting)
        await asyncio.to_thread(marker.unlink)
        second = await drivers.take()
        assert second.folder != first.folder
        await drivers.give_back(first, again=False)
        await drivers.give_back(second, again=False)
        drivers.prepare()
        with pytest.raises(DriverError, match="only once"):
            await drivers.take()
        drivers.prepare()


async def test_where_others_run_a_driver_that_does_not_start_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    marker, failed = tmp_path / "marker", asyncio.Event()

    async def pause(_: float) -> None:
        failed.set()
        await asyncio.to_thread(marker.unlink, missing_ok=True)

    async with Drivers(command("spare", str(marker))) as drivers:
        first = await drivers.take()
        monkeypatch.setattr("trafficlight.adapters.host.adapter.asyncio.sleep", pause)
        second = await drivers.take()
        monkeypatch.undo()
        assert failed.is_set()
        assert "only once" in caplog.text
        await drivers.give_back(first, again=False)
        await drivers.give_back(second, again=False)


async def test_the_environment_of_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = {*TOKEN_VARIABLES, "TRAFFICLIGHT_PEOPLE_TOKEN"}
    for name in secret:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("TRAFFICLIGHT_INSTANCE", "1a2b")
    program = "import json, os; print(json.dumps({'type': 'x', 'all': dict(os.environ), 'cwd': os.getcwd()}))"
    driver = Driver(DriverCommand([sys.executable, "-c", program], {"SCREEN": "2"}, tmp_path))
    await driver.start()
    said = driver.hello.fields()
    assert said["cwd"] == str(tmp_path)
    assert said["all"]["SCREEN"] == "2"
    assert said["all"].keys().isdisjoint(secret)
    assert said["all"]["TRAFFICLIGHT_INSTANCE"] == "1a2b", "the lab kills what a killed host leaves"
    await driver.remove()


COUNTER = """
import asyncio, os, sys

from trafficlight.adapters.sdk import ActionFailed, Adapter, UnsupportedActionError, action, drive


class Counter(Adapter):
    type = "counter"

    async def open(self):
        print("opened")
        self.file = self.context.storage / "count"

    @action()
    async def count(self):
        self.file.write_text(self.file.read_text() + "x" if self.file.exists() else "x")
        return {"count": len(self.file.read_text()), "pid": os.getpid(), "in": self.context.action_deadline}

    @action()
    async def picture(self):
        self.file.write_text("png")
        return {"snapshot": await self.context.upload(self.file, "1.png")}

    @action()
    async def fail(self, by: int):
        raise ActionFailed("expected 2 messages, saw 1")


asyncio.run(drive(Counter))
"""


FRAGILE = """
import asyncio

from trafficlight.adapters.sdk import Adapter, action, drive


class Fragile(Adapter):
    type = "fragile"

    async def open(self):
        self.shaken = asyncio.Event()

    async def watch(self):
        await self.shaken.wait()
        raise RuntimeError("the browser crashed")

    async def close(self):
        print("closed")

    @action()
    async def shake(self):
        self.shaken.set()


asyncio.run(drive(Fragile))
"""


async def test_a_driver_whose_client_is_lost_between_actions_exits() -> None:
    options = Options(backoff=Backoff(0.01, 0.05))
    python = DriverCommand([sys.executable, "-c", FRAGILE])
    async with ScriptedCoordinator() as coordinator:
        hosting = asyncio.create_task(serve_driver(python, coordinator.url, options=options))
        try:
            adapter = await coordinator.registered(timeout=PATIENCE)
            await do(adapter, "shake")
            assert await coordinator.until(lambda: len(adapter.replies) > 1, PATIENCE)
            details = adapter.replies[1].body["error"]["details"]
            assert details.startswith("the driver exited (exit code 1):\n")
            assert details.endswith("RuntimeError: the browser crashed")
        finally:
            hosting.cancel()
            await asyncio.gather(hosting, return_exceptions=True)


async def test_an_adapter_class_is_a_driver() -> None:
    options = Options(backoff=Backoff(0.01, 0.05))
    python = DriverCommand([sys.executable, "-c", COUNTER])
    async with ScriptedCoordinator() as coordinator:
        hosting = asyncio.create_task(serve_driver(python, coordinator.url, options=options))
        try:
            adapter = await coordinator.registered(timeout=PATIENCE)
            assert adapter.body["reusable"] is True
            assert adapter.body["actions"][:3] == ["count", "picture", "fail"]
            first = await do(adapter, "count")
            assert (first["count"], first["in"]) == (1, 57.0)
            assert (await do(adapter, "picture"))["snapshot"] == "1.png"
            assert uploads(adapter) == {"1.png": b"png"}
            await do(adapter, "reset")
            assert uploads(adapter)["driver.log"] == b"opened\nopened\n"
            second = await do(adapter, "count")
            assert (second["count"], second["pid"]) == (1, first["pid"])
            await do(adapter, "restart")
            assert (await do(adapter, "count"))["count"] == 2
            error = await error_of(adapter, "fail")
            assert error["type"] == "adapter"
            assert "its data do not fit: by: is missing" in error["details"]
            following = await coordinator.registered(2, timeout=PATIENCE)
            details = await failure_of(following, "fail", by=1)
            assert details.startswith("expected 2 messages, saw 1\n\nTraceback")
        finally:
            hosting.cancel()
            await asyncio.gather(hosting, return_exceptions=True)
