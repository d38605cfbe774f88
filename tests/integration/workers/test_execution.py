"""What becomes of test code, wherever it runs."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trafficlight.results.events import Attachment, Log, Measurement, Returned, State, StepBegan, StepEnded
from trafficlight.worker.execution import execute
from trafficlight.worker.output import capturing

if TYPE_CHECKING:
    from tests.integration.workers.conftest import FakeLink, WorkerHarness


@pytest.mark.parametrize(
    ("body", "state", "message"),
    [
        ("pass", State.SUCCESS, ""),
        ("assert 1 == 2, 'one is not two'", State.FAILURE, "one is not two"),
        ("assert 1 == 2", State.FAILURE, "assertion failed: assert 1 == 2"),
        (
            "x = {'b': [1, 2]}; n = 3\n    assert x['b'] == [1, n]",
            State.FAILURE,
            "assertion failed: assert x['b'] == [1, n] (x['b'] is [1, 2])",
        ),
        (
            "n = 3\n    assert len('ab') == n",
            State.FAILURE,
            "assertion failed: assert len('ab') == n (n is 3)",
        ),
        (
            "x = {'b': [1, 2]}\n    assert len(x['b']) == 3",
            State.FAILURE,
            "assertion failed: assert len(x['b']) == 3 (len(x['b']) is 2)",
        ),
        (
            "class Own(list): __len__ = lambda self: 7\n    x = Own(); n = 2\n    assert n == len(x)",
            State.FAILURE,
            "assertion failed: assert n == len(x) (n is 2)",
        ),
        (
            "len = str; x = [1]\n    assert len(x) == 'one'",
            State.FAILURE,
            "assertion failed: assert len(x) == 'one'",
        ),
        (
            "x = [1]; n = 2\n    assert sum(x) == n",
            State.FAILURE,
            "assertion failed: assert sum(x) == n (n is 2)",
        ),
        ("n = 3\n    assert (\n        n == 4\n    )", State.FAILURE, "assertion failed: n == 4"),
        ("1 / 0", State.ERROR, "ZeroDivisionError: division by zero"),
        ("self.skip('not today')", State.SKIPPED, "not today"),
        ("import unittest; raise unittest.SkipTest('later')", State.SKIPPED, "later"),
        ("import pytest; pytest.skip('on mondays')", State.SKIPPED, "on mondays"),
        ("import pytest; pytest.fail('too late')", State.FAILURE, "too late"),
        ("raise SystemExit(4)", State.ERROR, "SystemExit: 4"),
        ("raise KeyboardInterrupt", State.ERROR, "KeyboardInterrupt"),
        ("raise GeneratorExit", State.ERROR, "GeneratorExit"),
        ("raise asyncio.CancelledError", State.ERROR, "the test was cancelled from within"),
        ("raise TimeoutError", State.ERROR, "TimeoutError"),
        ("raise ExceptionGroup('', [ValueError('a'), AssertionError('b')])", State.ERROR, "ValueError: a"),
        ("raise ExceptionGroup('', [AssertionError('b')])", State.FAILURE, "b"),
        (
            "raise errors.ActionError('no', role='alice')",
            State.FAILURE,
            "alice: no",
        ),
        ("raise errors.AdapterError('gone')", State.ERROR, "gone"),
        ("raise errors.UnsupportedError('not here')", State.SKIPPED, "not here"),
    ],
)
async def test_what_an_ending_means(
    bench: "WorkerHarness", link: "FakeLink", body: str, state: State, message: str
) -> None:
    verdict = await execute(bench.assignment(f"async def run(self):\n    {body}"), link)
    assert (verdict.state, verdict.message, verdict.phase) == (state, message, "run")


async def test_a_skip_goes_through_except_exception(bench: "WorkerHarness", link: "FakeLink") -> None:
    body = """
    async def run(self):
        try:
            self.skip("no reason")
        except Exception:
            pass
    """
    assert (await execute(bench.assignment(body), link)).state is State.SKIPPED


async def test_a_skip_in_one_of_several_tasks(bench: "WorkerHarness", link: "FakeLink") -> None:
    body = """
    async def run(self):
        async def leave():
            self.skip("together")
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())
            group.create_task(asyncio.sleep(50))
    """
    verdict = await execute(bench.assignment(body), link)
    assert (verdict.state, verdict.message) == (State.SKIPPED, "together")


async def test_an_error_whose_text_is_broken(bench: "WorkerHarness", link: "FakeLink") -> None:
    body = """
    async def run(self):
        class Broken(Exception):
            def __str__(self):
                raise ValueError
        raise Broken

    async def teardown(self):
        self.record("torn down", 1)
    """
    verdict = await execute(bench.assignment(body), link)
    assert (verdict.state, verdict.message) == (
        State.ERROR,
        "Broken, whose message cannot be read: ValueError",
    )
    assert Measurement(name="torn down", value=1) in link.emitted


async def test_the_traceback_begins_in_the_test(bench: "WorkerHarness", link: "FakeLink") -> None:
    verdict = await execute(bench.assignment("async def run(self):\n    assert False"), link)
    first = verdict.traceback.splitlines()[1]
    assert "bench1_test.py" in first


async def test_a_folder_that_cannot_be_created(
    bench: "WorkerHarness", link: "FakeLink", tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assignment = bench.assignment("async def run(self):\n    pass")
    verdict = await execute(replace(assignment, folder=tmp_path / "file" / "attempt-1"), link)
    assert verdict.state is State.ERROR
    assert verdict.message.startswith("cannot create the results folder: [Errno 20] Not a directory")


HELPERS = """
from trafficlight import MatrixClient

async def helper(client): ...

class Page:
    def __init__(self, client): ...
    async def check(self): ...
"""


class TestNotSeen:
    """What fails where the test does not look."""

    @pytest.mark.parametrize(
        ("line", "state", "message"),
        [
            ("kept = asyncio.create_task(fails()); await asyncio.sleep(0)", State.FAILURE, "no"),
            ("self.kept = asyncio.create_task(fails()); await asyncio.sleep(0)", State.FAILURE, "no"),
            ("await asyncio.wait({asyncio.create_task(fails())})", State.FAILURE, "no"),
            ("asyncio.gather(fails()); await asyncio.sleep(0.01)", State.FAILURE, "no"),
            (
                "asyncio.get_running_loop().call_soon(wrong); await asyncio.sleep(0)",
                State.ERROR,
                "ValueError: w",
            ),
            ("t = threading.Thread(target=wrong); t.start(); t.join()", State.ERROR, "ValueError: w"),
            (
                "kept = asyncio.create_task(fails()); await asyncio.sleep(0); self.skip('x')",
                State.FAILURE,
                "no",
            ),
        ],
    )
    async def test_it_counts(
        self, bench: "WorkerHarness", link: "FakeLink", line: str, state: State, message: str
    ) -> None:
        body = f"""
        async def run(self):
            import threading
            async def fails():
                assert False, "no"
            def wrong():
                raise ValueError("w")
            {line}
        """
        verdict = await execute(bench.assignment(body), link)
        assert (verdict.state, verdict.message) == (state, f"{message} (the test did not await it)")
        assert "bench1_test.py" in verdict.traceback

    @pytest.mark.parametrize(
        "line",
        [
            "task.cancel()",
            "await asyncio.gather(fails(), return_exceptions=True)",
            "(await asyncio.wait({asyncio.create_task(fails())}))[0].pop().exception()",
            "with contextlib.suppress(AssertionError): await fails()",
        ],
    )
    async def test_what_was_seen_does_not(self, bench: "WorkerHarness", link: "FakeLink", line: str) -> None:
        body = f"""
        async def run(self):
            import contextlib
            async def fails():
                assert False, "no"
            task = asyncio.create_task(asyncio.sleep(5000))
            await asyncio.sleep(0)
            {line}
            task.cancel()
        """
        verdict = await execute(bench.assignment(body), link)
        assert verdict.state is State.SUCCESS, verdict

    async def test_a_test_that_ends_during_an_action(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        async def never(role: str, action: str, data: object) -> dict[str, object]:
            await asyncio.sleep(5000)
            return {}

        link.answer = never
        body = """
        async def run(self, alice):
            self.kept = [asyncio.create_task(alice.send_message(text)) for text in "ab"]
            await asyncio.sleep(0.01)
            self.kept[0].cancel()

        async def teardown(self):
            self.kept[1].cancel()
        """
        verdict = await execute(bench.assignment(body, clients=("alice",)), link)
        assert (verdict.state, verdict.message) == (
            State.ERROR,
            "the test ended without waiting for alice.send_message()",
        )


class TestSkips:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (
                "try: assert False, 'no'\n    finally: raise errors.UnsupportedError('logout')",
                "no; then skipped: logout",
            ),
            ("try: assert False, 'no'\n    finally: self.skip('why')", "no; then skipped: why"),
            (
                "try: raise errors.ActionError('a')\n    finally: raise errors.UnsupportedError('u')",
                "a; then skipped: u",
            ),
        ],
    )
    async def test_they_do_not_hide_a_failure(
        self, bench: "WorkerHarness", link: "FakeLink", body: str, message: str
    ) -> None:
        verdict = await execute(bench.assignment(f"async def run(self):\n    {body}"), link)
        assert (verdict.state, verdict.message) == (State.FAILURE, message)

    async def test_a_test_may_skip_when_a_client_fails(
        self, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        body = """
        async def run(self):
            try:
                raise errors.ActionError("no")
            except errors.ActionError:
                self.skip("cannot")
        """
        assert (await execute(bench.assignment(body), link)).state is State.SKIPPED

    async def test_they_do_not_hide_a_failed_tear_down(
        self, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        body = """
        async def run(self):
            self.skip("x")

        async def teardown(self):
            assert False, "left over"
        """
        verdict = await execute(bench.assignment(body), link)
        assert (verdict.state, verdict.message) == (State.FAILURE, "left over")


class TestNeverAwaited:
    """It makes the case an error: nothing that such a test asked for has happened."""

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("alice.perform('dance')", "alice.perform"),
            ("alice.send_message('hi')", "alice.send_message"),
            ("dropped = [alice.send_message('hi')]; del dropped", "alice.send_message"),
            ("asyncio.create_task(alice.send_message('hi'))", "alice.send_message"),
            ("asyncio.gather(alice.send_message('hi'))", "alice.send_message"),
            ("self.eventually(lambda: True)", "self.eventually"),
            ("self.help(alice)", "self.help"),
            ("alice.send_message('hi'); assert False, 'bob has no message'", "alice.send_message"),
            ("alice.send_message('hi'); self.skip('later')", "alice.send_message"),
            ("self.kept = alice.send_message('hi')", "alice.send_message"),
            ("MatrixClient.send_message(alice, 'hi')", "alice.send_message"),
            ("helper(alice)", "helper"),
            ("[(lambda: helper(alice))() for _ in range(1)]", "helper"),
            ("Page(alice).check()", "Page.check"),
            ("self.alone()", "T.alone"),
            ("type(self).of_class()", "T.of_class"),
        ],
    )
    async def test_it_is_named_with_its_line(
        self, bench: "WorkerHarness", link: "FakeLink", line: str, name: str
    ) -> None:
        (bench.folder / "strangers.py").write_text(HELPERS)
        methods = "async def help(self, client): ...\n@staticmethod\nasync def alone(): ...\n"
        methods += "@classmethod\nasync def of_class(cls): ...\n"
        imports = "from strangers import MatrixClient, Page, helper"
        body = f"{methods}async def run(self, alice):\n    {imports}; {line}"
        verdict = await execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.state is State.ERROR, verdict
        assert re.match(rf"{name}\(\) was never awaited \(bench1_test.py:\d+\)", verdict.message)
        assert ("; then failure: bob has no message" in verdict.message) == ("bob" in line)
        assert not link.performed

    async def test_those_that_were_awaited(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = """
        async def run(self, alice):
            await alice.send_message("1")
            await asyncio.gather(alice.send_message("2"), alice.send_message("3"))
            task = asyncio.create_task(alice.send_message("4"))
            await task
            cancelled = asyncio.create_task(alice.send_message("5"))
            cancelled.cancel()
            await self.eventually(lambda: alice.perform("dance"))
        """
        verdict = await execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.state is State.SUCCESS, verdict.message

    async def test_in_a_helper_it_is_the_line_of_the_test(
        self, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        (bench.folder / "helping.py").write_text("def greet(client):\n    client.send_message('hi')\n")
        body = "async def run(self, alice):\n    import helping\n    helping.greet(alice)"
        verdict = await execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.message == "alice.send_message() was never awaited (bench1_test.py:9)"


class TestDeadline:
    async def test_a_test_that_hangs(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        assignment = bench.assignment("async def run(self):\n    await asyncio.sleep(5000)", case=0.05)
        verdict = await execute(assignment, link)
        assert (verdict.state, verdict.message) == (
            State.ERROR,
            "not done within 0.05 s, the case's deadline",
        )
        assert "asyncio.sleep(5000)" in verdict.traceback, "it says where"

    @pytest.mark.parametrize(
        "line",
        [
            "with contextlib.suppress(asyncio.CancelledError): await asyncio.sleep(5000)",
            "time.sleep(0.1)",
        ],
    )
    async def test_a_test_that_does_not_care(
        self, bench: "WorkerHarness", link: "FakeLink", line: str
    ) -> None:
        body = f"async def run(self):\n    import contextlib\n    {line}"
        verdict = await execute(bench.assignment(body, case=0.05), link)
        assert (verdict.state, verdict.message) == (
            State.ERROR,
            "not done within 0.05 s, the case's deadline",
        )

    async def test_set_up_counts(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = """
        async def setup(self):
            await asyncio.sleep(5000)

        async def run(self):
            pass
        """
        assert (await execute(bench.assignment(body, case=0.05), link)).phase == "setup"

    async def test_what_is_left_of_it(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = """
        async def run(self):
            self.record("remaining", self.deadline.remaining)
        """
        await execute(bench.assignment(body, case=20), link)
        (remaining,) = link.values
        assert 0 < remaining <= 20


@pytest.mark.parametrize(
    ("value", "kept", "problem"),
    [
        ("None", [], ""),
        ("{'sent': 3, 'seconds': [0.5, None]}", [{"value": {"sent": 3, "seconds": [0.5, None]}}], ""),
        ("(0, '\\ud800')", [{"value": [0, "\ud800"]}], ""),
        ("{1, 2}", [{}], "it is not JSON: Object of type set is not JSON serializable"),
        ("float('nan')", [{}], "it is not JSON: Out of range float values are not JSON compliant"),
        ("'x' * 100_000", [{}], "it has more than 99,900 characters of JSON"),
        ("[[]] * 10_000_000", [{}], "it has more than 99,900 characters of JSON"),
        ("x", [{}], "it is not JSON: Circular reference detected"),
        ("deep(60)", [{}], "it is nested more than 50 levels deep"),
        ("deep(5000)", [{}], "it is not JSON: maximum recursion depth exceeded"),
        ("Evil(a=1)", [{}], "it is not JSON: RuntimeError"),
        ("asyncio.Lock()", [{}], "it is not JSON: Object of type Lock is not JSON serializable"),
    ],
)
async def test_what_a_test_returns_is_kept_or_said_to_be_lost(
    bench: "WorkerHarness", link: "FakeLink", value: str, kept: list[object], problem: str
) -> None:
    body = f"""
    async def run(self):
        class Evil(dict):
            def items(self): raise RuntimeError
        def deep(levels):
            found = []
            for _ in range(levels):
                found = [found]
            return found
        x = []
        x.append(x)
        return {value}
    """
    verdict = await execute(bench.assignment(body), link)
    assert (verdict.state, verdict.message) == (State.SUCCESS, "")
    returned = [event for event in link.emitted if isinstance(event, Returned)]
    assert [event.result for event in returned] == kept
    assert [event.problem.startswith(problem) for event in returned] == [True] * len(kept)
    warned = [event.message for event in link.emitted if isinstance(event, Log)]
    assert [text.startswith(f"what run() returned is lost: {problem}") for text in warned] == [True] * bool(
        problem
    )


TEARDOWN = """

async def teardown(self):
    self.record("torn down", 1)
"""


class TestTearDown:
    @pytest.mark.parametrize(
        "run",
        ["pass", "assert False", "self.skip('x')", "raise SystemExit", "await asyncio.sleep(5000)", "1 / 0"],
    )
    async def test_in_every_ending(self, bench: "WorkerHarness", link: "FakeLink", run: str) -> None:
        await execute(bench.assignment(f"async def run(self):\n    {run}{TEARDOWN}", case=0.2), link)
        assert link.emitted == [Measurement(name="torn down", value=1.0)]

    async def test_also_when_set_up_fails(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = "async def setup(self):\n    1 / 0\n\nasync def run(self):\n    pass" + TEARDOWN
        verdict = await execute(bench.assignment(body), link)
        assert (verdict.state, verdict.phase) == (State.ERROR, "setup")
        assert Measurement(name="torn down", value=1.0) in link.emitted

    async def test_also_when_it_is_called_off(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = (
            "async def run(self):\n    self.logger.info('running')\n    await asyncio.sleep(5000)" + TEARDOWN
        )
        task = asyncio.create_task(execute(bench.assignment(body), link))
        await link.logged_event.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert Measurement(name="torn down", value=1.0) in link.emitted

    async def test_its_error_makes_a_success_an_error(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = (
            "async def run(self):\n    pass\n\nasync def teardown(self):\n    raise ValueError('left over')"
        )
        verdict = await execute(bench.assignment(body), link)
        assert (verdict.state, verdict.message, verdict.phase) == (
            State.ERROR,
            "ValueError: left over",
            "teardown",
        )

    async def test_its_error_does_not_hide_the_tests(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = "async def run(self):\n    assert 0, 'this'\n\nasync def teardown(self):\n    raise ValueError"
        verdict = await execute(bench.assignment(body), link)
        assert (verdict.state, verdict.message, verdict.phase) == (State.FAILURE, "this", "run")

    async def test_it_has_a_deadline(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = "async def run(self):\n    pass\n\nasync def teardown(self):\n    await asyncio.sleep(5000)"
        verdict = await execute(bench.assignment(body, teardown=0.05), link)
        assert verdict.message == "the tear-down was not done within 0.05 s"

    async def test_a_cancelled_error_of_its_own(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = "async def run(self):\n    pass\n\nasync def teardown(self):\n    raise asyncio.CancelledError"
        verdict = await execute(bench.assignment(body), link)
        assert (verdict.state, verdict.phase) == (State.ERROR, "teardown")


async def test_a_file_that_has_changed(bench: "WorkerHarness", link: "FakeLink") -> None:
    assignment = bench.assignment("async def run(self):\n    pass")
    gone = replace(assignment, case=replace(assignment.case, class_name="Gone"))
    verdict = await execute(gone, link)
    assert (verdict.state, verdict.phase) == (State.ERROR, "load")
    assert "there is no test Gone in it (has the file changed?)" in verdict.message


class TestWhatItLeaves:
    async def test_prints_and_logs(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = """
        async def run(self):
            print("printed")
            print("on standard error", file=sys.stderr)
            print("without an end", end="")
            self.logger.info("logged")
            self.logger.debug("a detail")
            logging.getLogger("some.library").warning("of a library")
            await asyncio.to_thread(print, "in a thread")
        """
        assignment = bench.assignment(body)
        with capturing():
            await execute(assignment, link)
        info = (assignment.folder / "log.info").read_text()
        for text in (
            "printed",
            "on standard error",
            "without an end",
            "logged",
            "of a library",
            "in a thread",
        ):
            assert text in info
        assert "a detail" not in info
        assert "a detail" in (assignment.folder / "log.debug").read_text()
        assert link.emitted == [Log(level="info", logger="test", message="logged")]

    async def test_two_in_one_process_have_a_log_each(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = """
        async def run(self):
            for n in range(20):
                print(self.case.folder.name, end=" ")
                await asyncio.sleep(0)
        """
        some = [bench.assignment(body) for _ in range(3)]
        with capturing():
            await asyncio.gather(*(execute(one, link) for one in some))
        for one in some:
            words = (one.folder / "log.info").read_text().split("output: ")[1].split()
            assert words == [one.folder.name] * 20

    async def test_records_and_attachments(self, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = """
        async def run(self):
            self.record("delay", 1.5, "ms")
            self.attach("shot.png", b"abc")
            self.attach("shot.png", b"abc")
        """
        assignment = bench.assignment(body)
        await execute(assignment, link)
        assert link.emitted == [
            Measurement(name="delay", value=1.5, unit="ms"),
            Attachment(name="shot.png", path="attachments/shot.png", size=3, media_type="image/png"),
            Attachment(name="shot.png", path="attachments/shot-2.png", size=3, media_type="image/png"),
        ]
        assert (assignment.folder / "attachments" / "shot-2.png").read_bytes() == b"abc"


async def test_every_step_says_which_line_of_the_test_asked(bench: "WorkerHarness", link: "FakeLink") -> None:
    """Of a task, too, which the test awaits: it is on no stack of the test."""
    body = """
    async def run(self, alice):
        with self.step("all of it"):
            await alice.perform("one")
            await asyncio.gather(alice.perform("two"))
        async with self.step("nothing"): pass
        async def never(): return False
        await self.eventually(never, 0.01)
    """
    verdict = await execute(bench.assignment(body, clients=("alice",)), link)
    (failed,) = (line for line in verdict.source.splitlines() if line.startswith(">"))
    assert "await self.eventually(never, 0.01)" in failed
    lines = {name: int(where.rpartition(":")[2]) for name, where in link.asked_at.items()}
    assert lines["two"] == lines["one"] + 1 == int(failed.split()[1]) - 3
    assert [(event.kind, event.name) for event in link.steps] == [
        ("step_began", "all of it"),
        ("step_ended", "all of it"),
        ("step_began", "nothing"),
        ("step_ended", "nothing"),
        ("step_began", "eventually"),
        ("step_ended", "eventually"),
    ]
    asynchronous, _, began, ended = link.steps[2:]
    assert isinstance(began, StepBegan)
    assert isinstance(asynchronous, StepBegan)
    assert asynchronous.where == f"bench1_test.py:{lines['two'] + 1}"
    assert began.where == f"bench1_test.py:{failed.split()[1]}"
    assert isinstance(ended, StepEnded)
    assert "did not hold within 0.01 s" in ended.problem
