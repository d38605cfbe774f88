"""What a worker sends is plain, and nothing else is taken from it."""

import asyncio
import pickle
import re
import struct
from enum import IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from trafficlight.errors import TestFileError
from trafficlight.results.events import State
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.record import ExitCode
from trafficlight.suites.reading import Reading
from trafficlight.worker.assignment import Verdict
from trafficlight.worker.messages import Done, Emit, Found, read_message, write_message


class Word(StrEnum):
    HELLO = "hello"


class Number(IntEnum):
    ONE = 1


class Measure(float):
    pass


class Writer:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


async def there(message: Any) -> Any:
    """Send a message and return what is read."""
    writer, reader = Writer(), asyncio.StreamReader()
    write_message(writer, message, plain=True)  # type: ignore[arg-type]
    reader.feed_data(writer.written)
    return await read_message(reader, plain=True)


async def test_classes_of_tests_do_not_travel_their_values_do() -> None:
    sent = Emit({"a": [Word.HELLO, [Number.ONE], {Word.HELLO: Measure(0.5)}, True, None]})
    got = await there(sent)
    assert got == sent
    name, (number,), mapping, *_ = got.event["a"]
    ((key, value),) = mapping.items()
    assert [type(one) for one in (name, number, key, value)] == [str, int, str, float]


async def test_ours_arrive_as_they_are() -> None:
    done = Done(Verdict(State.FAILURE, "no"))
    got = await there(done)
    assert got == done
    assert type(got.verdict.state) is State


async def test_what_is_wrong_with_a_file_arrives() -> None:
    wrong = TestFileError(Path("/a_test.py"), 3, "does not import", "mend it")
    wrong.__cause__ = ValueError("stays")
    got = await there(Found(Reading(problems=[wrong], met={"a_test.py"}), last=True))
    (problem,) = got.part.problems
    assert (str(problem), problem.line, problem.hint) == (str(wrong), 3, "mend it")
    assert problem.__cause__ is None


async def test_values_of_our_own_that_no_message_has_become_plain() -> None:
    value = (await there(Emit({"a": ExitCode.LAB_ERROR}))).event["a"]
    assert (type(value), value) == (int, 3)


@pytest.mark.parametrize("value", [Fraction(1, 2), print, Word, ResultsFolder(Path("/a")), bytearray(b"a")])
def test_what_would_not_be_taken_is_not_sent(value: object) -> None:
    writer = Writer()
    with pytest.raises(TypeError, match="none of what a worker can send"):
        write_message(writer, Emit({"a": value}), plain=True)  # type: ignore[arg-type]
    assert not writer.written


def named(module: str, name: str, then: bytes = b"") -> bytes:
    """Return a pickle of what a module calls by this name."""
    texts = (pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode() for text in (module, name))
    return pickle.PROTO + b"\x04" + b"".join(texts) + pickle.STACK_GLOBAL + then + pickle.STOP


async def taken(raw: bytes) -> Any:
    """Return what a frame is read as."""
    reader = asyncio.StreamReader()
    reader.feed_data(struct.pack(">I", len(raw)) + raw)
    return await read_message(reader, plain=True)


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(Emit({"a": Fraction(1, 2)})),
        pickle.dumps(Emit({"a": print})),
        pickle.dumps(Emit({"a": test_ours_arrive_as_they_are})),
        pickle.dumps(Emit({"a": ResultsFolder(Path("/a"))})),
        named("os", "system"),
        named("builtins", "eval"),
        named("pathlib", "Path"),
        named("pathlib", "os.system"),
        named("trafficlight.worker.messages", "Run"),
        named("trafficlight.worker.messages", "pickle.loads"),
        named("trafficlight.worker.messages", "read_message"),
        named("trafficlight.tests.chat.send_messages_test", "SendMessages"),
    ],
)
async def test_nothing_else_is_taken(raw: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="none of what a worker can send"):
        await taken(raw)


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
async def test_paths_of_every_python_are_taken(module: str) -> None:
    """Python 3.13 has them in a module of their own."""
    name = type(Path()).__name__
    there = pickle.dumps(Emit({"a": Path("/a/b")}), protocol=2)
    assert there.count(name.encode()) == 1
    raw = re.sub(rb"c[\w.]+\n(?=" + name.encode() + rb"\n)", b"c" + module.encode() + b"\n", there)
    assert module.encode() + b"\n" in raw
    assert await taken(raw) == Emit({"a": Path("/a/b")})


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (pickle.dumps(Done(None))[:-9], "53 bytes: pickle data was truncated"),
        (b"nonsense", "8 bytes: "),
        (pickle.dumps(None), "a NoneType: it is no message of a worker"),
        (
            named("trafficlight.worker.messages", "Done", pickle.EMPTY_TUPLE + pickle.REDUCE),
            "a Done: TypeError",
        ),
        (pickle.dumps(Emit({"a": Fraction(1, 2)})), "a Emit: fractions.Fraction is none of"),
    ],
)
async def test_what_cannot_be_read_is_told(raw: bytes, problem: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=re.escape(problem)):
        await taken(raw)
