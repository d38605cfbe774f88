import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

from trafficlight.errors import ConfigError
from trafficlight.results.case import CaseRecord
from trafficlight.results.record import SessionRecord
from trafficlight.results.reporters.host import GROUP, Reporter, load_reporters
from trafficlight.results.reporters.webhook import WebhookReporter
from trafficlight.results.writer import ResultsWriter

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


class Listening:
    """Records the calls."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def session_started(self, record: SessionRecord) -> None:
        self.told.append(f"started {record.id}")

    def case_ended(self, case: CaseRecord) -> None:
        self.told.append(f"{case.outcome} {len(case.attempts)}")

    def session_ended(self, record: SessionRecord) -> None:
        self.told.append(f"ended {record.exit_code}")


class Throwing(Listening):
    def session_started(self, record: SessionRecord) -> None:
        raise RuntimeError("not today")

    def case_ended(self, case: CaseRecord) -> None:
        super().case_ended(case)
        raise SystemError("nor then")


class Hanging(Listening):
    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def case_ended(self, case: CaseRecord) -> None:
        self.release.wait()  # a caller that waits for this runs into the timeout of the test


def _session(lab: "Lab", *reporters: Reporter, deadline: float = 10.0) -> ResultsWriter:
    writer = ResultsWriter(lab.folder, SessionRecord(), reporters, deadline=deadline)
    lab.read_along(writer)
    lab.start()
    retried = lab.plan({"alice": "A"})
    lab.run(retried, "failure", "first", will_retry=True)
    lab.run(retried, attempt=2)
    lab.run(lab.plan({"alice": "B"}), "failure", "no")
    lab.end(exit_code=1)
    return writer


def test_a_reporter_is_told_in_order(lab: "Lab") -> None:
    listening = Listening()
    _session(lab, listening).close()
    assert listening.told == ["started 2026-11-21--001", "flaky 2", "failure 1", "ended 1"]


def test_one_that_throws_costs_nothing_and_is_asked_again(
    lab: "Lab", caplog: pytest.LogCaptureFixture
) -> None:
    throwing, listening = Throwing(), Listening()
    writer = _session(lab, throwing, listening)
    writer.close()
    assert throwing.told == ["flaky 2", "failure 1", "ended 1"]
    assert len(listening.told) == 4
    assert caplog.text.count("reporter Throwing failed") == 3
    _complete(lab)


def test_one_that_hangs_costs_its_deadline_and_no_result(
    lab: "Lab", caplog: pytest.LogCaptureFixture
) -> None:
    hanging, listening = Hanging(), Listening()
    writer = _session(lab, hanging, listening, deadline=0.3)
    writer.close()
    assert "reporter Hanging timed out after 0.3 s: abandoned" in caplog.text
    assert len(listening.told) == 4
    _complete(lab)
    hanging.release.set()


def _complete(lab: "Lab") -> None:
    report = json.loads((lab.folder.path / "report.json").read_text())
    assert [case["outcome"] for case in report["cases"]] == ["flaky", "failure"]
    assert b'failures="1"' in lab.folder.junit.read_bytes()


# -- loading ------------------------------------------------------------------------------------------------

POINTS = [
    EntryPoint("webhook", "trafficlight.results.reporters.webhook:WebhookReporter", GROUP),
    EntryPoint("gone", "trafficlight_that_is_not_there:Reporter", GROUP),
    EntryPoint("other", "collections:Counter", GROUP),
]


def test_reporters_are_made_from_entry_points() -> None:
    (reporter,) = load_reporters({"webhook": {"url": "http://localhost/x"}}, available=POINTS)
    assert isinstance(reporter, WebhookReporter)


@pytest.mark.parametrize(
    ("configuration", "problem"),
    [
        ({"webhok": {}}, "REPORTERS.webhok: unknown reporter; available: gone, other, webhook"),
        ({"gone": {}}, "REPORTERS.gone: cannot be imported"),
        ({"webhook": {"uri": "x"}}, "REPORTERS.webhook: invalid options: .*uri"),
        ({"webhook": {"url": "ftp://x"}}, "url must begin with http"),
        ({"webhook": {"url": "http://x", "events": ["case_endet"]}}, "unknown events"),
        ({"webhook": "x"}, "must be an object"),
        ({"other": {}}, "Counter lacks a method of Reporter"),
    ],
)
def test_a_wrong_configuration_is_named(configuration: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_reporters(configuration, available=POINTS)


# -- webhook ------------------------------------------------------------------------------------------------


class Hook(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Posted)
        self.posts: list[tuple[str | None, dict[str, Any]]] = []
        self.status = 204


class Posted(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Hook)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.headers["Authorization"], json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_webhook_posts_json(lab: "Lab", hook: Hook) -> None:
    _session(lab, WebhookReporter(f"http://127.0.0.1:{hook.server_port}/hook", token="t0ken")).close()
    assert [post["event"] for _, post in hook.posts] == [
        "session_started",
        *["case_ended"] * 2,
        "session_ended",
    ]
    assert {authorization for authorization, _ in hook.posts} == {"Bearer t0ken"}
    assert hook.posts[1][1]["case"]["outcome"] == "flaky"
    assert hook.posts[1][1]["session"] == {"id": lab.folder.id}
    assert hook.posts[3][1]["session"]["outcomes"]["failure"] == 1
    assert "configuration" not in hook.posts[3][1]["session"]


def test_a_webhook_that_answers_500_is_logged(
    lab: "Lab", hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.status = 500
    url = f"http://127.0.0.1:{hook.server_port}/"
    _session(lab, WebhookReporter(url, events=["session_ended"])).close()
    assert len(hook.posts) == 1
    assert "reporter WebhookReporter failed" in caplog.text
    _complete(lab)
