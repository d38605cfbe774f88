"""What a test changes in its process, or leaves running, does not reach the next case."""

import asyncio
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.workers.conftest import exited
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.results.events import State
from trafficlight.worker.assignment import Verdict

if TYPE_CHECKING:
    from tests.integration.workers.conftest import FakeLink, Fine, WorkerHarness


def _in_order(first: str, then: str) -> str:
    """Return a test of two cases: what the first does, and what the second expects."""
    return f"""
import gc, json, locale, random, resource, threading, types, warnings

HELPER = types.SimpleNamespace(value=1)


class T(Test):
    @matrix(n=[1, 2])
    async def run(self, n):
        if n == 1:
{textwrap.indent(textwrap.dedent(first), " " * 12)}
        else:
{textwrap.indent(textwrap.dedent(then), " " * 12)}
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("os.environ['LEAK'] = '1'", "'LEAK' not in os.environ"),
        ("os.chdir('/')", "os.getcwd() != '/'"),
        ("os.umask(0o777)", "os.umask(0) != 0o777"),
        (
            "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))",
            "resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 30",
        ),
        ("asyncio.sleep = None", "asyncio.sleep is not None"),
        ("Test.leak = True", "not hasattr(Test, 'leak')"),
        ("HELPER.value = 2", "HELPER.value == 1"),
        ("sys.path.clear()", "sys.path"),
        ("sys.modules['json'] = sys; del sys.modules['asyncio']", "sys.modules['json'] is json"),
        ("logging.disable(); logging.root.handlers.clear()", "logging.root.handlers"),
        (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "signal.getsignal(signal.SIGTERM) == signal.SIG_DFL",
        ),
        ("warnings.simplefilter('error')", "not [one for one in warnings.filters if one[0] == 'error']"),
        ("locale.setlocale(locale.LC_ALL, 'C')", "locale.setlocale(locale.LC_CTYPE) != 'C'"),
        ("threading.Thread(target=time.sleep, args=(600,)).start()", "threading.active_count() == 1"),
        ("gc.disable()", "gc.isenabled()"),
        ("sys.stdout = None", "sys.stdout is not None"),
    ],
)
async def test_a_change_does_not_reach_the_next_case(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", change: str, expected: str
) -> None:
    for case in bench.cases(_in_order(change, f"assert {expected}")):
        assert await pool.execute(bench.attempt(case), link) == Verdict(State.SUCCESS)


async def test_what_actions_need_is_there_before_the_first_call(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
) -> None:
    body = """
        async def run(self):
            from trafficlight.clients.action import actions_of
            for action in actions_of(ElementCallClient).values():
                assert all("adapter" in vars(one) for one in vars(action)["parameters"])
            assert "concurrent.futures.thread" in sys.modules
    """
    assert await pool.execute(bench.assignment(body), link) == Verdict(State.SUCCESS)


async def test_random_numbers_differ(pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink") -> None:
    draw = "self.record('drawn', random.random())"
    for case in bench.cases(_in_order(draw, draw)):
        await pool.execute(bench.attempt(case), link)
    assert len(set(link.values)) == 2


@pytest.mark.parametrize("ending", ["pass", "os._exit(1)", "os.kill(os.getppid(), signal.SIGKILL)"])
async def test_processes_end_with_the_case_that_started_them(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", ending: str
) -> None:
    body = f"""
    async def run(self):
        for new_session in (False, True):
            process = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=new_session)
            self.record("pid", process.pid)
        await asyncio.sleep(0.1)  # until the records are sent
        {ending}
    """
    await pool.execute(bench.assignment(body), link)
    assert len(link.values) == 2
    async with asyncio.timeout(60):
        for pid in link.values:
            await exited(pid)


async def test_the_process_of_a_file_does_not_hold_the_socket_of_a_case(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
) -> None:
    body = """
    async def run(self):
        import contextlib
        def sockets(pid):
            places = set()
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):  # it is closed, such as that of the folder
                    places.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
            return {place for place in places if place.startswith("socket:")}
        async with asyncio.timeout(30):  # it closes it after it has forked this process
            while sockets(os.getppid()) & sockets("self"):
                await asyncio.sleep(0.01)
    """
    assert await pool.execute(bench.assignment(body), link) == Verdict(State.SUCCESS)


async def test_a_crash_is_seen_at_once_though_a_fork_holds_the_socket(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
) -> None:
    body = """
    async def run(self):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        os._exit(7)
    """
    async with asyncio.timeout(100):
        verdict = await pool.execute(bench.assignment(body, case=600), link)
    assert (verdict.state, verdict.message) == (State.ERROR, "the test ended its process: exit code 7")
    await fine(pool)


async def test_a_fork_that_returns_is_not_a_second_verdict(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
) -> None:
    body = """
    async def run(self):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
    """
    assert await pool.execute(bench.assignment(body), link) == Verdict(State.SUCCESS)


@pytest.mark.parametrize("victim", ["os.getppid()", "0"])
async def test_one_that_kills_its_worker_costs_only_its_own_case(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine", victim: str
) -> None:
    kill = f"os.kill({victim}, signal.SIGKILL)"
    # It may go on for a moment before the end of its worker ends it.
    verdict = await pool.execute(
        bench.assignment(f"async def run(self):\n    {kill}\n    time.sleep(60)"), link
    )
    assert (verdict.state, verdict.message) == (
        State.ERROR,
        "the test ended its process: signal 9 (SIGKILL)",
    )
    await fine(pool)


async def test_a_pipe_in_place_of_its_log_blocks_nothing(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
) -> None:
    body = "async def run(self):\n    os.mkfifo(self.case.folder / 'log.info')\n    os._exit(4)"
    verdict = await pool.execute(bench.assignment(body), link)
    assert (verdict.state, verdict.message) == (State.ERROR, "the test ended its process: exit code 4")


async def test_the_output_of_earlier_cases_is_not_kept(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", tmp_path: Path
) -> None:
    size = "os.write(2, b'x' * 100_000); self.attach('size', str(os.fstat(2).st_size).encode())"
    for _ in range(2):
        assignment = bench.assignment(f"async def run(self):\n    {size}")
        assert await pool.execute(assignment, link) == Verdict(State.SUCCESS)
        assert (assignment.folder / "attachments" / "size").read_text() == "100000"


async def test_one_that_stops_its_worker(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
) -> None:
    body = "async def run(self):\n    os.kill(os.getppid(), signal.SIGSTOP)"
    assert await pool.execute(bench.assignment(body), link) == Verdict(State.SUCCESS)
    await fine(pool)


class TestImports:
    async def test_a_file_is_imported_once_for_its_cases(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        record = "self.record('imported in', IMPORTED_IN)"
        text = "IMPORTED_IN = os.getpid()\n" + _in_order(record, record)
        for case in bench.cases(text):
            assert await pool.execute(bench.attempt(case), link) == Verdict(State.SUCCESS)
        assert len(set(link.values)) == 1

    async def test_a_slow_import_of_the_lab_s_own_is_done_once(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        for case in bench.cases(
            _in_order("assert 'nio' not in sys.modules; import nio", "assert 'nio' in sys.modules")
        ):
            assert await pool.execute(bench.attempt(case), link) == Verdict(State.SUCCESS)

    async def test_a_file_that_starts_a_thread_has_it_in_every_case(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        text = """
        import queue, threading

        asked, answers = queue.Queue(), queue.Queue()
        threading.Thread(target=lambda: [answers.put(asked.get()) for _ in range(9)], daemon=True).start()


        class T(Test):
            @matrix(n=[1, 2])
            async def run(self, n):
                asked.put(n)
                assert answers.get(timeout=60) == n
        """
        for case in bench.cases(text):
            assert await pool.execute(bench.attempt(case), link) == Verdict(State.SUCCESS)

    async def test_a_process_that_a_file_starts_runs_in_every_case(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        expect = "assert SERVER.pid and os.kill(SERVER.pid, 0) is None"
        cases = bench.cases("SERVER = None\n" + _in_order(expect, expect))
        text = cases[0].path.read_text()
        start = "import subprocess; SERVER = subprocess.Popen(['sleep', '600'])"
        cases[0].path.write_text(text.replace("SERVER = None", start))
        for case in cases:
            assert await pool.execute(bench.attempt(case), link) == Verdict(State.SUCCESS)

    @pytest.mark.parametrize("edited", ["helper", "test"])
    async def test_an_edited_file_is_imported_again(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", edited: str
    ) -> None:
        helper = bench.folder / "helper.py"
        helper.write_text("VALUE = 1\n")
        record = "self.record('value', helper.VALUE + ADDED)"
        first, then = bench.cases("import helper\nADDED = 0\n" + _in_order(record, record))
        await pool.execute(bench.attempt(first), link)
        if edited == "helper":
            helper.write_text("VALUE = 12345\n")
        else:
            first.path.write_text(first.path.read_text().replace("ADDED = 0", "ADDED = 12344"))
        await pool.execute(bench.attempt(then), link)
        assert link.values == [1, 12345]

    async def test_one_that_hangs_says_where(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
    ) -> None:
        (case,) = bench.cases("class T(Test):\n    async def run(self): pass\n")
        case.path.write_text(case.path.read_text() + "time.sleep(600)\n")
        verdict = await pool.execute(bench.attempt(case, case=0.3, teardown=0.1), link)
        assert verdict.message.startswith("the test blocks its process")
        assert "time.sleep(600)" in verdict.traceback
        await fine(pool)

    async def test_one_that_crashes(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
    ) -> None:
        (case,) = bench.cases("class T(Test):\n    async def run(self): pass\n")
        case.path.write_text(case.path.read_text() + "os._exit(9)\n")
        verdict = await pool.execute(bench.attempt(case), link)
        assert (verdict.state, verdict.message) == (State.ERROR, "the test ended its process: exit code 9")
        await fine(pool)
