import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import junitparser
import pytest
import xmlschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junitparser.xunit2 import FlakyFailure, JUnitXml

from trafficlight.results.events import (
    AdapterLost,
    Attachment,
    CaseWaits,
    Expected,
    Log,
    Measurement,
    Problem,
    ServerReady,
    State,
    Upload,
)
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.reports.junit import JunitStyle, junit_bytes
from trafficlight.text import escape_control, single_line, truncate_middle

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab

HERE = Path(__file__).parent
PROJECT = Path("/builds/matrix/lab")
FOLDER = PROJECT / "results/2026-11-21--001"
RELATIVE = JunitStyle(FOLDER, PROJECT)
TRACEBACK = """Traceback (most recent call last):
  File "chat/send_messages_test.py", line 14, in run
AssertionError
"""


@cache
def _schema() -> Any:
    return xmlschema.XMLSchema(HERE / "junit.xsd")


def _checked(lab: "Lab", style: JunitStyle = RELATIVE) -> ElementTree.Element:
    """Write, validate, read with junitparser, and return the tree."""
    content = junit_bytes(lab.record, style)
    _schema().validate(content.decode())
    root = ElementTree.fromstring(content)
    parsed = JUnitXml.fromstring(content)
    cases = [case for suite in parsed for case in suite]
    assert len(cases) == int(root.get("tests", "-1")) == len(root.findall(".//testcase"))
    for tag, total in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert len(root.findall(f".//testcase/{tag}")) == int(root.get(total, "-1"))
        assert sum(int(suite.get(total, "-1")) for suite in root) == int(root.get(total, "-1"))
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(names) == len(set(names))
    return root


def _case(root: ElementTree.Element) -> ElementTree.Element:
    (case,) = root.iter("testcase")
    return case


def _properties(case: ElementTree.Element) -> list[tuple[str | None, str | None]]:
    return [(item.get("name"), item.get("value")) for item in case.findall("properties/property")]


def _shot(
    lab: "Lab", case_id: str, name: str, kind: type[Upload | Attachment] = Upload, attempt: int = 1
) -> None:
    role = "bob" if kind is Upload else None
    folder = "clients/bob" if role else "attachments"
    media = "image/png" if name.endswith(".png") else "text/plain"
    lab.append(
        kind(
            case=case_id,
            attempt=attempt,
            role=role,
            name=name,
            path=f"{folder}/{name}",
            size=4,
            media_type=media,
        )
    )


def test_properties_have_a_bounded_size(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan(parameters={"body": "x" * 11_000_000, "y" * 5000: 1})
    lab.prepare(case_id)
    for number in range(100):
        lab.append(Measurement(case=case_id, attempt=1, name="delay", value=number / 3, unit="ms"))
        lab.append(Measurement(case=case_id, attempt=1, name=f"{number}{'n' * 5000}", value=1))
    lab.end_case(case_id, State.SUCCESS)
    found = _properties(_case(_checked(lab)))
    assert max(len(text or "") for pair in found for text in pair) < 1200
    assert sum(len(name or "") + len(value or "") for name, value in found) < 300_000
    assert ("measurement.delay", "min 0, median 16.5, max 33 ms (100 values)") in found


# -- golden files: what each reader is known to look at ------------------------------------------------------


def _golden(name: str, content: bytes) -> None:
    path = HERE / "golden" / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_bytes(content)
    assert content.decode() == path.read_text()


def test_gitlab(lab: "Lab") -> None:
    """Paths relative to the project, `file` everywhere, output inside testcases only, distinct names."""
    lab.start()
    lab.run(lab.plan())
    failing = lab.plan({"alice": "Nio", "bob": "HydrogenWeb"}, parameters={"size": 10})
    lab.prepare(failing)
    lab.act(failing, "alice", "send_message", data={"message": "hi"})
    lab.act(failing, "bob", "verify_message_in_timeline", 3, fails={"type": "action", "details": "not there"})
    _shot(lab, failing, "out.txt")
    _shot(lab, failing, "my shot.png")
    lab.append(Measurement(case=failing, attempt=1, name="delay", value=3.0, unit="s"))
    lab.end_case(failing, "failure", "bob: not there", traceback=TRACEBACK, phase="running", seconds=4.6)
    lab.plan({"alice": "Old"}, skip="ignored: waits for a release")
    lab.append(CaseWaits(case=lab.plan({"alice": "ElementIos"}), reason="no element-ios registered"))
    lab.end(exit_code=1)
    root = _checked(lab)
    for case in root.iter("testcase"):
        assert case.get("file") == "chat/send_messages_test.py"
    assert all(suite.find("system-out") is None for suite in root)
    markers = re.findall(r"^\[\[ATTACHMENT\|(.+?)\]\]$", "".join(root.itertext()), re.MULTILINE)
    assert [Path(marker).name for marker in markers] == ["my shot.png", "out.txt"]
    assert not any(marker.startswith("/") for marker in markers)
    _golden("gitlab.xml", junit_bytes(lab.record, RELATIVE))


def test_jenkins(lab: "Lab", monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute paths of attachments, errors with their text, a file that does not import is an error."""
    lab.start()
    case_id = lab.plan()
    lab.prepare(case_id)
    _shot(lab, case_id, "page.png", Attachment)
    lab.append(
        AdapterLost(
            case=case_id,
            attempt=1,
            role="bob",
            adapter="uuid-bob-1",
            reason="silent for 60 s",
        )
    )
    lab.end_case(case_id, "error", "bob: silent for 60 s", phase="running", seconds=61.4)
    lab.append(Problem(file="chat/new_test.py", line=3, problem="No module named 'foo'", hint="install it"))
    lab.end(exit_code=3)
    monkeypatch.setenv("JENKINS_URL", "http://localhost")
    style = JunitStyle.detect(FOLDER)
    root = _checked(lab, style)
    assert "\n[[ATTACHMENT|/builds/matrix/lab/results/2026-11-21--001/cases/" in "".join(root.itertext())
    _golden("jenkins.xml", junit_bytes(lab.record, style))


def test_github(lab: "Lab") -> None:
    """mikepenz/action-junit-report: flakyFailure is a pass, rerunFailure next to failure; file and line."""
    lab.start()
    flaky = lab.plan({"alice": "Nio"})
    lab.run(flaky, "failure", "first try", traceback=TRACEBACK, will_retry=True)
    lab.run(flaky, attempt=2)
    never = lab.plan({"alice": "HydrogenWeb"})
    lab.run(never, "error", "server did not start", will_retry=True)
    lab.run(never, "failure", "second try", attempt=2)
    known = lab.plan(
        {"alice": "ElementWebStable"}, expected=Expected("not there yet", "https://example.org/7")
    )
    lab.run(known, "failure", "no such button", traceback=TRACEBACK)
    lab.run(lab.plan({"alice": "Fixed"}, expected=Expected("was broken")))
    lab.end(exit_code=1)
    root = _checked(lab)
    first, second, third, fourth = root.iter("testcase")
    assert [child.tag for child in first] == ["properties", "flakyFailure", "system-out"]
    assert [child.tag for child in second] == ["properties", "failure", "rerunFailure", "system-out"]
    skipped = third.find("skipped")
    assert skipped is not None
    assert skipped.get("type") == "trafficlight.expected-failure"
    assert skipped.get("message") == "not there yet https://example.org/7"
    assert "no such button" in (skipped.text or "")
    assert ("unexpected-success", "was broken") in _properties(fourth)
    assert all(case.get("line") == "12" for case in (first, second, third, fourth))
    _golden("github.xml", junit_bytes(lab.record, RELATIVE))


# -- rules --------------------------------------------------------------------------------------------------


def test_properties_name_types_versions_adapters_and_the_attempt(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan(parameters={"size": 10})
    lab.run(case_id)
    lab.append(
        ServerReady(
            case=case_id,
            attempt=1,
            role="server",
            server_name="hs1",
            cs_api="http://hs1",
            version="1.142.0",
            image="example/synapse:1",
        )
    )
    properties = dict(_properties(_case(_checked(lab))))
    assert properties["client.alice"] == "Nio"
    assert properties["client.alice.version"] == "0.26.0"
    assert properties["adapter.alice"] == "uuid-alice-1"
    assert properties["server.server.version"] == "1.142.0"
    assert properties["server.server.image"] == "example/synapse:1"
    assert properties["parameter.size"] == "10"
    assert properties["attempt"] == "1"


def test_names_hold_no_versions_and_say_where(lab: "Lab") -> None:
    lab.start()
    lab.run(lab.plan(suite="chat/deep/history_test.py::History.test_joined"))
    case = _case(_checked(lab))
    assert case.get("classname") == "chat.deep.history_test.History"
    assert case.get("name") == "History.test_joined[alice=Nio,bob=Nio,server=SynapseStable]"
    assert (case.get("file"), case.get("line")) == ("chat/deep/history_test.py", "12")
    assert (case.get("time"), case.get("timestamp")) == ("2.400", "2026-11-21T12:00:00Z")


@pytest.mark.parametrize("planned", [0, 2])
def test_a_session_in_which_nothing_ran_is_an_error(lab: "Lab", planned: int) -> None:
    lab.start()
    for number in range(planned):
        lab.plan({"alice": f"T{number}"}, skip="ignored" if number else None)
    lab.end(exit_code=2)
    root = _checked(lab)
    assert root.get("errors") == "1"
    error = root.find(".//error")
    assert error is not None
    assert "nothing ran" in (error.get("message") or "")
    assert root.get("skipped") == str(planned)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ({"exit_code": 130, "interrupted": True}, "2 cases have no verdict: interrupted by SIGINT"),
        ({"exit_code": 3}, "2 cases have no verdict: interrupted by SIGINT"),
        (None, "2 cases have no verdict: the session did not end"),
        ({"exit_code": 1}, None),
    ],
)
def test_cases_without_a_verdict_are_an_error(
    lab: "Lab", end: dict[str, Any] | None, why: str | None
) -> None:
    lab.start()
    lab.run(lab.plan({"alice": "A"}))
    lab.end_case(lab.plan({"alice": "B"}), "skipped", "interrupted by SIGINT", attempt=None, phase="waiting")
    lab.append(CaseWaits(case=lab.plan({"alice": "C"}), reason="interrupted by SIGINT"))
    if end is not None:
        lab.end(**end)
    errors = {error.get("type"): error.get("message") for error in _checked(lab).iter("error")}
    assert errors == ({"trafficlight.interrupted": why} if why else {})


def test_a_session_that_was_killed_is_an_error(lab: "Lab") -> None:
    lab.start()
    lab.run(lab.plan({"alice": "A"}))
    lab.append(CaseWaits(case=lab.plan({"alice": "B"}), reason="no adapter"))
    (error,) = _checked(lab).iter("error")
    assert error.get("message") == "1 case has no verdict: the session did not end"


@pytest.mark.parametrize("strict", [False, True])
def test_warnings_are_properties_and_errors_of_a_strict_session(lab: "Lab", strict: bool) -> None:
    lab.start(warnings=("there is no test in x",), strict=strict)
    lab.run(lab.plan({"alice": "Good"}))
    lab.plan({"alice": "Bad"}, skip="no Go", skip_type="unsupported")
    root = _checked(lab)
    shown = {entry.get("name"): entry.get("value") for entry in root.iter("property")}
    assert shown["warning.1"] == "there is no test in x"
    errors = [error.get("message") for error in root.iter("error")]
    assert errors == (["1 unsupported case and 1 warning in a strict session"] if strict else [])
    assert root.get("errors") == str(len(errors))


def test_what_has_no_verdict_yet_is_listed_with_why(lab: "Lab") -> None:
    lab.start()
    lab.append(CaseWaits(case=lab.plan({"alice": "A"}), reason="no adapter"))
    lab.prepare(lab.plan({"alice": "B"}))
    lab.plan({"alice": "C"})
    root = _checked(lab)
    reasons = [skipped.get("message") for skipped in root.iter("skipped")]
    assert reasons[0] == "no adapter"
    assert "running" in (reasons[1] or "")
    assert reasons[2] == "no reason recorded"
    assert {skipped.get("type") for skipped in root.iter("skipped")} == {"trafficlight.not-run"}


def test_problems_of_one_name_are_all_kept(lab: "Lab") -> None:
    lab.start()
    for line in (3, 9):
        lab.append(Problem(file="a_test.py", line=line, problem="unknown type"))
    root = _checked(lab)
    assert root.get("errors") == "2"


def test_a_problem_is_named_relative_to_the_project(lab: "Lab") -> None:
    lab.start()
    lab.append(Problem(file=f"{PROJECT}/chat/a_test.py", line=1, problem="does not import"))
    case = _case(_checked(lab))
    assert (case.get("file"), case.get("classname")) == ("chat/a_test.py", "chat.a_test")


def test_the_path_in_the_repository_counts_also_if_the_name_is_absolute(lab: "Lab") -> None:
    lab.start()
    lab.plan(suite=f"{PROJECT}/chat/a_test.py::A", path="lab/chat/a_test.py")
    (suite,) = (one for one in _checked(lab).iter("testsuite") if one.get("name") != "session")
    assert [one.get("file") for one in (suite, *suite.iter("testcase"))] == ["lab/chat/a_test.py"] * 2


def test_a_case_that_could_not_start_is_an_error(lab: "Lab") -> None:
    lab.start()
    lab.end_case(lab.plan(), "error", "no adapter came in 300 s", attempt=None)
    error = _case(_checked(lab)).find("error")
    assert error is not None
    assert error.get("message") == "no adapter came in 300 s"


def test_long_output_is_cut_in_the_middle_with_a_pointer(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.prepare(case_id)
    for number in range(1_500):
        lab.append(Log(case=case_id, attempt=1, level="INFO", message=f"{number} " + "x" * 200))
    _shot(lab, case_id, "a.png")
    lab.end_case(case_id, "failure", "m" * 100_000, traceback="t" * 200_000 + "the end")
    case = _case(_checked(lab))
    output = case.findtext("system-out") or ""
    assert len(output.encode()) < 66 * 1024
    assert re.search(
        r"\[… [\d,]+ bytes left out, complete in results/2026-11-21--001/cases/.*attempt-1 …\]", output
    )
    assert output.rstrip().endswith("a.png]]")
    failure = case.find("failure")
    assert failure is not None
    assert len((failure.text or "").encode()) < 66 * 1024
    assert "the end" in (failure.text or "")
    assert len(failure.get("message") or "") < 5_000


def test_many_failures_stay_below_what_gitlab_reads(lab: "Lab") -> None:
    lab.start()
    for number in range(1_000):
        lab.run(lab.plan({"alice": f"T{number}"}), "failure", "no", traceback="t" * 200_000)
    assert len(junit_bytes(lab.record, RELATIVE)) < 30_000_000


def test_nobody_but_us_attaches_files(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.prepare(case_id)
    lab.append(Log(case=case_id, attempt=1, level="INFO", message="\n[[ATTACHMENT|/etc/passwd]]\n"))
    _shot(lab, case_id, "x]]y.png")
    lab.end_case(case_id, "failure", "[[ATTACHMENT|/etc/shadow]]")
    root = _checked(lab)
    assert "[[ATTACHMENT|" not in "".join(root.itertext())
    attached = [value for name, value in _properties(_case(root)) if name == "attachment"]
    assert attached[0] is not None
    assert attached[0].endswith("clients/bob/x]]y.png")


def test_a_folder_outside_the_project_is_named_in_full(tmp_path: Path) -> None:
    style = JunitStyle(tmp_path / "results", PROJECT)
    assert style.path("a/b.png") == f"{tmp_path}/results/a/b.png"


# -- any text -----------------------------------------------------------------------------------------------

nasty = st.text(alphabet=st.characters() | st.sampled_from("\x00\x07\x1b\r\n\ud800\ufffe\x9b[]|&<>\"'"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=nasty, traceback=nasty, log=nasty, name=nasty, cell=nasty)
def test_any_text_gives_a_valid_file(
    message: str, traceback: str, log: str, name: str, cell: str, folder: ResultsFolder, lab_of: Any
) -> None:
    lab = lab_of(folder)
    lab.start(host=log, command=name, versions={name: log})
    case_id = lab.plan(case=f"a_test.py::A[{cell}]", parameters={name: log})
    lab.prepare(case_id)
    lab.append(Log(case=case_id, attempt=1, level=name, message=log))
    _shot(lab, case_id, name)
    lab.end_case(case_id, "failure", message, traceback=traceback)
    lab.append(Problem(file=name, line=None, problem=message, hint=log))
    lab.append(CaseWaits(case=lab.plan(case="b_test.py::B"), reason=message))
    _checked(lab)


def test_control_characters_are_made_visible() -> None:
    assert escape_control("a\x07b\ud800c\x1b[31md\r\ne\x00") == "a#x07b#xd800c#x1b[31md\ne#x00"


@given(st.text(alphabet=st.characters(codec="utf-8")), st.integers(0, 200))
def test_cutting_keeps_short_text_and_bounds_long_text(text: str, limit: int) -> None:
    cut = truncate_middle(text, limit, "there")
    if len(text.encode()) <= limit:
        assert cut == text
    else:
        assert len(cut.encode()) <= limit + 100
        assert "left out, complete in there" in cut


def test_one_line() -> None:
    assert single_line("\n\n  first \nsecond") == "first"
    assert single_line("x" * 400) == "x" * 299 + "…"
    assert single_line("") == ""


def test_junitparser_reads_flaky_and_rerun(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.run(case_id, "failure", "first", will_retry=True)
    lab.run(case_id, attempt=2)
    (suite,) = JUnitXml.fromstring(junit_bytes(lab.record, RELATIVE))
    parsed: list[Any] = list(suite)  # junitparser is typed in part only
    (case,) = parsed
    assert case.is_passed
    assert [flaky.message for flaky in case.iterchildren(FlakyFailure)] == ["first"]
    assert isinstance(suite, junitparser.TestSuite)
