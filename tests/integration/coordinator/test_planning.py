"""Plans made in workers: what a test file does when it is imported costs this file only."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hand_clock import HandClock
from tests.leaks import held
from trafficlight.coordinator.workers.planner import WorkerPlanner
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.errors import TestFileError, UsageError
from trafficlight.suites.model import Plan
from trafficlight.suites.selection import Selection

HEAD = (
    "import asyncio, ctypes, os, signal, sys, threading, time\n"
    "from trafficlight import Test\nfrom trafficlight.client_types import *\n"
)
TEST = 'class A(Test):\n    clients = {"alice": Nio}\n    async def run(self, alice): ...\n'


class Desk:
    """Plans what lies in a folder."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.printed: list[str] = []
        self._stack = stack

    def write(self, name: str, text: str = "") -> Path:
        path = self.folder / f"{name}_test.py"
        path.write_text(f"{HEAD}{text}\n{TEST}")
        return path

    async def planned(self, *, memory: int = 0, clock: HandClock | None = None, **selection: Any) -> Plan:
        pool = await self._stack.enter_async_context(WorkerPool(1, memory=memory))
        planner = WorkerPlanner(pool, 60.0, printed=self.printed.append, clock=clock)
        return await planner.plan([str(self.folder)], Selection(**selection))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield Desk(tmp_path, stack)


def ids(plan: Plan) -> list[str]:
    return [case.id.partition("::")[0].removesuffix("_test.py") for case in plan.cases]


def only(plan: Plan, path: Path) -> TestFileError:
    (problem,) = plan.problems
    assert problem.path == path
    return problem


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("os._exit(0)", "importing it ended its process: exit code 0", None),
        ("os._exit(3)", "importing it ended its process: exit code 3", None),
        ("ctypes.string_at(0)", "importing it ended its process: signal 11 (SIGSEGV)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", "importing it ended its process: signal 9 (SIGKILL)", None),
        ("os.closerange(3, 100); time.sleep(0)", "importing it", None),
        ("sys.exit(4)", "does not import: SystemExit: 4", 4),
        ("raise KeyboardInterrupt", "cannot be collected: KeyboardInterrupt", None),
        ("class T(ClientType):\n    def name(self): os._exit(6)\nA = T().name()", "exit code 6", None),
    ],
)
async def test_one_that_ends_its_process(desk: Desk, text: str, problem: str, line: int | None) -> None:
    desk.write("a")
    path = desk.write("b", text)
    desk.write("c")
    found = await desk.planned()
    assert ids(found) == ["a", "c"]
    wrong = only(found, path)
    assert problem in wrong.problem
    assert wrong.line == line


async def test_a_huge_value_hides_neither_other_cases_nor_other_problems(desk: Desk) -> None:
    """What its test was and what else was wrong with its file was not reported."""
    tests = "class Big(Test):\n    @parametrize(x='q' * 70_000_000)\n    async def test_b(self, x): ...\n"
    tests += "class Odd(Test):\n    @ignore('why', size=9)\n    @matrix(size=[1])\n"
    tests += "    async def test_a(self, size): ...\n"
    path = desk.write("a", "from trafficlight import ignore, matrix, parametrize\n" + tests)
    found = await desk.planned()
    assert [case.suite for case in found.cases] == ["a_test.py::A"]
    large, odd = sorted(found.problems, key=lambda one: one.line or 0)
    assert "the cases of a_test.py::Big.test_b are too large: the message has 70," in large.problem
    assert (large.path, large.line) == (path, 7)
    assert "matches none of the values" in odd.problem


async def test_one_that_sends_nonsense(desk: Desk) -> None:
    """It looks for the socket to the coordinator among what is open."""
    desk.write("a")
    path = desk.write(
        "b",
        "import stat\n"
        "raw = b'nonsense'\n"
        "for fd in range(3, 100):\n"
        "    try:\n"
        "        if stat.S_ISSOCK(os.fstat(fd).st_mode):\n"
        "            os.write(fd, len(raw).to_bytes(4, 'big') + raw)\n"
        "    except OSError: pass\n",
    )
    found = await desk.planned()
    assert ids(found) == ["a"]
    wrong = "importing it sent a message that the coordinator does not accept: not a message: b'nonsense'"
    assert only(found, path).problem == wrong


@pytest.mark.parametrize(
    "text",
    [
        "while True: open(BEGAN, 'w').close()",
        "open(BEGAN, 'w').close(); time.sleep(600)",
        "open(BEGAN, 'w').close(); threading.Event().wait()",
    ],
)
async def test_one_that_does_not_come_to_an_end(
    desk: Desk, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk.write("a")
    path = desk.write("b", f"BEGAN = {str(desk.folder / 'began')!r}\n{text}")
    desk.write("c")
    clock = HandClock()
    planning = asyncio.create_task(desk.planned(clock=clock))
    while not (desk.folder / "began").exists():
        await asyncio.sleep(0.01)
    await clock.turn(60)
    found = await planning
    assert ids(found) == ["a", "c"]
    wrong = only(found, path)
    assert wrong.problem == "not imported within 60 s"
    assert "IMPORT_DEADLINE" in wrong.hint
    assert wrong.line == 5, "it says where"
    assert text in caplog.text, "and with what"
    assert "suites/planning.py" not in caplog.text, "without what is ours"


async def test_one_that_takes_modules_away_takes_them_from_itself(desk: Desk) -> None:
    desk.write("a", "sys.modules.pop('asyncio'); sys.path.clear()")
    desk.write("b", "import wave")
    found = await desk.planned()
    assert not found.problems
    assert ids(found) == ["a", "b"]


async def test_one_that_eats_memory(desk: Desk) -> None:
    desk.write("a")
    path = desk.write("b", "hoard = [bytearray(10_000_000) for _ in range(1000)]")
    desk.write("c")
    found = await desk.planned(memory=200 << 20)
    assert ids(found) == ["a", "c"]
    assert only(found, path).problem == "does not import: MemoryError"


async def test_one_that_leaves_no_memory_to_others(desk: Desk) -> None:
    desk.write("a", "hoard = bytearray(110 << 20)")
    desk.write("b", "hoard = bytearray(100 << 20)")
    found = await desk.planned(memory=200 << 20)
    assert not found.problems
    assert ids(found) == ["a", "b"]


async def test_one_that_prints_very_much(desk: Desk) -> None:
    desk.write("a", "print('x' * 10_000_000); print('the end')")
    desk.write("b")
    assert ids(await desk.planned()) == ["a", "b"]
    (printed,) = desk.printed
    assert printed.endswith("the end")
    assert len(printed) < 10_000


async def test_one_that_starts_a_thread(desk: Desk) -> None:
    desk.write("a", "threading.Thread(target=time.sleep, args=(600,)).start()")
    desk.write("b")
    before = held().processes
    assert ids(await desk.planned()) == ["a", "b"]
    left = [psutil.Process(pid) for pid in held().processes - before]
    # The worker that had the thread is gone; another one may, or may not, have come by now.
    assert all(process.num_threads() == 1 for process in left)


async def test_one_that_forks_has_one_voice(desk: Desk) -> None:
    desk.write("a", "os.fork()")
    desk.write("b", "if os.fork() == 0: time.sleep(600)")
    desk.write("c", "if os.fork() == 0: sys.exit(3)")
    desk.write("d")
    found = await desk.planned()
    assert not found.problems
    assert ids(found) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("change", "notices"),
    [
        ("os.environ['TARGET'] = 'staging'", "'TARGET' in os.environ"),
        ("sys.setrecursionlimit(500)", "sys.getrecursionlimit() == 500"),
        ("import warnings; warnings.filters.clear()", "not __import__('warnings').filters"),
        ("os.umask(0o777)", "os.umask(0o22) == 0o777"),
        ("signal.signal(signal.SIGTERM, print)", "signal.getsignal(signal.SIGTERM) is print"),
        ("import random; random.random = None", "__import__('random').random is None"),
        ("sys.modules['wave'] = None", "'wave' in sys.modules"),
    ],
)
async def test_what_one_changes_does_not_reach_the_next(desk: Desk, change: str, notices: str) -> None:
    desk.write("a", change)
    desk.write("b", f"assert not ({notices})")
    found = await desk.planned()
    assert not found.problems
    assert ids(found) == ["a", "b"]


async def test_no_code_of_test_files_gets_here(desk: Desk) -> None:
    desk.write("a", "import enum\nclass Own(ClientType):\n    def match(self, adapter): return True\n")
    (desk.folder / "helper_of_planning.py").write_text("VALUE = object()\n")
    desk.write(
        "b",
        "import enum\nfrom helper_of_planning import VALUE\n"
        "from trafficlight import matrix\nfrom trafficlight.server_types import ServerType\n"
        "class Word(str): pass\nclass Colour(enum.Enum):\n    RED = 1\n"
        "class Mine(ClientType):\n    type = Word('mine')\n"
        "class Own(ClientType):\n    def match(self, adapter): return True\n"
        "class Server(ServerType):\n    image = Word('x')\n    def name(self): return Word('Server')\n"
        "class B(Test):\n    clients = {'alice': [Mine, Own]}\n    servers = {'server': Server}\n"
        "    @matrix(value=[VALUE, Word('w'), Colour.RED, [Colour.RED], {Word('k'): 1}, lambda: 1])\n"
        "    async def run(self, alice, server, value): ...\n",
    )
    before = set(sys.modules)
    found = await desk.planned()
    assert not found.problems
    assert len(found.cases) == 2 + 12
    assert not {name for name in set(sys.modules) - before if "_test" in name or "helper" in name}
    (first,) = [
        case for case in found.cases if case.id.startswith("b_test.py::B[alice=Mine") and "=w]" in case.id
    ]
    assert {type(kind).__module__.partition(".")[0] for kind in first.clients.values()} == {"trafficlight"}
    assert [spec.image for slot in first.servers for spec in slot.homeservers] == ["x"]


async def test_a_base_in_another_file_is_no_test(desk: Desk) -> None:
    desk.write("base", 'class Base(Test):\n    clients = {"bob": Nio}\n')
    desk.write("leaf", "from base_test import Base\nclass Leaf(Base):\n    async def run(self, bob): ...\n")
    desk.write(
        "other", 'class Forgotten(Test):\n    clients = {"bob": Nio}\n    async def runs(self, bob): ...\n'
    )
    found = await desk.planned()
    assert [one.problem for one in found.problems] == ["Forgotten has roles and no test"]


async def test_what_cannot_be_carried_out_is_said(desk: Desk) -> None:
    desk.write("a")
    with pytest.raises(UsageError, match="no test has such a client type; there are Nio"):
        await desk.planned(clients=("Dog",))
