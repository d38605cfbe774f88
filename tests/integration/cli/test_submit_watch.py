"""`submit` and `watch` against a real coordinator, as processes of their own."""

import signal
from pathlib import Path

import aiohttp

from tests.integration.cli.conftest import Runner, a_test_file, free_port, serving
from tests.integration.http.conftest import HttpHarness, ScriptedAdapter, ended, open_site

PEOPLE = "secret-of-people"


async def play(site: HttpHarness, response: str | None = None) -> None:
    """Be the client of one case, of one action."""
    adapter = ScriptedAdapter(site)
    await adapter.register()
    message = await adapter.action()
    await adapter.respond({"id": message["id"], **({"response": response} if response else {})})


async def test_a_session_is_submitted_and_watched(site: HttpHarness, run: Runner, tmp_path: Path) -> None:
    a_test_file(tmp_path)
    command = await run("submit", "talk_test.py", "--watch", "--url", site.url)
    await command.line("session", "1 case ·", f"{site.url}/status/")
    await play(site)
    assert await command.ended() == 0
    assert [line.split()[0] for line in command.said if "talk_test.py::Talk[alice=Type]" in line] == [
        "running",
        "success",
    ]
    assert command.said[-1].startswith("1 success · 0 failure · 0 error")
    (folder,) = [path for path in (tmp_path / "results").iterdir() if path.name.startswith("20")]
    assert command.said[-1].endswith(f"results/{folder.name}")
    assert (folder / "junit.xml").is_file()


async def test_a_failure_is_told_and_is_the_exit_code(site: HttpHarness, run: Runner, tmp_path: Path) -> None:
    a_test_file(tmp_path)
    job = {"SERVER_URL": "https://github.com", "REPOSITORY": "kim/chat", "RUN_ID": "7"}
    in_ci = {f"GITHUB_{name}": value for name, value in job.items()}
    submitted = await run("submit", "talk_test.py", "--url", site.url, **in_ci)
    assert await submitted.ended() == 0
    (session,) = site.lab.engine.sessions.values()
    assert session.record.job == "https://github.com/kim/chat/actions/runs/7"
    assert session.id in submitted.said[0]
    watching = await run("watch", TRAFFICLIGHT_URL=site.url)
    await watching.line("session", session.id)
    await play(site, "error")
    assert await watching.ended() == 1
    assert any(line.startswith("failure  talk_test.py::Talk") for line in watching.said)
    # A late watcher gets the same output, but for why the case waited if it began at once.
    late = await run("watch", session.id, "--url", site.url)
    assert await late.ended() == 1
    said = [[line for line in one.said if " waiting: " not in line] for one in (late, watching)]
    assert said[0] == said[1]


async def test_ctrl_c_ends_only_the_watching(site: HttpHarness, run: Runner, tmp_path: Path) -> None:
    a_test_file(tmp_path)
    command = await run("submit", "talk_test.py", "--watch", "--url", site.url)
    await command.line("session")
    (session,) = site.lab.engine.sessions.values()
    adapter = ScriptedAdapter(site)
    await adapter.register()
    message = await adapter.action()
    await command.line("running")
    command.process.send_signal(signal.SIGINT)
    assert await command.ended() == 130
    assert (
        f"session {session.id} continues; to follow it again: trafficlight watch {session.id}" in command.said
    )
    await adapter.respond({"id": message["id"]})
    await ended(session)
    assert session.exit_code == 0


async def test_what_cannot_be_done_is_said_in_a_line(site: HttpHarness, run: Runner) -> None:
    for arguments, words in (
        (("submit", "nowhere_test.py"), "there is no nowhere_test.py"),
        (("watch", "2026-01-01--001"), "there is no such session"),
        (("watch", "../x"), "no such path"),
        (("watch", "--url", "nonsense"), "write http://host:port"),
        (("watch", "--url", "http://127.0.0.1:99999"), "write http://host:port"),
        (("submit", "--url", "http://[::1"), "write http://host:port"),
        (("watch", "--url", "http://127.0.0.1:1"), "does not answer"),
    ):
        command = await run(*arguments, TRAFFICLIGHT_URL=site.url)
        assert await command.ended() == 2
        (line,) = command.said
        assert words in line


async def test_the_token_is_shown(run: Runner, tmp_path: Path) -> None:
    async with open_site(tmp_path, people_token=PEOPLE) as site:
        a_test_file(tmp_path, "pass")
        command = await run("submit", "talk_test.py", "--url", site.url)
        assert await command.ended() == 2
        assert "--token" in command.said[0]
        await ScriptedAdapter(site).register()
        for given in ({"TRAFFICLIGHT_PEOPLE_TOKEN": PEOPLE}, {}):
            arguments = () if given else ("--token", PEOPLE)
            command = await run("submit", "talk_test.py", "--watch", *arguments, "--url", site.url, **given)
            await ScriptedAdapter(site).register()
            assert await command.ended() == 0


async def test_watching_goes_on_when_the_coordinator_is_restarted(run: Runner, tmp_path: Path) -> None:
    """Killed in the middle of a case; the next one goes on, and every line of the session comes once."""
    tests = a_test_file(tmp_path)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as http:
        async with serving(run, port, tests) as first:
            site = HttpHarness(url, None, http, tmp_path)  # type: ignore[arg-type]
            watching = await run("watch", "--url", url)
            adapter = ScriptedAdapter(site)
            await adapter.register()
            await adapter.action()
            await watching.line("running")
            await first.close()  # by SIGKILL
            await watching.line("retrying")
        async with serving(run, port):
            await play(site)
            assert await watching.ended() == 0
    states = [line.split()[0] for line in watching.said if "talk_test.py::Talk" in line]
    assert states == ["running", "interrupted", "running", "success"]
    assert watching.said[-1].startswith("1 success")


async def test_a_session_of_an_earlier_coordinator_is_told_as_any_other(run: Runner, tmp_path: Path) -> None:
    a_test_file(tmp_path)
    async with open_site(tmp_path) as site:
        watching = await run("submit", "talk_test.py", "--watch", "--url", site.url)
        await watching.line("session")
        (session,) = site.lab.engine.sessions
        await play(site, "error")
        assert await watching.ended() == 1
    log = tmp_path / "results" / session / "events.jsonl"
    async with open_site(tmp_path) as site:
        command = await run("watch", session, "--url", site.url)
        assert await command.ended() == 1
        assert command.said[1:] == watching.said[1:]  # the first line names the address
        # As if its coordinator had been killed before the end.
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
        (log.parent / "session.json").unlink()
        command = await run("watch", session, "--url", site.url)
        assert await command.ended() == 3
        assert any(line.startswith("failure  talk_test.py::Talk") for line in command.said)
        assert (
            command.said[-1]
            == f"session {session} was abandoned: its coordinator exited before the session ended"
        )
