"""What holds for all tests: none leaves anything behind, and in CI none may be skipped.

A skipped test proves nothing there.
"""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Generator, Iterator
from multiprocessing.resource_tracker import ensure_running

import pytest

from tests.leaks import held, tasks

# Reasons of skipped tests and modules, by their id.
_skipped: pytest.StashKey[dict[str, str]] = pytest.StashKey()


# Seconds between two looks at what is left, and how often: transports close their files a little later.
_PAUSE, _LOOKS = 0.01, 100


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which a task, a process, a socket or a file is left that was not there before.

    Tests that share a loop share what runs in it, too; what is left of that is seen in the end.
    """
    if _shares_a_loop(request.node):
        yield
        return
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("no_task_left")
    before = held()
    yield
    assert not held().more_than(before)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test after which something still runs in its loop."""
    before, ran = held(), tasks()
    yield
    for _ in range(_LOOKS):
        await asyncio.sleep(0)
        if not held().more_than(before) and not tasks() - ran:
            return
        await asyncio.sleep(_PAUSE)
    assert not tasks() - ran


@pytest.fixture(autouse=True, scope="session")
def nothing_left_at_all() -> Iterator[None]:
    """Fail where processes of any test are left in the end."""
    ensure_running()  # Python's own helper, which stays from its first use on
    before = held()
    yield
    assert not [left for left in held().more_than(before) if left.startswith("process")]


def _shares_a_loop(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("asyncio")
    return marker is not None and marker.kwargs.get("loop_scope", "function") != "function"


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with nothing skipped."""
    config.stash[_skipped] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note a test that was skipped; an expected failure is none."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        item.config.stash[_skipped][item.nodeid] = _reason(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Note a module that was skipped as a whole."""
    report = yield
    if report.skipped:
        collector.config.stash[_skipped][collector.nodeid] = _reason(report)
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a run in CI fail for what it skipped."""
    if _in_ci() and session.config.stash[_skipped] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what made a run in CI fail."""
    skipped = config.stash[_skipped]
    if _in_ci() and skipped:
        terminalreporter.section("skipped, which is a failure in CI", red=True)
        for test, reason in skipped.items():
            terminalreporter.line(f"{test}: {reason}")
