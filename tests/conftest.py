"""What holds for all tests: in CI none may be skipped, because a skipped test proves nothing there."""

import os
from collections.abc import Generator

import pytest

# Reasons of skipped tests and modules, by their id.
_skipped: pytest.StashKey[dict[str, str]] = pytest.StashKey()


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
