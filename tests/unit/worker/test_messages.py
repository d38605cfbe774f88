"""The messages between coordinator and worker: JSON, limited in size, and validated."""

import asyncio
import enum
import json
import struct
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from trafficlight import errors
from trafficlight.client_types import ClientTypeSpec, CustomMatch
from trafficlight.errors import LabError, TestFileError
from trafficlight.results.events import State
from trafficlight.server_types import HomeServerSpec
from trafficlight.suites.case_ids import Cell, Symbol
from trafficlight.suites.discovery import FileFound
from trafficlight.suites.model import Case, ServerSlot, Suite
from trafficlight.suites.planning import FileRequest, FileResult
from trafficlight.suites.selection import Selection, TypeFilter
from trafficlight.suites.targets import Target
from trafficlight.worker import messages
from trafficlight.worker.assignment import Assignment, ServerInfo, Verdict
from trafficlight.worker.messages import (
    Collected,
    CollectFile,
    Error,
    Finished,
    FrameError,
    Notification,
    Request,
    Response,
    RunAttempt,
    ensure_json,
    error_of,
    exception_of,
    read_from_coordinator,
    read_from_worker,
    write_message,
)

# A file name that is not UTF-8, as Python has it.
ODD = "caf\udce9_test.py"


class Word(enum.StrEnum):
    HELLO = "hello"


class Number(enum.IntEnum):
    ONE = 1


class Writer:
    """Collects what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def frame(message: Any) -> bytes:
    writer = Writer()
    write_message(writer, message)  # type: ignore[arg-type]
    return writer.written


def reader(data: bytes) -> asyncio.StreamReader:
    made = asyncio.StreamReader()
    made.feed_data(data)
    return made


async def from_worker(message: Any) -> Any:
    return await read_from_worker(reader(frame(message)))


async def to_worker(message: Any) -> Any:
    return await read_from_coordinator(reader(frame(message)))


def case(**changed: Any) -> Case:
    custom = CustomMatch(Path(ODD), (1, 2), "Own {}", "A", "alice")
    made = Case(
        "a_test.py::A[alice=Own]",
        "a_test.py::A",
        Path("/tests") / ODD,
        "a_test.py",
        "A",
        "run",
        3,
        {"alice": ClientTypeSpec("Own", "own", labels=frozenset({"linux", "x"}), custom=custom)},
        (ServerSlot("Synapse-1", (HomeServerSpec("Synapse-1", "synapse", "1", "img"),), ("s1", "s2")),),
        {"size": 1, "text": "\ud800", "more": [None, {"a": 1.5}]},
        {"size": 1},
    )
    return replace(made, **changed)


async def test_classes_of_tests_become_plain_values() -> None:
    sent = Notification({"a": [Word.HELLO, [Number.ONE], {Word.HELLO: 0.5}, True, None]})
    got = await from_worker(sent)
    assert got == sent
    name, (number,), mapping, *_ = got.event["a"]
    assert [type(one) for one in (name, number, *mapping)] == [str, int, str]


async def test_a_verdict_arrives() -> None:
    got = await from_worker(Finished(Verdict(State.FAILURE, "no \ud800 é")))
    assert got == Finished(Verdict(State.FAILURE, "no \ud800 é"))
    assert type(got.verdict.state) is State


async def test_the_content_of_a_file_arrives() -> None:
    wrong = TestFileError(Path("/a_test.py"), 3, "does not import", "mend it")
    part = FileResult(
        {"a_test.py::A": Suite("a_test.py::A", "a_test.py", "A", "run", 3, "What.", (case(), case(id="b")))},
        [wrong],
        {"a_test.py"},
        TypeFilter(("Nio",), (), {"client": {"Nio"}, "server": set()}, {("client", "Nio")}),
        [(("a", "B"), wrong)],
        {("/base.py", "Base")},
    )
    got = (await from_worker(Collected(part, last=True))).part
    (problem,), ((_, untested),) = got.problems, got.untested
    assert str(problem) == str(untested) == str(wrong)
    assert replace(got, problems=[], untested=[]) == replace(part, problems=[], untested=[])
    one, other = got.suites["a_test.py::A"].cases
    assert one.clients["alice"] is other.clients["alice"]


async def test_an_attempt_arrives() -> None:
    servers = {"s1": ServerInfo("hs1", "http://x", "1", Path("/log")), "s2": ServerInfo("hs2", "http://y")}
    assignment = Assignment(case(), 2, Path("/folder"), {"alice": {"type": "own"}}, servers, 5.0, 1.0)
    assert (await to_worker(RunAttempt(assignment))).assignment == assignment


async def test_what_to_collect_arrives() -> None:
    inner = Target(Path(ODD), "x", symbol=Symbol("B"))
    symbol = Symbol("A*", "test_x", (Cell("alice", "Nio"),), {"size": [1]})
    target = Target(Path(ODD), "a", True, symbol, (inner,))
    request = FileRequest(FileFound(Path(ODD), "a"), (target,), Selection(clients=["Nio"], pairwise=True))
    assert (await to_worker(CollectFile(request))).request == request


async def test_a_response_arrives_as_it_is() -> None:
    response = Response(3, {"text": "\ud800 é", "numbers": [1, 1.5, None]})
    assert await to_worker(response) == response


@pytest.mark.parametrize(
    "raised",
    [
        errors.ActionError("no room", role="alice", action="x", path="a.js:1"),
        errors.AdapterError("gone", role="alice"),
        errors.DeadlineError("too late"),
        errors.DeployError("no homeserver", log="the log"),
        errors.ShuttingDownError("ends"),
        errors.UnsupportedError("cannot"),
        errors.LabError("wrong"),
    ],
)
async def test_errors_arrive_as_they_are(raised: Exception) -> None:
    got = exception_of((await to_worker(Response(1, error=error_of(raised)))).error)
    assert (type(got), str(got)) == (type(raised), str(raised))


def test_other_errors_become_errors_of_the_lab() -> None:
    got = exception_of(error_of(KeyError("alice")))
    assert (type(got), str(got)) == (LabError, "KeyError: 'alice'")
    assert type(exception_of(Error("SystemExit", "0"))) is LabError


@pytest.mark.parametrize("value", [object(), Path("/a"), {1}, float("nan"), lambda: 0, datetime(2026, 1, 1)])
def test_the_data_of_a_request_must_be_json(value: object) -> None:
    writer = Writer()
    with pytest.raises((TypeError, ValueError)):
        write_message(writer, Request(1, "perform", ["alice", "x", {"wrong": value}]))  # type: ignore[arg-type]
    assert not writer.written


class TestLimits:
    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(messages, "MAX_FRAME", 1000)

    async def test_a_message_that_is_too_large_is_not_sent(self) -> None:
        writer = Writer()
        wrong = r"^the message has 1,\d\d\d bytes, and the limit between test and coordinator is 1,000$"
        with pytest.raises(LabError, match=wrong):
            write_message(writer, Notification({"message": "x" * 1000}))  # type: ignore[arg-type]
        assert not writer.written

    async def test_one_that_is_announced_is_not_read(self) -> None:
        with pytest.raises(FrameError, match="the message has 4,294,967,295 bytes"):
            await read_from_worker(reader(struct.pack(">I", 0xFFFFFFFF)))


def framed(content: object) -> bytes:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack(">I", len(raw)) + raw


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"nonsense", r"not a message: b'nonsense'"),
        (b"\xff\xfe", "not a message"),
        (b"[" * 5000, "not a message"),
        ([1], "not a message"),
        ({"pid": 1}, "not a message"),
        ({"message": "Eval"}, "not a message"),
        ({"message": ["Request"]}, "not a message"),
        ({"message": "RunAttempt"}, "not a message"),
        ({"message": "CancelRequest", "id": "x"}, "CancelRequest.id: must be a whole number"),
        ({"message": "Request", "id": 1, "method": "__init__", "arguments": []}, "Request.method: must be"),
        ({"message": "Finished", "verdict": {"state": "fine"}}, "Finished.verdict.state: must be"),
        ({"message": "Collected", "part": {"problems": [{"path": 1}]}}, "Collected.part.problems.0"),
    ],
)
async def test_anything_else_is_refused(content: object, problem: str) -> None:
    with pytest.raises(FrameError, match=problem):
        await read_from_worker(reader(framed(content)))


async def test_the_end_of_the_connection() -> None:
    closed = reader(b"\0\0")
    closed.feed_eof()
    assert await read_from_worker(closed) is None


class TestEnsureJson:
    @pytest.mark.parametrize(
        "value", ["text", "", 1, 1.5, True, None, [], {"a": [1, {"b": None}]}, "\ud800", "\N{SNOWMAN}"]
    )
    def test_json_is_unchanged(self, value: Any) -> None:
        assert ensure_json("login", {"value": value}) == {"value": value}

    def test_what_is_almost_json_becomes_json(self) -> None:
        found = ensure_json("login", {"word": Word.HELLO, "pair": (1, 2)})
        assert found == {"word": "hello", "pair": [1, 2]}
        assert type(found["word"]) is str

    @pytest.mark.parametrize("value", [object(), {1, 2}, b"x", float("nan"), lambda: 0])
    def test_what_is_not_json_is_named(self, value: Any) -> None:
        with pytest.raises(TypeError, match=r"^send_message: cannot be sent as JSON: wrong=") as raised:
            ensure_json("send_message", {"right": "text", "wrong": value})
        assert "right=" not in str(raised.value)

    def test_what_contains_itself(self) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            ensure_json("send_message", {"value": value})
