"""The heat map: what it counts, what its cells mean as queries, and what it folds."""

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

import pytest

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.events import CaseCancelled
from trafficlight.results.history.statistics import CaseHistory, Past
from trafficlight.results.history.verdicts import CaseVerdict
from trafficlight.results.reports.filter import matching
from trafficlight.results.reports.heatmap import OPTIONS, HeatMap, Layout, View, heat_map
from trafficlight.results.reports.presentation import MARKS

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab

WEB = ("ElementWebStable", "ElementWebDevelop", "ElementIos")


def _planned(lab: "Lab") -> list[CaseRecord]:
    """Cases of zero to three clients and homeservers, in folders of folders."""
    for alice, bob, server in product(WEB, (*WEB, "Nio"), ("Synapse", "Dendrite")):
        lab.plan({"alice": alice, "bob": bob}, {"server": server}, suite="chat/a_test.py::A")
    lab.plan({"caller": "Nio", "callee": "Nio(x=1)"}, {"server": "Synapse"}, suite="chat/deep/a_test.py::A")
    lab.plan({"alice": "Nio", "bob": "Nio"}, {"here": "Synapse", "there": "Synapse"}, suite="b_test.py::B")
    for kind in (*WEB, "Nio"):
        lab.plan({"a": "ElementWebStable", "b": kind, "c": "Nio"}, suite="chat/a_test.py::A.three")
        lab.plan({"alice": kind}, {"server": "Dendrite"}, suite="chat/deep/a_test.py::One")
    lab.plan({}, {}, suite="b_test.py::Plain")
    return list(lab.record.cases.values())


def _map(lab: "Lab", *words: str, changes: dict[str, str] | None = None) -> HeatMap:
    return heat_map(list(lab.record.cases.values()), View.of(words), over=True, changes=changes)


@pytest.mark.parametrize("by", ["clients", "tests"])
@pytest.mark.parametrize("options", [(), ("families",), ("folders", "families"), ("transposed",)])
def test_every_cell_and_every_head_means_its_cases(lab: "Lab", by: str, options: tuple[str, ...]) -> None:
    cases = _planned(lab)
    shown = _map(lab, by, *options)
    seen = 0
    for table in shown.tables:
        for (row, column), cell in table.cells.items():
            assert len(matching(cases, cell.query, {}, over=True)) == cell.number, cell.query
            seen += cell.number * (not (row.total or column.total) or "folders" in options)
        for head in (*table.rows, *table.columns):
            numbers = [
                cell.number
                for heads, cell in table.cells.items()
                if head in heads
                and (head.total or "folders" in options or not any(one.total for one in heads))
            ]
            query = f"{head.query} {table.query}".strip()
            assert len(matching(cases, query, {}, over=True)) == sum(numbers), query
    assert seen == len(cases)


def test_shares_marks_and_the_scale(lab: "Lab") -> None:
    lab.start()
    for bob, states in {"Web": ("success", "failure", "error", "success"), "Nio": ("success",) * 3}.items():
        for number, state in enumerate(states):
            case = lab.plan({"alice": "Nio", "bob": bob}, parameters={"n": number})
            lab.run(case, state, "no message", seconds=1 + number)
    lab.plan({"alice": "Web", "bob": "Nio"})
    (table,) = _map(lab).tables
    web, nio, waiting = table.cells.values()
    assert (web.mark, web.text, web.level, web.number) == ("✗", "50 %", 5, 4)
    assert web.tip.startswith("Nio, Web: 1 failure, 1 error, 2 success · median 1.0 s")
    assert (nio.mark, nio.text, nio.level) == ("✓", "100 %", 0)
    assert (waiting.mark, waiting.text, waiting.level) == ("·", "", None)
    (table,) = _map(lab, "p95").tables
    assert [(cell.text, cell.level) for cell in table.cells.values()] == [
        ("4.0 s", 2),
        ("3.0 s", 0),
        ("", None),
    ]
    (table,) = _map(lab, "changed", changes={web.case: "new", nio.case: "fixed"}).tables
    assert [cell.text for cell in table.cells.values()] == ["1 new", "1 fixed", "="]
    assert [row.name for row in _map(lab, "failed").tables[0].rows] == ["Nio"]


def test_measures_count_earlier_sessions(lab: "Lab") -> None:
    lab.start()
    case, new = (lab.plan({"alice": "Nio", "bob": bob}) for bob in ("Web", "Nio"))
    lab.run(case, seconds=9.0)
    lab.run(new, seconds=1.0)
    outcomes = [Outcome.FAILURE, Outcome.SUCCESS, Outcome.SUCCESS]  # newest first: it failed once
    past = [Past("", "", None, "", CaseVerdict(case, outcome, seconds=2.0)) for outcome in outcomes]
    before = {case: CaseHistory(past)}

    def shown(measure: str, before: Mapping[str, CaseHistory] = before, problem: str = "") -> HeatMap:
        cases = list(lab.record.cases.values())
        return heat_map(cases, View.of(["clients", measure]), over=True, before=before, problem=problem)

    (flaky, never) = shown("flaky").tables[0].cells.values()
    assert (flaky.text, flaky.mark, never.text, never.mark) == ("25 %", MARKS["flaky"], "0 %", "")
    assert "1 flake in 4 verdicts: with a confidence of 95 %, 5 to 70 %" in flaky.tip
    assert [cell.text for cell in shown("p50").tables[0].cells.values()] == ["2.0 s", "1.0 s"]
    assert [cell.text for cell in shown("p95").tables[0].cells.values()] == ["9.0 s", "1.0 s"]
    tip = next(iter(shown("p95").tables[0].cells.values())).tip
    assert "median 9.0 s · with earlier sessions median 2.0 s, 95th percentile 9.0 s, of 3" in tip
    assert shown("p50").notes == shown("succeeds", {}).notes == []
    assert shown("p50", {}).notes == ["This session only: its cases have no earlier verdicts."]
    assert shown("changed", {}, "it is locked").notes == ["This session only: it is locked."]


def test_a_case_that_a_user_cancelled_is_no_flake(lab: "Lab") -> None:
    lab.start()
    case = lab.plan()
    lab.prepare(case)
    lab.append(CaseCancelled(case=case, attempt=1, reason="enough"))
    lab.end_case(case, "error", "enough")
    (table,) = _map(lab, "flaky").tables
    assert table.cells
    for cell in table.cells.values():
        assert (cell.status, cell.value, cell.level, cell.text) == ("error", None, None, "")


def test_what_is_too_much_is_folded_and_what_is_left_out_is_counted(
    lab: "Lab", monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = _planned(lab)
    monkeypatch.setattr("trafficlight.results.reports.heatmap._CELLS", len(cases) - 1)
    monkeypatch.setattr("trafficlight.results.reports.heatmap._COLUMNS", 3)
    shown = _map(lab, "tests")
    assert "folders" in shown.view.options
    assert shown.asked.options == frozenset()
    assert {row.name for table in shown.tables for row in table.rows} == {"b_test.py", "chat/", "chat/deep/"}
    assert "more columns" in shown.tables[0].left_out
    assert "a click on a folder" in shown.notes[0]


@pytest.mark.parametrize("words", [(), ("tests", "transposed"), ("p95",)])
def test_a_later_map_makes_only_the_cells_whose_cases_changed(lab: "Lab", words: tuple[str, ...]) -> None:
    cases = _planned(lab)
    lab.start()
    view = View.of(words)
    known: list[Layout] = []
    before = heat_map(cases, view, over=False, known=known)
    for case, state in ((cases[-1].id, "success"), (cases[0].id, "failure"), (cases[0].id, "success")):
        lab.run(case, state, "no message")
        later = heat_map(cases, view, over=False, known=known)
        fresh = heat_map(cases, view, over=False)
        assert [(one.name, list(one.cells.values())) for one in later.tables] == [
            (one.name, list(one.cells.values())) for one in fresh.tables
        ]
        kept = {id(cell) for table in before.tables for cell in table.cells.values()}
        made = [c for table in later.tables for c in table.cells.values() if id(c) not in kept]
        assert "p95" in words or 1 <= len(made) <= 2
        before = later
    over = heat_map(cases, view, over=True, known=known).tables[0].cells.values()
    assert "waiting" not in {cell.status for cell in over}
    (table,) = heat_map(cases[:1], view, over=True, known=known).tables
    assert {cell.case for cell in table.cells.values()} == {cases[0].id}, "of other cases"


def test_words_of_an_address() -> None:
    view = View.of(["tests", "p95", "failed", "bogus", "families"])
    assert View.of(view.words) == view
    assert View.of([]).words == []
    assert set(OPTIONS) >= view.options == {"failed", "families"}
