"""The Kiwi reporter against a stand-in that answers the XML-RPC calls of Kiwi TCMS from memory."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest

from trafficlight.results.events import CaseWaits
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import ResultsWriter

pytest.importorskip("tcms_api", reason="the extra trafficlight[kiwi] is not installed")

from trafficlight.results.reporters.kiwi import KiwiReporter

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab

STATUSES = ["PASSED", "FAILED", "ERROR", "WAIVED", "BLOCKED"]


class Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/xml-rpc/",)


class Kiwi(SimpleXMLRPCServer):
    """Tables of rows, with `filter` and `create` on each."""

    def __init__(self) -> None:
        super().__init__(
            ("127.0.0.1", 0), Handler, logRequests=False, allow_none=True, use_builtin_types=True
        )
        self.tables: dict[str, list[dict[str, Any]]] = {
            "Classification": [{"id": 1}],
            "Category": [{"id": 1, "product": 1}],
            "Priority": [{"id": 1}],
            "TestCaseStatus": [{"id": 2, "name": "CONFIRMED"}],
            "TestExecutionStatus": [{"id": number, "name": name} for number, name in enumerate(STATUSES, 1)],
        }
        self.logins: list[tuple[str, str]] = []
        self.finished: list[int] = []
        self.comments: dict[int, str] = {}

    def _dispatch(self, method: str, params: Any) -> Any:
        match method:
            case "Auth.login":
                self.logins.append(params)
                return "session"
            case "TestPlan.add_case":
                return None
            case "TestRun.add_case":
                return [self._create("TestExecution", {"run": params[0], "case": params[1]})]
            case "TestExecution.update":
                next(row for row in self.tables["TestExecution"] if row["id"] == params[0]).update(params[1])
                return None
            case "TestExecution.add_comment":
                self.comments[params[0]] = params[1]
                return None
            case "TestRun.update":
                self.finished.append(params[0])
                return None
            case _:
                return self._rows(method, params)

    def _rows(self, method: str, params: Any) -> Any:
        table, _, verb = method.partition(".")
        if verb == "filter":
            return [row for row in self.tables.get(table, []) if _matches(row, params[0])]
        assert verb == "create", method
        return self._create(table, params[0])

    def _create(self, table: str, row: dict[str, Any]) -> dict[str, Any]:
        rows = self.tables.setdefault(table, [])
        rows.append({**row, "id": len(rows) + 1, "author": 9, "product__name": "lab"})
        return rows[-1]


def _matches(row: dict[str, Any], query: dict[str, Any]) -> bool:
    plain = {"id" if key == "pk" else key: value for key, value in query.items() if "__" not in key}
    return all(row.get(key) == value for key, value in plain.items())


@pytest.fixture
def kiwi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kiwi]:
    with Kiwi() as server:
        port = server.server_address[1]
        (tmp_path / ".tcms.conf").write_text(
            f"[tcms]\nurl = http://127.0.0.1:{port}/xml-rpc/\nusername = bot\npassword = secret\n"
        )
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("TCMS_PRODUCT", "lab")
        monkeypatch.setenv("TCMS_PRODUCT_VERSION", "0.1.0")
        monkeypatch.setenv("TCMS_BUILD", "17")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_case_becomes_an_execution(lab: "Lab", kiwi: Kiwi) -> None:
    writer = ResultsWriter(lab.folder, SessionRecord(), [KiwiReporter()])
    lab.read_along(writer)
    lab.start()
    states = ["success", "failure", "error", "skipped"]
    cases = [lab.plan({"alice": f"T{number}"}) for number in range(len(states))]
    for case_id, state in zip(cases, states, strict=True):
        lab.run(case_id, state, "a\x07b", traceback="t")
    never = lab.plan({"alice": "x" * 400})
    lab.append(CaseWaits(case=never, reason="no adapter"))
    lab.end()
    writer.close()

    assert kiwi.logins == [("bot", "secret")]
    rows = kiwi.tables["TestExecution"]
    assert [STATUSES[row["status"] - 1] for row in rows] == ["PASSED", "FAILED", "ERROR", "WAIVED", "BLOCKED"]
    names = [row["summary"] for row in kiwi.tables["TestCase"]]
    assert names[:4] == cases
    assert len(names[4]) == 255
    assert "a#x07b" in kiwi.comments[2]
    assert "no adapter" in kiwi.comments[5]
    assert kiwi.finished == [1]


def test_without_a_server_no_result_is_lost(
    lab: "Lab", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    writer = ResultsWriter(lab.folder, SessionRecord(), [KiwiReporter()])
    lab.read_along(writer)
    lab.start()
    lab.run(lab.plan())
    lab.end()
    writer.close()
    assert "reporter KiwiReporter failed" in caplog.text
    assert "was not reported to Kiwi TCMS: no connection" in caplog.text
    assert b'tests="1" failures="0" errors="0"' in lab.folder.junit.read_bytes()
