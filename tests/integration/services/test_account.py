"""What every kind of node can do."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.services.conftest import MARK, clean
from tests.sshd import Sshd
from trafficlight.services.account import Account
from trafficlight.services.connections import Login, NodeAddress, NodeError
from trafficlight.services.node import LogEntry, case_folder, collect, note_logs
from trafficlight.services.streams import CommandError

_LAB = """
import asyncio, sys
from trafficlight.services.account import Account
from trafficlight.services.connections import NodeAddress, connect
from trafficlight.services.node import Guard, case_folder

async def main():
    address, mark = NodeAddress.model_validate_json(sys.argv[1]), sys.argv[2]
    guard = Guard(address, mark, connect(address))
    await guard.start()
    account = Account(address, case_folder(address, mark), mark)
    await account.start("setsid sleep 1000 & echo $! > child; wait", name="job")
    child = await account.run("until [ -s child ]; do sleep 0.1; done; cat child")
    print(child.stdout, end="", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


class TestRun:
    async def test_returns_both_streams_and_the_code(self, account: Account) -> None:
        done = await account.run("echo out; echo err >&2; exit 3", check=False)
        assert (done.stdout, done.stderr, done.code) == ("out\n", "err\n", 3)

    async def test_words_are_quoted(self, account: Account) -> None:
        words = ["a b", "$HOME", "it's", '"', "*", "\n"]
        assert (await account.run(["printf", "%s|", *words])).stdout == "|".join(words) + "|"

    async def test_input_and_variables(self, account: Account) -> None:
        done = await account.run('cat; echo "$NAME"', input="from here\n", env={"NAME": "a 'b' $c"})
        assert done.stdout == "from here\na 'b' $c\n"

    async def test_an_error_shows_command_code_and_streams_but_no_secret(self, account: Account) -> None:
        with pytest.raises(CommandError) as caught:
            await account.run("echo key=hunter2; echo bad >&2; exit 4 # hunter2", secrets=["hunter2"])
        text = str(caught.value)
        assert "exit code 4" in text
        assert "bad" in text
        assert "key=***" in text
        assert "hunter2" not in text
        assert caught.value.code == 4

    async def test_a_command_is_killed_when_its_time_is_up(self, account: Account, tmp_path: Path) -> None:
        await account.run("true")  # logging in takes a moment
        with pytest.raises(CommandError, match=r"did not end within 3 s\nstdout:\nbegun\ufffd$"):
            await account.run(
                f"printf 'begun\\0'; echo $$ > {tmp_path}/pid; trap '' TERM; sleep 1000 & sleep 1000",
                timeout=3,
            )
        pid = int((tmp_path / "pid").read_text())
        async with asyncio.timeout(20):
            while _runs(pid):
                await asyncio.sleep(0.01)

    @pytest.mark.parametrize("stream", ["", " >&2"])
    async def test_a_gigabyte_of_output_is_an_error(self, account: Account, stream: str) -> None:
        with pytest.raises(CommandError, match="printed more than 16 MiB"):
            await account.run(f"head -c 1073741824 /dev/zero{stream}")

    async def test_both_streams_are_drained(self, account: Account) -> None:
        script = "i=0; while [ $i -lt 2000 ]; do printf %0100d $i; printf %0100d $i >&2; i=$((i+1)); done"
        done = await account.run(script)
        assert len(done.stdout) == len(done.stderr) == 200_000

    async def test_lines_come_as_they_are_printed(self, account: Account) -> None:
        await account.run("mkfifo gate")
        seen = []
        async for line in account.lines("echo one; cat gate; echo two"):
            seen.append(line)
            if line == "one":
                await account.run("echo opened > gate")
        assert seen == ["one", "opened", "two"]

    async def test_what_a_command_left_behind_prints_is_of_no_later_one(self, account: Account) -> None:
        await account.run("mkfifo gate gate2")
        await account.run("(read _ < gate; echo late; echo late >&2; echo done > gate2) &")
        await account.run("echo > gate; read _ < gate2")
        for _ in range(3):
            done = await account.run("echo next")
            assert (done.stdout, done.stderr) == ("next\n", "")

    async def test_thirty_commands_at_once(self, account: Account) -> None:
        done = await asyncio.gather(*(account.run(["echo", str(number)]) for number in range(30)))
        assert [int(one.stdout) for one in done] == list(range(30))


class TestBackground:
    async def test_waits_for_an_end_and_reads_its_log(self, account: Account) -> None:
        await account.start("echo first; echo last", name="job")
        await account.wait("job", 20)
        assert await account.last_line("job.log") == "last"
        assert not account.alive("job")

    async def test_a_wait_that_is_cancelled_expects_no_end(self, address: NodeAddress) -> None:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        account = Account(address, case_folder(address, MARK), MARK, ended.set_result)
        await account.run("mkfifo gate")
        await account.start("read _ < gate; exit 2", name="job")
        waiting = asyncio.ensure_future(account.wait("job"))
        await account.run("true")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await account.run("echo > gate")
        async with asyncio.timeout(20):
            assert "exit code 2" in await ended
        await account.close()

    async def test_a_bad_end_has_the_last_lines(self, account: Account) -> None:
        await account.start("echo why; exit 7", name="job")
        with pytest.raises(CommandError, match=r"(?s)job ended \(exit code 7\).*why"):
            await account.wait("job", 20)

    async def test_an_end_that_nothing_waits_for_is_reported(self, address: NodeAddress) -> None:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        account = Account(address, case_folder(address, MARK), MARK, lambda text: ended.set_result(text))
        await account.start("echo last words; exit 2", name="job")
        async with asyncio.timeout(20):
            assert "last words" in await ended
        await account.close()

    @pytest.mark.parametrize("ignored", ["", "trap '' TERM;"])
    async def test_stop_ends_a_group_also_one_that_ignores_sigterm(
        self, account: Account, ignored: str
    ) -> None:
        await account.start(f"{ignored} sleep 1000 & echo $! > child; wait; sleep 1000", name="job")
        child = int(await _content(account, "child"))
        await account.stop("job", timeout=0.5)
        assert not account.alive("job")
        async with asyncio.timeout(20):
            while _runs(child):
                await asyncio.sleep(0.01)

    async def test_pause_and_resume(self, account: Account) -> None:
        async with account.monitor_log("job.log") as log:
            await account.start("echo ready; exec sleep 1000", name="job")
            await log.until("ready")  # a process whose child is stopped before it is executed shows D
        await account.signal("job", "STOP")
        async with asyncio.timeout(20):
            while _state(account.pid("job")) != "T":
                await asyncio.sleep(0.01)
        await account.signal("job", "CONT")
        assert account.alive("job")
        await account.stop("job")

    async def test_a_program_that_is_not_there(self, account: Account) -> None:
        await account.start(["no-such-program"], name="job")
        with pytest.raises(CommandError, match=r"(?s)exit code 127.*no-such-program"):
            await account.wait("job", 20)

    async def test_names(self, account: Account) -> None:
        with pytest.raises(ValueError, match="letters, digits"):
            await account.start("true", name="a b")
        with pytest.raises(ValueError, match="no process 'b' was started; started: none"):
            await account.wait("b")


class TestFiles:
    async def test_a_tree_goes_there_and_back(self, account: Account, tmp_path: Path) -> None:
        source = tmp_path / "a tree"
        (source / "deep").mkdir(parents=True)
        (source / "deep" / "file").write_bytes(bytes(range(256)) * 1000)
        await account.copy_to(source, "there/copy")
        await account.copy_from("there/copy", tmp_path / "back")
        assert (tmp_path / "back/copy/deep/file").read_bytes() == bytes(range(256)) * 1000

    async def test_copying_what_is_not_there(self, account: Account, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="copying failed"):
            await account.copy_from("nothing", tmp_path)
        with pytest.raises(CommandError, match="copying failed"):
            await account.copy_to(tmp_path / "nothing", "there")

    async def test_a_copy_replaces_files_but_no_folder(self, account: Account, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("new")
        await account.create_file("target", "old")
        await account.copy_to(tmp_path / "file", "target")
        assert await account.read("target") == "new"
        await account.create_file("folder/kept", "")
        with pytest.raises(CommandError, match="folder is a folder"):
            await account.copy_to(tmp_path / "file", "folder")
        assert await account.exists("folder/kept")

    async def test_create_exists_remove(self, account: Account) -> None:
        await account.create_file("a/b", "content", mode="600")
        assert await account.exists("a/b")
        assert await account.read("a/b") == "content"
        async with account.open("a/b") as stream:
            assert await stream.read(4) == b"cont"
        await account.remove("a")
        assert not await account.exists("a")

    @pytest.mark.parametrize("path", ["/", "/etc", "../../..", "a/../../../../.."])
    async def test_remove_refuses(self, account: Account, path: str) -> None:
        with pytest.raises(ValueError, match="will not remove"):
            await account.remove(path)

    async def test_templates(self, account: Account) -> None:
        await account.create_from_template("conf", "port = {{ port }}\n", port=7)
        assert await account.read("conf") == "port = 7\n"


class TestMonitor:
    async def test_sees_what_is_written_from_now_on_across_rotation(self, account: Account) -> None:
        await account.create_file("log", "ready\n")
        async with account.monitor_log("log") as log:
            await account.run("echo one >> log; echo two >> log")
            assert await log.until("o[n]e", 20) == "one"
            assert await log.until("^two$", 20) == "two"
            await account.run("mv log log.1; echo three > log")
            assert await log.until("three", 20) == "three"
            with pytest.raises(CommandError, match=r"(?s)no line matched 'ready' within 0\.2 s"):
                await log.until("ready", 0.2)

    async def test_a_log_that_does_not_exist_yet(self, account: Account) -> None:
        async with account.monitor_log("later") as log:
            await account.run("echo there > later")
            assert await log.until("there", 20) == "there"


class TestCollect:
    async def test_files_trees_and_oddities(self, account: Account, tmp_path: Path) -> None:
        await account.run(
            "mkdir -p tree/sub; echo a > tree/sub/a; echo b > b; mkfifo tree/pipe fifo; ln -s no dangling"
        )
        logs = {"b": "b", "tree": "tree", "fifo": "fifo", "dangling": "dangling", "gone": "gone"}
        entries = [LogEntry(service="S-1", name=n, path=p, collect="on_failure") for n, p in logs.items()]
        assert await collect(account, entries, tmp_path / "none", failed=False) == []
        assert not (tmp_path / "none").exists()
        notes = await collect(account, entries, tmp_path / "logs", failed=True)
        found = [
            path.relative_to(tmp_path / "logs") for path in (tmp_path / "logs").rglob("*") if path.is_file()
        ]
        assert sorted(map(str, found)) == ["b", "tree/sub/a"]
        assert notes == [
            "fifo: is not a regular file",
            "dangling: is a link to nothing",
            "gone: does not exist",
        ]

    async def test_a_large_log_is_cut(
        self, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trafficlight.services.node._LOG_LIMIT", 2 << 20)
        await account.run("truncate -s 10G log; echo end >> log")
        entry = LogEntry(service="S-1", name="log", path="log", collect="always")
        notes = await collect(account, [entry], tmp_path / "logs", failed=False)
        assert notes == ["log: the last 2 MiB of 10737418244 bytes"]
        assert (tmp_path / "logs/log").read_bytes().endswith(b"end\n")


class TestClean:
    async def test_ends_what_left_its_group_and_removes_the_folder(
        self, address: NodeAddress, tmp_path: Path
    ) -> None:
        account = Account(address, case_folder(address, MARK), MARK)
        await account.start("setsid sleep 1000 & echo $! > child; wait", name="job")
        await account.run("echo kept > log")
        entry = LogEntry(service="S-1", name="log", path="log", collect="on_failure")
        await note_logs(account, "S-1", [entry])
        child = int(await _content(account, "child"))
        await account.close()
        assert await clean(address, MARK, tmp_path / "logs") == ""
        assert not _runs(child)
        assert os.listdir(address.folder) == []
        assert (tmp_path / "logs/S-1/n1/log").read_text() == "kept\n"

    async def test_a_guard_does_its_work_when_the_lab_is_killed(self, address: NodeAddress) -> None:
        lab = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _LAB, address.model_dump_json(), f"{MARK}-killed"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert lab.stdout is not None
        try:
            child = int(await lab.stdout.readline())
            assert _runs(child)
        finally:
            lab.kill()
            await lab.wait()
        async with asyncio.timeout(100):
            while _runs(child) or os.listdir(address.folder):
                await asyncio.sleep(0.05)

    async def test_leaves_what_is_of_another_case(self, address: NodeAddress) -> None:
        account = Account(address, case_folder(address, "other"), "other")
        await account.start("sleep 1000", name="job")
        assert await clean(address, MARK) == ""
        assert account.alive("job")
        await account.stop("job")
        await account.close()


class TestLogin:
    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"port": 1}, "(?i)refused|connect call failed"),
            ({"known_hosts": "/dev/null"}, "(?i)host key"),
            ({"user": "no-such-user"}, "(?i)permission denied"),
            ({"key": None, "password": "wrong"}, "(?i)permission denied"),
            ({"key": "/no/key"}, "(?i)no such file"),
            ({"host": "no-such-host.invalid"}, "(?i)name|address|temporary"),
        ],
    )
    async def test_one_line_says_what_is_wrong(
        self, start_sshd: Callable[[], Sshd], changes: dict[str, Any], problem: str
    ) -> None:
        account = Account(start_sshd().node("n1", **changes).node(), "/tmp/unused", MARK)
        with pytest.raises(NodeError, match=problem) as caught:
            await account.run("true")
        assert str(caught.value).startswith("node n1: cannot log in to ")
        assert "\n" not in str(caught.value)

    async def test_a_server_that_accepts_and_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trafficlight.services.connections._CONNECT", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            login = Login(port=silent.getsockname()[1], user="any", known_hosts=Path("/dev/null"))
            account = Account(NodeAddress(name="n1", ssh=login), "/tmp/unused", MARK)
            with pytest.raises(NodeError) as caught:
                await account.run("true")
        assert str(caught.value) == "node n1: cannot log in to 127.0.0.1: no answer within 0.2 s"

    async def test_a_key_that_the_server_does_not_know(
        self, start_sshd: Callable[[], Sshd], tmp_path: Path
    ) -> None:
        other = start_sshd().node("other")
        account = Account(start_sshd().node("n1", key=other.key).node(), str(tmp_path / "case"), MARK)
        with pytest.raises(NodeError, match=r"^node n1: cannot log in to 127\.0\.0\.1: [Pp]ermission denied"):
            await account.run("true")

    async def test_a_node_that_is_cut_off_mid_command(
        self, start_sshd: Callable[[], Sshd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trafficlight.services.connections._KEEPALIVE", 0.3)
        sshd = start_sshd()
        account = Account(sshd.node("n1", str(tmp_path)).node(), str(tmp_path / "case"), MARK)
        await account.start("sleep 1000", name="job")
        running = asyncio.ensure_future(account.run("echo begun > begun; sleep 1000"))
        await _content(account, "begun")
        for pid in sshd.connections():
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(NodeError, match="node n1: the connection was lost"):
            await running
        with pytest.raises(NodeError, match="node n1: the connection was lost"):
            await account.wait("job")
        await account.close()
        sshd.kill()
        sshd.start()
        assert await clean(sshd.node("n1", str(tmp_path)).node()) == ""

    async def test_a_server_that_is_killed_mid_command(
        self, start_sshd: Callable[[], Sshd], tmp_path: Path
    ) -> None:
        sshd = start_sshd()
        account = Account(sshd.node("n1", str(tmp_path)).node(), str(tmp_path / "case"), MARK)
        await account.start("sleep 1000", name="job")
        pid = account.pid("job")
        running = asyncio.ensure_future(account.run("sleep 1000"))
        await account.run("true")
        sshd.kill()
        with pytest.raises(NodeError, match="node n1: the connection was lost"):
            await running
        with pytest.raises(NodeError, match="node n1: the connection was lost"):
            await account.wait("job")
        sshd.start()
        assert (await account.run("echo back")).stdout == "back\n"
        await account.close()
        assert await clean(sshd.node("n1", str(tmp_path)).node(), MARK) == ""
        assert not _runs(pid)


async def _content(account: Account, path: str) -> str:
    async with asyncio.timeout(20):
        while not (text := (await account.run(f"cat {path} 2>/dev/null", check=False)).stdout.strip()):
            await asyncio.sleep(0.01)
    return text


def _runs(pid: int) -> bool:
    return _state(pid) not in ("", "Z")


def _state(pid: int) -> str:
    """Return the state of a process, a letter; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return ""
