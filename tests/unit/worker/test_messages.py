"""What a worker sends is plain, and nothing else is taken from it."""

import asyncio
import pickle
import struct
from enum import IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from trafficlight.errors import AuthoringError
from trafficlight.results.events import State
from trafficlight.suites.reading import Reading
from trafficlight.worker.assignment import Verdict
from trafficlight.worker.messages import Done, Found, Tell, read_message, write_message


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
    write_message(writer, message)  # type: ignore[arg-type]
    reader.feed_data(writer.written)
    return await read_message(reader, plain=True)


async def test_classes_of_tests_do_not_travel_their_values_do() -> None:
    sent = Tell("measured", (Word.HELLO, [Number.ONE], {Word.HELLO: Measure(0.5)}, True, None))
    got = await there(sent)
    assert got == sent
    name, (number,), mapping, *_ = got.arguments
    ((key, value),) = mapping.items()
    assert [type(one) for one in (name, number, key, value)] == [str, int, str, float]


async def test_ours_arrive_as_they_are() -> None:
    done = Done(Verdict(State.FAILURE, "no"))
    got = await there(done)
    assert got == done
    assert type(got.verdict.state) is State


async def test_what_is_wrong_with_a_file_arrives() -> None:
    wrong = AuthoringError(Path("/a_test.py"), 3, "does not import", "mend it")
    wrong.__cause__ = ValueError("stays")
    got = await there(Found(Reading(problems=[wrong], met={"a_test.py"}), last=True))
    (problem,) = got.part.problems
    assert (str(problem), problem.line, problem.hint) == (str(wrong), 3, "mend it")
    assert problem.__cause__ is None


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
async def test_paths_arrive_whichever_python_sends_them(module: str) -> None:
    raw = pickle.dumps(Tell("attached", (Path("/a/b"),))).replace(
        pickle.SHORT_BINUNICODE + b"\x07pathlib",
        pickle.SHORT_BINUNICODE + bytes([len(module)]) + module.encode(),
    )
    raw = raw[:2] + raw[11:]  # without the length of the frame, which is another one now
    reader = asyncio.StreamReader()
    reader.feed_data(struct.pack(">I", len(raw)) + raw)
    got = await read_message(reader, plain=True)
    assert got == Tell("attached", (Path("/a/b"),))


def named(module: str, name: str) -> bytes:
    """Return a pickle of what a module calls by this name."""
    texts = (pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode() for text in (module, name))
    return pickle.PROTO + b"\x04" + b"".join(texts) + pickle.STACK_GLOBAL + pickle.STOP


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(Tell("logged", (Fraction(1, 2),))),
        pickle.dumps(Tell("logged", (print,))),
        pickle.dumps(Tell("logged", (test_ours_arrive_as_they_are,))),
        named("os", "system"),
        named("builtins", "eval"),
        named("pathlib", "os.system"),
        named("trafficlight.worker.messages", "pickle.loads"),
        named("trafficlight.results.event_log", "EventLog"),
        named("trafficlight.worker.messages", "read_message"),
        named("trafficlight.tests.chat.send_messages_test", "SendMessages"),
    ],
)
async def test_nothing_else_is_taken(raw: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(struct.pack(">I", len(raw)) + raw)
    with pytest.raises(pickle.UnpicklingError, match="none of what a worker can send"):
        await read_message(reader, plain=True)
