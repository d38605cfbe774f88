"""Shards that make no whole session: missing, killed, interrupted, of different plans."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from trafficlight.cli.merge import command
from trafficlight.errors import UsageError
from trafficlight.results.catalog import read_durations, session_in
from trafficlight.results.events import CaseElsewhere, CaseWaits, Problem, SessionStarted
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.history.changes import read_changes
from trafficlight.results.history.index import History
from trafficlight.results.journal import read_events
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.junit import JunitDocument
from trafficlight.results.writer import ResultsWriter

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab

CASES = ["A", "B", "C", "D"]
#: The shard of every case.
WHERE = {"A": 1, "B": 2, "C": 3, "D": 2}


class Shards:
    """Writes the folders of shards, as sessions would."""

    def __init__(self, root: Path, lab_of: "Callable[[ResultsFolder], Lab]") -> None:
        self.root = root
        self._lab_of = lab_of

    def write(
        self,
        number: int,
        ends: str = "success",
        *,
        where: Mapping[str, int] = WHERE,
        killed: bool = False,
        folder: str = "",
        problem: str = "",
        request: dict[str, Any] | None = None,
        **started: Any,
    ) -> Path:
        """Write the session of a shard into a results folder of its own, and return that.

        :param ends: how its cases end; empty if they wait.
        """
        root = self.root / (folder or f"shard-{number}")
        results = ResultsFolder.create(root, date(2026, 11, 21))
        if request is not None:
            results.write_request(request, resumable=False)
        lab = self._lab_of(results)
        lab.clock.elapsed += 100 * number
        writer = ResultsWriter(results, SessionRecord())
        lab.read_along(writer)
        lab.start(**{"host": f"lab-{number}", "shard": (number, 3), **started})
        if problem:
            lab.append(Problem(file="x_test.py", problem=problem))
        mine = []
        for name, shard in where.items():
            id = f"t_test.py::T[alice={name}]"
            if shard == number:
                mine.append(lab.plan({"alice": name}, {}, suite="t_test.py::T", case=id))
            else:
                lab.append(CaseElsewhere(case=id, suite="t_test.py::T", clients={"alice": name}, shard=shard))
        for case in mine:
            if ends:
                lab.run(case, ends)
        if killed and not ends:
            lab.prepare(mine[0])
        if not ends and not killed:
            lab.append(CaseWaits(cases=tuple(mine), reason="interrupted by SIGTERM"))
        if not killed:
            lab.end(exit_code=0 if ends else 130, interrupted=not ends)
        writer.close()
        (root / "latest").unlink()  # an artifact of CI keeps no links
        return root

    def merge(self, *folders: Path) -> Result:
        arguments = [*map(str, folders), "--results", str(self.root / "merged")]
        return CliRunner().invoke(command, arguments, standalone_mode=False)

    def merged(self) -> SessionRecord:
        return SessionRecord.replay(read_events(self.root / "merged" / "latest" / "events.jsonl"))


@pytest.fixture
def shards(tmp_path: Path, lab_of: "Callable[[ResultsFolder], Lab]") -> Shards:
    return Shards(tmp_path, lab_of)


def outcomes(record: SessionRecord) -> list[str]:
    return [case.outcome.value for case in record.cases.values()]


def test_the_merged_session_says_where_its_shards_ran(shards: Shards) -> None:
    result = shards.merge(*(shards.write(number, problem="does not import") for number in (3, 1, 2)))

    assert result.return_value == 3, "because of the problem"
    record = shards.merged()
    assert [case.clients["alice"] for case in record.cases.values()] == CASES
    assert outcomes(record) == ["success"] * 4
    assert (record.host, record.user) == ("lab-1, lab-2, lab-3", "kim")
    assert record.versions == {"trafficlight": "0.1.0", "python": "3.11.7"}
    assert [problem.file for problem in record.problems] == ["x_test.py"], "each shard had it"
    assert record.planned == 4
    assert record.seconds > 200, "from the start of the first to the end of the last"
    assert not any(isinstance(event, CaseElsewhere) for event in read_events(_log(shards)))
    (started,) = (event for event in read_events(_log(shards)) if isinstance(event, SessionStarted))
    assert started.shard is None


def _log(shards: Shards) -> Path:
    return shards.root / "merged" / "latest" / "events.jsonl"


def test_a_merged_session_is_not_compared_with_its_shards(shards: Shards) -> None:
    folders = [shards.write(number, "failure", folder="merged") for number in (1, 2, 3)]
    sessions = sorted(folders[0].glob("2026-11-21--*"))

    shards.merge(*sessions)

    assert len(sessions) == 3
    assert outcomes(shards.merged()) == ["failure"] * 4
    assert read_changes(shards.root / "merged" / "latest") is None, "nothing ran before"


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_case_counts_once_in_the_history(shards: Shards, rebuilt: bool) -> None:
    for number in (1, 2, 3):
        shards.write(number, "failure", folder="merged", commit="a" * 40, job="https://ci.example/7")
    sessions = sorted((shards.root / "merged").glob("2026-11-21--*"))
    history = History(shards.root / "merged")
    history.update()
    assert [one.session for one in history.of_case("t_test.py::T[alice=A]").past] == [sessions[0].name]

    shards.merge(*sessions)
    shards.merge(*sessions)  # the job was run again
    if rebuilt:
        (shards.root / "merged" / "history.sqlite").unlink()
        history.update()

    (past,) = history.of_case("t_test.py::T[alice=A]").past
    merged = set((shards.root / "merged").glob("20*--*")).difference(sessions)
    assert len(merged) == 2
    assert past.session == max(merged).name, "the newest counts"
    assert past.revision == "a" * 12
    assert len(history.of_case("t_test.py::T[alice=D]").past) == 1
    record = shards.merged()
    assert (record.commit, record.dirty, record.job) == ("a" * 40, False, "https://ci.example/7")


def test_a_merge_that_fails_leaves_nothing(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [shards.write(number) for number in (1, 2, 3)]
    shards.merge(*folders)
    before = sorted(os.listdir(shards.root / "merged"))

    with monkeypatch.context() as patch:
        patch.setattr(JunitDocument, "to_bytes", lambda *_: 1 / 0)
        assert isinstance(shards.merge(*folders).exception, ZeroDivisionError)
    assert sorted(os.listdir(shards.root / "merged")) == before
    (past,) = History(shards.root / "merged").of_case("t_test.py::T[alice=A]").past
    assert past.session == (shards.root / "merged" / "latest").resolve().name

    shards.merge(*folders)
    merged = (shards.root / "merged" / "latest").resolve()
    assert merged.name.endswith("--002")
    junit = (merged / "junit.xml").read_text()
    assert f"/{merged.name}/cases/" in junit
    assert f"/.{merged.name}" not in junit


def test_a_missing_shard(shards: Shards) -> None:
    (shards.root / "shard-2").mkdir()
    result = shards.merge(shards.write(1), shards.root / "shard-2", shards.write(3))

    assert f"there is no session in {shards.root / 'shard-2'}" in result.output
    assert "error  the results are incomplete: shard 2/3 is missing" in result.output
    assert "not run  2 cases: shard 2/3 is missing" in result.output
    record = shards.merged()
    assert outcomes(record) == ["success", "not run", "success", "not run"]
    assert result.return_value == record.exit_code == 3
    junit = (_log(shards).parent / "junit.xml").read_text()
    assert "2 cases have no verdict: shard 2/3 is missing" in junit
    assert "alice=D" in (_log(shards).parent / "rerun-failed.yml").read_text()
    assert json.loads((_log(shards).parent / "session.json").read_text())["exit_code"] == 3


def test_a_missing_shard_without_cases_is_not_missed(shards: Shards) -> None:
    where = {"A": 1, "B": 2}
    result = shards.merge(shards.write(1, where=where), shards.write(2, where=where))

    assert "shard 3/3" not in result.output
    assert (result.return_value, shards.merged().incomplete) == (0, "")


def test_a_killed_shard(shards: Shards) -> None:
    result = shards.merge(shards.write(1), shards.write(2, "", killed=True), shards.write(3, "failure"))

    record = shards.merged()
    assert outcomes(record) == ["success", "error", "failure", "not run"]
    assert record.cases["t_test.py::T[alice=B]"].message == "interrupted: shard 2/3 did not end"
    assert "the results are incomplete: shard 2/3 did not end" in result.output
    assert record.exit_code == 1


def test_an_interrupted_shard(shards: Shards) -> None:
    shards.merge(shards.write(1), shards.write(2, ""), shards.write(3))

    record = shards.merged()
    assert (record.interrupted, record.exit_code) == (True, 130)
    assert outcomes(record) == ["success", "not run", "success", "not run"]
    assert record.cases["t_test.py::T[alice=B]"].reason == "interrupted by SIGTERM"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"shard": (2, 4)}, "its number of shards is 4, not 3"),
        ({"shard": None}, "is of a session without --shard"),
        ({"versions": {"trafficlight": "0.2.0"}}, "its version is '0.2.0', not '0.1.0'"),
        ({"seed": 8}, "its seed is 8, not 7"),
        ({"request": {"keyword": "x", "shard": [2, 3]}}, "its keyword is 'x', not ''"),
        ({"where": {**WHERE, "E": 2, "F": 1}}, "it has the case t_test.py::T[alice=E] and 1 more"),
        ({"where": {"A": 1, "B": 2}}, "it lacks the case t_test.py::T[alice=C] and 1 more"),
        (
            {"where": {**WHERE, "A": 2}},
            "t_test.py::T[alice=A] is in shard 2, not 1: pass the same --durations",
        ),
    ],
)
def test_shards_of_different_plans_are_refused(shards: Shards, other: dict[str, Any], message: str) -> None:
    first = shards.write(1, request={"keyword": "", "shard": [1, 3]})
    result = shards.merge(first, shards.write(2, **other))

    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert not (shards.root / "merged").exists()


def test_checkouts_may_be_in_different_places(shards: Shards) -> None:
    folders = [shards.write(number, request={"targets": [f"/builds/{number}/tests"]}) for number in (1, 2, 3)]

    assert shards.merge(*folders).return_value == 0
    assert outcomes(shards.merged()) == ["success"] * 4


def test_a_shard_that_is_there_twice_is_refused(shards: Shards) -> None:
    result = shards.merge(shards.write(1), shards.write(1, folder="again"))

    assert "are both shard 1/3: name one" in str(result.exception)


def test_what_is_no_shard(shards: Shards, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no folder has a session" in str(shards.merge(tmp_path / "empty").exception)
    assert "there is no folder" in str(shards.merge(tmp_path / "gone").exception)


def test_the_newest_session_of_a_results_folder_counts(shards: Shards) -> None:
    root = shards.write(1)
    shards.write(1, "failure", folder="shard-1")
    session = session_in(root)

    assert session is not None
    assert session.name == "2026-11-21--002"
    assert read_durations(session / "events.jsonl") == {"t_test.py::T[alice=A]": 2.4}
