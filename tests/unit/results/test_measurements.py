"""Measurements: what is said of them, how they are drawn, and what earlier sessions measured."""

import math
import re
from statistics import median
from typing import TYPE_CHECKING

import pytest

from trafficlight.results.case import AttemptRecord, Outcome
from trafficlight.results.events import Log, Measurement, NetworkChanged, Returned, ServiceChanged
from trafficlight.results.history.statistics import CaseHistory, Past
from trafficlight.results.history.verdicts import CaseVerdict, Series
from trafficlight.results.reports.html import report_html
from trafficlight.results.reports.measurements import Measured, Plot, measured
from trafficlight.results.reports.timeline import render_timeline, steps

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


def _case(lab: "Lab") -> str:
    lab.start()
    case = lab.plan()
    lab.prepare(case)
    return case


def _measure(lab: "Lab", case: str, *values: float, name: str = "latency", every: float = 1.0) -> None:
    for value in values:
        lab.clock.elapsed += every
        lab.append(Measurement(case=case, attempt=1, name=name, value=value, unit="s"))


def _attempt(lab: "Lab", case: str) -> AttemptRecord:
    (attempt,) = lab.record.cases[case].attempts
    return attempt


def _plot(found: Measured) -> Plot:
    assert found.plot is not None
    return found.plot


def _numbers(path: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"(\d+) (\d+)", path)]


def _past(*values: float, unit: str = "s") -> list[Past]:
    """An earlier session, in which these values were measured, if there are any."""
    number, p50 = len(values), median(values) if values else 0.0
    series = [Series("latency", unit, number, p50, max(values))] if values else []
    verdict = CaseVerdict("c", Outcome.SUCCESS, measurements=tuple(series))
    return [Past("", "2026-11-20--001", None, "", verdict)]


@pytest.mark.parametrize(
    ("values", "was", "said"),
    [
        ([0.041], [], ("0.041 s", "", "")),
        ([0.041], [0.038], ("0.041 s", "0.038 s", "")),
        ([1234.5], [1.0, 2.0, 4.0], ("1,234 s", "p50 2 s", "")),
        ([3, 1, 2], [5.0], ("p50 2 s", "5 s", "p95 3 s, was 5 s; 3, 1, 2")),
        (range(1, 101), [], ("p50 50.5 s", "", "p95 95 s; 1 s to 100 s, 100 values")),
        ([math.nan, 1.0], [], ("p50 nan s", "", "p95 nan s; nan, 1")),
    ],
)
def test_what_is_said_of_values(
    lab: "Lab", values: list[float], was: list[float], said: tuple[str, str, str]
) -> None:
    case = _case(lab)
    _measure(lab, case, *values)
    (found,) = measured(_attempt(lab, case), _past(*was))
    assert (found.now, found.was, found.more) == said
    assert found.session == ("2026-11-20--001" if was else "")


def test_another_unit_is_another_measurement(lab: "Lab") -> None:
    case = _case(lab)
    _measure(lab, case, 1.0)
    (found,) = measured(_attempt(lab, case), _past(40.0, unit="ms"))
    assert (found.was, found.session) == ("", "")


def test_a_plot_is_over_the_time_of_its_values(lab: "Lab") -> None:
    case = _case(lab)
    _measure(lab, case, 2.0, 4.0, 3.0)
    lab.clock.elapsed += 1
    lab.end_case(case, "success", seconds=5.4)
    (found,) = measured(_attempt(lab, case))
    plot = _plot(found)
    assert (plot.begin, plot.end) == pytest.approx((2.4, 4.4))
    assert (plot.low, plot.high) == ("0", "4")
    assert _numbers(plot.line) == [(0, 500), (500, 0), (1000, 250)]
    assert plot.dots
    assert not plot.band


def test_a_value_is_drawn_when_it_was_measured(lab: "Lab") -> None:
    case = _case(lab)
    began = lab.clock.now().timestamp()
    lab.clock.elapsed += 10
    for second in (6, 2, 4):
        event = Measurement(case=case, attempt=1, name="x", value=float(second), at=began + second)
        lab.append(event)
    lab.end_case(case, "success", seconds=11.4)
    (found,) = measured(_attempt(lab, case))
    assert [x for x, _ in _numbers(_plot(found).line)] == [0, 500, 1000]


def test_thousands_of_values_are_drawn_in_bounded_space_with_their_extremes(lab: "Lab") -> None:
    case = _case(lab)
    values = [10 + number % 7 for number in range(5_000)]
    values[2_500] = 100
    _measure(lab, case, *values, every=0.001)
    lab.end_case(case, "success", seconds=6.4)
    (found,) = measured(_attempt(lab, case))
    plot = _plot(found)
    assert len(plot.line) + len(plot.band) < 8_000
    assert not plot.dots
    assert min(y for _, y in _numbers(plot.band)) == 0
    assert max(len(_numbers(plot.line)), len(_numbers(plot.band)) / 2) <= 200
    lab.end()
    assert len(report_html(lab.record)) < 60_000


def test_hundreds_of_names_are_drawn_in_bounded_space(lab: "Lab") -> None:
    case = _case(lab)
    for number in range(300):
        _measure(lab, case, 1, 2, 3, name=f"n{number}", every=0.01)
    lab.end_case(case, "success", seconds=20.0)
    found = measured(_attempt(lab, case))
    assert len(found) == 51
    assert sum(one.plot is not None for one in found) == 12
    assert (found[-1].name, found[-1].now) == ("250 more", "in measurements.json")


@pytest.mark.parametrize(
    "values", [[1, 2], [math.nan, 1, 2], [math.inf, 1, 2], [1e308, -1e308, 0], [math.nan] * 5]
)
def test_what_cannot_be_drawn_is_said(lab: "Lab", values: list[float]) -> None:
    case = _case(lab)
    _measure(lab, case, *values)
    (found,) = measured(_attempt(lab, case))
    assert found.plot is None
    assert found.now


def test_a_constant_is_a_line_in_the_middle(lab: "Lab") -> None:
    case = _case(lab)
    _measure(lab, case, 0, 0, 0)
    (found,) = measured(_attempt(lab, case))
    assert {y for _, y in _numbers(_plot(found).line)} == {500}


def test_faults_are_shaded(lab: "Lab") -> None:
    case = _case(lab)

    def change(rule: str, *, active: bool, role: str | None = "alice") -> None:
        lab.append(NetworkChanged(case=case, attempt=1, role=role, rule=rule, active=active))

    change("intercept /sync", active=True)  # that watches, and breaks nothing
    _measure(lab, case, 1, 2)
    change("offline", active=True)
    change("block /sync with 503", active=True, role="bob")
    change("delay /sync by 1 s", active=True)
    _measure(lab, case, 3, 4)
    change("offline", active=False)
    change("delay /sync by 1 s: 2 matched", active=False)
    change("pause Sender-1 on a", active=True, role=None)
    _measure(lab, case, 1)
    change("pause Sender-1 on a", active=False, role=None)
    lab.clock.elapsed += 5
    lab.end_case(case, "failure", seconds=11.4)
    lab.end()
    (found,) = measured(_attempt(lab, case))
    plot = _plot(found)
    assert [(one.name, left, left + width) for one, left, width in plot.shades] == [
        ("alice: offline", 111, 333),
        ("alice: delay /sync by 1 s", 111, 333),
        ("pause Sender-1 on a", 333, 444),
        ("bob: block /sync with 503", 111, 1000),
    ]
    report = report_html(lab.record).decode()
    assert '<rect class="fault" x="111" width="222"' in report
    assert "alice: offline, 3.4 s to 5.4 s" in report


def test_faults_stay_in_a_long_timeline(lab: "Lab") -> None:
    case = _case(lab)
    for number in range(4_000):
        if number in (1_500, 2_500):
            active = number == 1_500
            lab.append(NetworkChanged(case=case, attempt=1, role="bob", rule="offline", active=active))
        lab.append(Log(case=case, attempt=1, message="x"))
    attempt = _attempt(lab, case)
    assert attempt.dropped > 2_000
    assert sum(isinstance(event, NetworkChanged) for event in attempt.timeline) == 2


def test_a_report_says_what_earlier_sessions_measured(lab: "Lab") -> None:
    case = _case(lab)
    _measure(lab, case, 0.041, 0.052)
    lab.end_case(case, "failure", seconds=2.4)
    lab.end()
    before = {case: CaseHistory([*_past(0.038, 0.05), *_past(), *_past(0.03, 0.04)])}

    report = report_html(lab.record, before=before).decode()

    assert "p50 0.0465 s, was 0.044 s in 2026-11-20--001" in report
    assert "p95 0.052 s, was 0.05 s" in report
    assert "p50 0.0465 against 0.0395, p95 0.052 against 0.045 s in 2 earlier sessions" in report
    assert 'aria-label="p50 in 3 sessions, oldest first: 0.035, 0.044, 0.0465 s"' in report
    assert "against" not in report_html(lab.record).decode()


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (Returned(result={"value": {"sent": 3, "by": "<alice>"}}), '{"sent": 3, "by": "<alice>"}'),
        (Returned(result={"value": False}), "false"),
        (Returned(result={}, problem="it is not JSON: a set"), "lost: it is not JSON: a set"),
    ],
)
def test_what_a_test_returned_is_shown(lab: "Lab", event: Returned, shown: str) -> None:
    case = _case(lab)
    lab.append(Returned(case=case, attempt=1, result=event.result, problem=event.problem))
    lab.end_case(case, "success")
    lab.end()
    text = report_html(lab.record).decode()
    assert shown.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;") in text


def test_what_a_service_does_is_one_step_with_its_duration(lab: "Lab") -> None:
    case = _case(lab)

    def change(what: str, seconds: float, problem: str = "") -> None:
        lab.clock.elapsed += seconds
        event = ServiceChanged(
            case=case, attempt=1, service="Sender-1", what=what, nodes=("a", "b"), problem=problem
        )
        lab.append(event)

    for what, seconds, problem in (
        ("start", 0, ""),
        ("started", 2, ""),
        ("stop", 1, ""),
        ("stop", 3, "a: it is gone"),
        ("collect", 0, "sender.log: does not exist"),
        ("start", 0, ""),
    ):
        change(what, seconds, problem)
    found = [step for step in steps(_attempt(lab, case)) if step.kind == "service"]
    assert [(step.what, step.seconds, step.outcome, step.detail) for step in found] == [
        ("start", pytest.approx(2), "ok", "a, b"),
        ("stop", pytest.approx(3), "failed", "a: it is gone"),
        ("collect", None, "failed", "sender.log: does not exist"),
        ("start", None, "open", "a, b"),
    ]
    assert "Sender-1: stop  FAILED  3.000 s  a: it is gone" in render_timeline(_attempt(lab, case))
