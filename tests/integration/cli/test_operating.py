"""Sessions and adapters of a running coordinator, by command."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.integration.cli.conftest import Runner, a_test_file, free_port, serving
from tests.integration.http.conftest import HttpHarness, ScriptedAdapter, ended
from trafficlight.cli.main import main
from trafficlight.cli.runtime import lab_serving
from trafficlight.coordinator.lab import Lab
from trafficlight.results.events import State

RACK = {"type": "nio", "version": "1.2", "labels": ["rack-7"]}


async def said(run: Runner, site: HttpHarness, *arguments: str, code: int = 0) -> list[str]:
    """Run a command to its end and return its lines."""
    command = await run(*arguments, TRAFFICLIGHT_URL=site.url)
    assert await command.ended() == code, command.said
    return command.said


async def test_sessions_are_listed_and_cancelled(site: HttpHarness, run: Runner) -> None:
    first = await site.start("await alice.perform('one')")
    second = await site.start("await alice.perform('one')", "other_test.py")
    lines = await said(run, site, "sessions")
    assert [line.split()[:2] for line in lines] == [[second.id, "running"], [first.id, "running"]]
    assert all("1 waiting" in line for line in lines)
    assert (await said(run, site, "sessions", "--limit", "1"))[1:] == ["... and 1 more (option --limit)"]
    (case,) = first.record.cases
    assert await said(run, site, "cancel", first.id, case) == [f"cancelled {case} of session {first.id}"]
    assert (await ended(first)).record.counts[State.SKIPPED] == 1
    assert await said(run, site, "cancel", "latest") == [f"cancelled session {second.id}"]
    await ended(second)
    # In the words of the summary: a case that was cancelled before it ran has no verdict.
    lines = await said(run, site, "sessions")
    assert [line.split()[1] for line in lines] == ["interrupted", "ended"]
    assert all("  1 not run" in line for line in lines)
    for arguments, words in (
        (("cancel", first.id), f"the session {first.id} has ended already"),
        (("cancel", "2020-01-01--001"), "there is no such session"),
    ):
        (line,) = await said(run, site, *arguments, code=2)
        assert words in line


async def test_adapters_are_listed_paused_and_resumed(site: HttpHarness, run: Runner) -> None:
    assert await said(run, site, "adapters") == ["no adapter is registered"]
    for uuid, labels in (("one", ["rack-7"]), ("two", ["rack-7", "old\x1b[31m"]), ("three", ["rack-8"])):
        await ScriptedAdapter(site, uuid).register({**RACK, "labels": labels})
    paused = await said(run, site, "pause", "rack-7", "--reason", "new battery")
    assert paused == ["paused nio rack-7 at 127.0.0.1", "paused nio rack-7 old#x1b[31m at 127.0.0.1"]
    lines = await said(run, site, "adapters")
    assert [line.split("  ")[0] for line in lines[::2]] == [
        "nio rack-7 at 127.0.0.1",
        "nio rack-8 at 127.0.0.1",
    ]
    assert ("paused: new battery" in lines[0], "nio 1.2" in lines[0], "free" in lines[2]) == (
        True,
        True,
        True,
    )
    for adapter in site.lab.engine.pool:
        site.lab.engine.pool.end(adapter, "over")
    await ScriptedAdapter(site, "four").register(RACK)
    lines = await said(run, site, "adapters")
    assert "new battery" in lines[0]
    assert lines[1].endswith("is paused, and not here now: new battery")
    resumed = await said(run, site, "resume", "rack-7", "nio rack-7 old\x1b[31m at 127.0.0.1")
    assert [line.split()[0] for line in resumed] == ["resumed", "resumed"]
    assert site.lab.engine.pool.paused == {}


async def test_all_adapters_are_drained(site: HttpHarness, run: Runner) -> None:
    assert await said(run, site, "pause", "--all", "--reason", "cables") == ["drained"]
    await ScriptedAdapter(site).register(RACK)
    lines = await said(run, site, "adapters")
    assert lines[0] == "drained, no adapter gets a new case: cables"
    assert await said(run, site, "resume", "--all") == ["undrained"]
    assert not site.lab.engine.pool.drained


def test_a_signal_while_the_lab_ends_does_not_hide_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no_roles_test.py").write_text(
        "from trafficlight import Test\nclass Nothing(Test):\n    async def run(self): ...\n"
    )

    @asynccontextmanager
    async def interrupted(*arguments: Any, **more: Any) -> AsyncIterator[tuple[Lab, str]]:
        async with lab_serving(*arguments, **more) as serving:
            yield serving
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trafficlight.cli.run.lab_serving", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["run", "no_roles_test.py"])
    assert caught.value.code == 130
    assert "1 success · 0 failure · 0 error   results/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pause", "nope"), "there is no adapter nope: `trafficlight adapters` lists them"),
        (("pause",), "name adapters, or give --all"),
        (("resume", "x", "--all"), "name adapters, or give --all"),
    ],
)
async def test_a_wrong_name_changes_nothing(
    site: HttpHarness, run: Runner, arguments: tuple[str, ...], words: str
) -> None:
    await ScriptedAdapter(site).register(RACK)
    (line,) = await said(run, site, *arguments, code=2)
    assert words in line
    assert site.lab.engine.pool.paused == {}


async def test_serve_prints_what_comes_and_leaves(run: Runner, tmp_path: Path) -> None:
    """Without this, an operator at the terminal cannot see that a phone was plugged in."""
    a_test_file(tmp_path, "pass")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as http, serving(run, port, tmp_path / "talk_test.py") as served:
        site = HttpHarness(url, None, http, tmp_path)  # type: ignore[arg-type]
        await ScriptedAdapter(site).register(RACK)
        await served.line("1 adapter program came: nio rack-7 at 127.0.0.1")
        await served.line("1 success")

        async def submit(name: str) -> str:
            """Submit a test file, and return the id of its session."""
            submitted = await run("submit", name, "--url", url)
            assert await submitted.ended() == 0
            (session,) = [word for word in submitted.said[0].split() if word.startswith("20")]
            return session

        session = await submit("talk_test.py")
        await served.line(f"session {session} · 1 case ·")
        await ScriptedAdapter(site).register(RACK)
        await served.line(f"session {session} · ended · 1 success")
        # Three in a row, which is a quarantine.
        for number in range(3):
            name = f"n{number}_test.py"
            a_test_file(tmp_path, name=name)
            session = await submit(name)
            adapter = ScriptedAdapter(site)
            await adapter.register({**RACK, "instance": "shaky"})
            await adapter.action()
            await adapter.error({"error": {"type": "adapter", "details": "broken"}})
            # Until it has ended, it is not counted.
            await served.line(f"session {session} · ended · 1 error")
        await ScriptedAdapter(site, "next").register({**RACK, "instance": "shaky"})
        await served.line("the nio adapter next is quarantined")
        await served.line("1 adapter program came: nio shaky at 127.0.0.1")
        for arguments in (("pause", "--all"), ("submit", "talk_test.py"), ("cancel", "latest")):
            assert await (await run(*arguments, "--url", url)).ended() == 0
        await served.line("· interrupted · 1 not run")


async def test_a_test_that_kills_its_coordinator_does_so_three_times(run: Runner, tmp_path: Path) -> None:
    """By a signal, which no code of the coordinator outlives."""
    (tmp_path / "kills_test.py").write_text(
        "import os, psutil, signal\n"
        "from trafficlight import Test\n"
        "class Kills(Test):\n"
        "    async def run(self):\n"
        "        me = psutil.Process()\n"
        "        lab = next(one for one in [me, *me.parents()] if 'serve' in one.cmdline())\n"
        "        lab.kill()\n"
        "class Lives(Test):\n"
        "    async def run(self): pass\n"
    )
    serve = f"serve kills_test.py --exit-when-done --workers 1 -n 1 --port {free_port()}".split()
    for _ in range(3):
        assert await (await run(*serve)).ended() == -signal.SIGKILL
    last = await run(*serve)
    assert await last.ended() == 3
    assert await last.line("interrupted: the coordinator exited while the case ran, 3 times in a row")
    assert await last.line("1 success · 0 failure · 1 error")


async def test_what_tests_started_ends_with_a_killed_coordinator(run: Runner, tmp_path: Path) -> None:
    """Its workers were killed at the same time, and then nobody knew of a process in a session of its own."""
    (tmp_path / "starts_test.py").write_text(
        "import asyncio, pathlib, subprocess\n"
        "from trafficlight import Test, matrix\n"
        "class Starts(Test):\n"
        "    @matrix(n=range(4))\n"
        "    async def run(self, n):\n"
        "        child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"        pathlib.Path({str(tmp_path)!r}, f'{{child.pid}}.pid').touch()\n"
        "        await asyncio.sleep(600)\n"
    )
    lab = await run("run", "starts_test.py", "--workers", "4", "-n", "4")

    def began() -> list[psutil.Process]:
        return [psutil.Process(int(path.stem)) for path in tmp_path.glob("*.pid")]

    async with asyncio.timeout(90):
        while len(started := began()) < 4:
            await asyncio.sleep(0.01)
    lab.process.kill()
    _, left = await asyncio.to_thread(psutil.wait_procs, started, timeout=60)
    for one in left:
        one.kill()
    assert left == []
