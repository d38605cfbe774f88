"""Checks around every test: none leaks, and in CI none is skipped."""

import asyncio
import gc
import inspect
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from multiprocessing.resource_tracker import ensure_running

import pytest
from hypothesis import settings

from tests.blocking import detected
from tests.leaks import held, tasks

# Seconds between two looks at what is left, and how often: transports close their files a little later.
_PAUSE, _LOOKS = 0.01, 100

# The tokens of coordinators that tests start do not go to the user's own folder.
_state = tempfile.TemporaryDirectory(prefix="trafficlight-state-")
os.environ["XDG_STATE_HOME"] = _state.name
# Nor do the verdicts of labs that tests start go to the summary of the step that runs these tests.
for _name in ("GITHUB_STEP_SUMMARY", "GITHUB_RUN_ID", "CI_JOB_URL", "BUILD_URL"):  # this may be a CI job
    os.environ.pop(_name, None)

# A shell that runs pytest in the background has it, and all that it starts, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

# After Ctrl-C fixtures are torn down while pytest has closed its own files already.
_interrupted: pytest.StashKey[bool] = pytest.StashKey()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaks a task, a process, a socket or a file.

    Tests that share an event loop share its tasks; those are checked at the end of the run.
    """
    if _shares_a_loop(request.node):
        yield
        return
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("no_task_left")
    before = held()
    yield
    if held().more_than(before):
        gc.collect()  # what an exception's traceback holds is no leak
    assert _was_interrupted(request.config) or not held().more_than(before)


@pytest.fixture(autouse=True, scope="session")
def _detector() -> Iterator[list[str]]:
    with detected() as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_blocks(_detector: list[str]) -> Iterator[None]:
    """Fail a test in which the package blocks the event loop."""
    _detector.clear()
    yield
    assert not _detector, "blocks the event loop: " + _detector[0]


@pytest.fixture
async def no_task_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fail a test that leaves a task running in its event loop."""
    before, ran = held(), tasks()
    yield
    for _ in range(_LOOKS):
        await asyncio.sleep(0)
        if not held().more_than(before) and not tasks() - ran:
            return
        await asyncio.sleep(_PAUSE)
    assert _was_interrupted(request.config) or not tasks() - ran


@pytest.fixture(autouse=True, scope="session")
def nothing_left_at_all(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the run if a process of any test is left at its end."""
    ensure_running()  # multiprocessing's resource tracker stays from its first use on
    before = held()
    yield
    left = [one for one in held().more_than(before) if one.startswith("process")]
    assert _was_interrupted(request.config) or not left


def _shares_a_loop(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("asyncio")
    return marker is not None and marker.kwargs.get("loop_scope", "function") != "function"


def _was_interrupted(config: pytest.Config) -> bool:
    return config.stash.get(_interrupted, False)


class _Skips:
    """Turns skipped tests into a failure of the run; in xdist's controller, which sees all reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that was skipped; an expected failure is not."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._reasons[report.nodeid] = _reason(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that was skipped as a whole."""
        if report.skipped:
            self._reasons[report.nodeid] = _reason(report)

    def pytest_keyboard_interrupt(self) -> None:
        self._config.stash[_interrupted] = True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if _in_ci() and self._reasons and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List what made a run in CI fail."""
        if _in_ci() and self._reasons:
            terminalreporter.section("skipped, which is a failure in CI", red=True)
            for test, reason in self._reasons.items():
                terminalreporter.line(f"{test}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    # No deadline: a busy machine is no failure.
    settings.register_profile("quick", max_examples=25, deadline=None)
    settings.register_profile("thorough", max_examples=100, deadline=None)
    settings.load_profile("thorough" if _in_ci() else "quick")
    config.pluginmanager.register(_Skips(config), "skips")


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
