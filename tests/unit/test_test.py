"""What a test author writes with."""

import ast
import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import trafficlight.tests
from trafficlight.client_types import Nio
from trafficlight.errors import AdapterError, LabError, Skipped
from trafficlight.server_types import Dendrite, SynapseStable
from trafficlight.test import CaseInfo, Declaration, Test, TestRun, accepted


@dataclass
class Limit:
    remaining: float = 60.0
    expired: bool = False


@dataclass
class Run:
    """A run that remembers."""

    case: CaseInfo = field(default_factory=lambda: CaseInfo("a::A", {"size": 1}, 1, Path("results")))
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("case"))
    deadline: Limit = field(default_factory=Limit)
    services: object = None
    kept: list[tuple[Any, ...]] = field(default_factory=list)

    def record(self, name: str, value: float, unit: str, at: float | None) -> None:
        self.kept.append((name, value, unit, at))

    def attach(self, name: str, content: Path | bytes) -> None:
        self.kept.append((name, content))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.kept.append(("begins", name))
        yield
        self.kept.append(("ends", name))


class Both(Test):
    clients = {"alice": [Nio]}
    servers = {("one", "two"): SynapseStable, "three": [Dendrite]}

    def __init__(self) -> None:
        # No super().__init__() on purpose: older files may leave it out.
        self._client_under_test([Nio()], "bob")
        self._server_under_test(Dendrite(), "four")
        self._network_proxy("proxy")


def test_roles_are_declared_in_either_form() -> None:
    declared = Both().declarations()
    assert [(one.kind, one.names) for one in declared] == [
        ("client", ("alice",)),
        ("client", ("bob",)),
        ("client", ("proxy",)),
        ("server", ("one", "two")),
        ("server", ("three",)),
        ("server", ("four",)),
    ]
    assert declared[0] == Declaration("client", ("alice",), [Nio])
    assert declared[1].where == (__file__, Both.__init__.__code__.co_firstlineno + 2)


def test_declarations_of_one_test_are_not_those_of_another() -> None:
    assert len(Both().declarations()) == len(Both().declarations())
    assert Test().declarations() == []


def test_a_running_test_reaches_its_run(tmp_path: Path) -> None:
    run: TestRun = (bound := Run())
    test = Both()
    test.bind(run)
    assert (test.case, test.logger, test.deadline) == (bound.case, bound.logger, bound.deadline)
    test.record("latency", 0.5, "s")
    test.record("messages", 3, at=1.5)
    test.attach("a.txt", b"x")
    test.attach("b.txt", str(tmp_path))
    assert bound.kept == [
        ("latency", 0.5, "s", None),
        ("messages", 3, "", 1.5),
        ("a.txt", b"x"),
        ("b.txt", tmp_path),
    ]


@pytest.mark.parametrize("name", ["case", "logger", "deadline"])
def test_a_test_that_does_not_run_says_so(name: str) -> None:
    with pytest.raises(LabError, match="Both is not running"):
        getattr(Both(), name)
    with pytest.raises(LabError, match="Both is not running"):
        Both().record("x", 1)


def test_a_skip_cannot_be_swallowed() -> None:
    with pytest.raises(Skipped, match="no camera"):
        try:
            Both().skip("no camera")
        except Exception:  # pragma: no cover
            pytest.fail("swallowed")


def test_hooks_receive_what_they_ask_for() -> None:
    given = {"alice": 1, "size": 2}

    async def some(alice: int, other: int = 0) -> None: ...
    async def everything(**kwargs: int) -> None: ...

    assert accepted(some, given) == {"alice": 1}
    assert accepted(everything, given) == accepted(Test().setup, given) == given


async def test_hooks_do_nothing_by_default() -> None:
    await Test().setup(alice=1)
    await Test().teardown(alice=1)


async def test_eventually_returns_what_the_condition_returned() -> None:
    values: Iterator[object] = iter([None, [], "there"])
    assert await Test().eventually(lambda: next(values)) == "there"

    async def condition() -> int:
        return 7

    assert await Test().eventually(condition) == 7


async def test_eventually_says_what_it_saw_last() -> None:
    def timeline() -> list[str]:
        return []

    with pytest.raises(
        AssertionError, match=r"timeline did not hold within 0\.05 s; at the last try it returned \[\]"
    ):
        await Test().eventually(timeline, 0.05)


async def test_eventually_says_what_did_not_happen() -> None:
    said = r"^the room key was not rotated within 0\.05 s; at the last try it returned None$"
    with pytest.raises(AssertionError, match=said):
        await Test().eventually(lambda: None, 0.05, message="the room key was not rotated")


def test_every_wait_of_a_built_in_suite_says_what_did_not_happen() -> None:
    waits = [
        (f"{path.name}:{call.lineno}", [one.arg for one in call.keywords])
        for path in Path(trafficlight.tests.__path__[0]).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "self.eventually"
    ]
    assert len(waits) > 20
    assert not [place for place, arguments in waits if "message" not in arguments]


async def test_eventually_says_what_was_raised_last() -> None:
    async def check() -> None:
        assert 1 + 1 == 3, "sums"

    with pytest.raises(
        AssertionError, match=r"check did not hold .* it raised AssertionError: sums"
    ) as raised:
        await Test().eventually(check, 0.05)
    assert isinstance(raised.value.__cause__, AssertionError)


async def test_eventually_does_not_wait_for_an_answer_that_never_comes() -> None:
    async with asyncio.timeout(60):
        with pytest.raises(AssertionError, match="never came to an end"):
            await Test().eventually(lambda: asyncio.sleep(60), 0.05)


async def test_eventually_refuses_what_is_always_true() -> None:
    """A call is missing: the condition held at once."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    for condition in (lambda: Test().skip, lambda: len, lambda: (one for one in "a"), numbers):
        with pytest.raises(TypeError, match="which is always true: call it"):
            await Test().eventually(condition, 60)
    with pytest.raises(TypeError, match="takes a function, not the result of calling one: True"):
        await Test().eventually(True, 60)  # type: ignore[call-overload]


async def test_eventually_lets_errors_of_the_lab_through() -> None:
    def condition() -> None:
        raise AdapterError("gone")

    with pytest.raises(AdapterError):
        await Test().eventually(condition)


async def test_eventually_retries_a_timeout_of_the_condition() -> None:
    outcomes = iter([TimeoutError(), None])

    def condition() -> bool:
        if (outcome := next(outcomes)) is not None:
            raise outcome
        return True

    assert await Test().eventually(condition)


async def test_the_deadline_of_the_case_cuts_waiting_short() -> None:
    test = Test()
    test.bind(Run(deadline=Limit(0.05)))
    async with asyncio.timeout(60):
        with pytest.raises(AssertionError, match=r"0\.05 s"):
            await test.eventually(lambda: False, 60)


async def test_eventually_can_be_cancelled() -> None:
    task = asyncio.ensure_future(Test().eventually(lambda: False, 60))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
