"""Reports a session to Kiwi TCMS: a test run with one execution per case."""

import hashlib
import logging
from typing import Any

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.record import SessionRecord
from trafficlight.text import escape_control, truncate_middle

logger = logging.getLogger(__name__)

_STATUS = {
    Outcome.SUCCESS: "PASSED",
    Outcome.FLAKY: "PASSED",
    Outcome.UNEXPECTED_SUCCESS: "PASSED",
    Outcome.EXPECTED_FAILURE: "WAIVED",
    Outcome.SKIPPED: "WAIVED",
    Outcome.FAILURE: "FAILED",
    Outcome.ERROR: "ERROR",
    Outcome.NOT_RUN: "BLOCKED",
    Outcome.RUNNING: "BLOCKED",
}
_LONGEST_SUMMARY = 255  # characters: the column in Kiwi's database
_LONGEST_COMMENT = 16 * 1024  # bytes


class KiwiReporter:
    """A reporter on ``tcms-api`` (the extra ``trafficlight[kiwi]``).

    Like every Kiwi client it takes the URL and credentials from ``~/.tcms.conf``, and product, version and
    build from the environment (``TCMS_PRODUCT``, ...), so the settings contain no password.

    :param prefix: prepended to the names of plans and runs.
    """

    def __init__(self, prefix: str = "[trafficlight]") -> None:
        from tcms_api.plugin_helpers import Backend  # an optional dependency

        self._backend: Any = Backend(prefix=prefix)
        self._connected = False
        self._reported: set[str] = set()

    def session_started(self, record: SessionRecord) -> None:
        """Connect, and find or create the test plan and the test run."""
        self._backend.configure()
        self._connected = True

    def case_ended(self, case: CaseRecord) -> None:
        """Record the verdict of a case."""
        if not self._connected:
            return
        self._reported.add(case.id)
        entry, _ = self._backend.test_case_get_or_create(_summary(case.id))
        self._backend.add_test_case_to_plan(entry["id"], self._backend.plan_id)
        status = self._backend.get_status_id(_STATUS[case.outcome])
        over = case.ended
        started = over[-1].started if over else None
        ended = over[-1].ended if over else None
        for execution in self._backend.add_test_case_to_run(entry["id"], self._backend.run_id):
            # The wire has no time zones; Kiwi keeps UTC.
            self._backend.update_test_execution(
                execution["id"],
                status,
                _comment(case),
                started.replace(tzinfo=None, microsecond=0) if started else None,
                ended.replace(tzinfo=None, microsecond=0) if ended else None,
            )

    def session_ended(self, record: SessionRecord) -> None:
        """Record the cases that did not run, and close the test run."""
        if not self._connected:
            logger.error("session %s was not reported to Kiwi TCMS: no connection", record.id)
            return
        for case in record.cases.values():
            if case.id not in self._reported:
                self.case_ended(case)
        self._backend.finish_test_run()


def _summary(case_id: str) -> str:
    name = escape_control(case_id)
    if len(name) <= _LONGEST_SUMMARY:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: _LONGEST_SUMMARY - 13]}~{digest}"


def _comment(case: CaseRecord) -> str:
    traceback = case.ended[-1].traceback if case.ended else ""
    expected = f"expected: {case.expected.reason} {case.expected.link}" if case.expected else ""
    parts = [
        case.outcome if case.outcome is not Outcome.SUCCESS else "",
        expected,
        case.message or case.reason,
    ]
    text = "\n\n".join(part for part in (*parts, traceback) if part)
    return truncate_middle(escape_control(text), _LONGEST_COMMENT)
