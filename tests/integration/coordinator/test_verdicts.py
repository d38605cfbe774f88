"""From what goes wrong to what is said of it, over the real engine with scripted adapters."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trafficlight.coordinator.attempt import Attempt
from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.protocol import ErrorBody, JsonObject, Registration
from trafficlight.results.case import Outcome
from trafficlight.results.events import ActionAnswered, Log, ServerFailed, State

if TYPE_CHECKING:
    from tests.integration.coordinator.conftest import EngineHarness

MakeBay = Callable[..., Any]

ONE = """
class One(Test):
    clients = {{"alice": Nio}}

    async def run(self, alice):
        {body}
"""

TWO = """
class Two(Test):
    clients = {{"alice": Nio, "bob": ElementWebStable}}

    async def run(self, alice, bob):
        {body}
"""

CATCHES = "\n        ".join(["try: await alice.perform('x')", "except Exception: pass"])

SERVER = """
class Served(Test):
    servers = {"server": SynapseStable}

    async def run(self, server):
        self.logger.info("running")
        await server.restart()
"""


class TestActions:
    async def test_success(self, bay: "EngineHarness") -> None:
        player = bay.player()
        session = await bay.submit(
            ONE.format(body="assert (await alice.perform('dance'))['response'] == 'dance'")
        )
        case = (await bay.ended(session))["One[alice=Nio]"]
        assert case.state is State.SUCCESS
        assert player.exits[0] == "the case ended: success"

    async def test_an_action_that_is_not_declared_is_not_sent(self, bay: "EngineHarness") -> None:
        player = bay.player(actions=["send", "wait"])
        session = await bay.submit(
            ONE.format(body="await alice.perform('send'); await alice.perform('sing')")
        )
        case = (await bay.ended(session))["One[alice=Nio]"]
        assert case.state is State.SKIPPED
        assert case.message == "alice: sing: this nio adapter declares its actions, without it"
        assert player.actions == ["send"]
        assert player.exits[0] == "the case ended: skipped"

    async def test_large_answer_is_a_file_of_the_case(self, bay: "EngineHarness") -> None:
        large = {"response": "x", "big": "x" * 1_000_000, "token": "secret"}
        bay.player(lambda action, data: large)
        session = await bay.submit(
            ONE.format(body="assert len((await alice.perform('x'))['big']) == 1_000_000")
        )
        case = (await bay.ended(session))["One[alice=Nio]"]
        assert case.state is State.SUCCESS, case.message
        (file,) = case.attempts[0].files
        path = session.folder.path / case.attempts[0].folder / file.path
        assert json.loads(path.read_text()) == large | {"token": "***"}
        assert file.size == path.stat().st_size
        answered = next(event for event in bay.events if isinstance(event, ActionAnswered))
        assert "left out" in answered.response["big"]

    async def test_large_error_is_a_file_of_the_case(self, bay: "EngineHarness") -> None:
        details = "x" * 1_000_000
        bay.player(lambda action, data: {"response": "error", "error": details})
        session = await bay.submit(ONE.format(body="await alice.perform('x')"))
        case = (await bay.ended(session))["One[alice=Nio]"]
        assert case.state is State.FAILURE
        (file,) = case.attempts[0].files
        path = session.folder.path / case.attempts[0].folder / file.path
        assert path.read_text() == details
        assert len(case.message) < 11_000

    @pytest.mark.parametrize("answer", [{"response": "error"}, {"response": "error", "error": "no room"}])
    async def test_the_response_error_is_a_failure(self, bay: "EngineHarness", answer: JsonObject) -> None:
        bay.player(lambda action, data: answer)
        case = (await bay.ended(await bay.submit(ONE.format(body="await alice.perform('dance')"))))[
            "One[alice=Nio]"
        ]
        assert case.state is State.FAILURE
        assert case.message.startswith("alice: dance: ")

    async def test_never_answered(self, bay_with: MakeBay) -> None:
        """It polls on and on, and the case ends all the same."""
        bay = await bay_with(action=0.2)
        bay.play_once(lambda action, data: None)
        case = (await bay.ended(await bay.submit(ONE.format(body="await alice.perform('dance')"))))[
            "One[alice=Nio]"
        ]
        assert case.state is State.ERROR
        assert case.message.startswith("alice: did not answer dance within 0.2 s")

    async def test_never_fetched(self, bay_with: MakeBay) -> None:
        bay = await bay_with(action=0.1)
        bay.engine.pool.register("silent", Registration.model_validate({"type": "nio"}))
        case = (await bay.ended(await bay.submit(ONE.format(body="await alice.perform('dance')"))))[
            "One[alice=Nio]"
        ]
        assert (case.state, case.message) == (State.ERROR, "alice: did not fetch dance within 0.1 s")

    async def test_a_case_that_takes_too_long_says_what_it_was_at(self, bay_with: MakeBay) -> None:
        bay = await bay_with(case=3)
        bay.play_once(lambda action, data: None)
        case = (await bay.ended(await bay.submit(ONE.format(body="await alice.perform('dance')"))))[
            "One[alice=Nio]"
        ]
        assert case.state is State.ERROR
        assert case.message.startswith(
            "not done within 3 s, the case's deadline; alice was performing dance for "
        )

    async def test_a_case_that_takes_too_long_while_a_client_verifies(self, bay_with: MakeBay) -> None:
        """What did not become true within the time limit is the client's failure, as after its own limit."""
        bay = await bay_with(case=3)
        bay.play_once(lambda action, data: None)
        body = "await alice.perform('verify_message_in_timeline', message='hi')"
        case = (await bay.ended(await bay.submit(ONE.format(body=body))))["One[alice=Nio]"]
        message = "alice: verify_message_in_timeline: not true within 3 s, the case's deadline"
        assert (case.state, case.message) == (State.FAILURE, message)

    async def test_a_case_that_takes_too_long_while_others_do_something_else(self, bay_with: MakeBay) -> None:
        bay = await bay_with(case=3)
        bay.play_once(lambda action, data: None)
        bay.play_once(lambda action, data: None, type="element-web")
        body = "await asyncio.gather(alice.perform('verify_it'), bob.perform('dance'))"
        case = (await bay.ended(await bay.submit(TWO.format(body=body))))[
            "Two[alice=Nio,bob=ElementWebStable]"
        ]
        assert case.state is State.ERROR

    async def test_data_that_cannot_be_json(self, bay: "EngineHarness") -> None:
        bay.player()
        body = "await alice.perform('dance', partner=object())"
        case = (await bay.ended(await bay.submit(ONE.format(body=body))))["One[alice=Nio]"]
        assert case.state is State.ERROR
        assert case.message.startswith("TypeError: dance: cannot be sent as JSON: partner=<object")


class TestAdapters:
    @pytest.mark.parametrize(("type", "state"), [("action", State.FAILURE), ("adapter", State.ERROR)])
    async def test_an_error_while_the_test_waits_for_another_client(
        self, bay: "EngineHarness", type: str, state: State
    ) -> None:
        bay.play_once()
        bob = bay.engine.pool.register("bob", Registration.model_validate({"type": "element-web"}))
        session = await bay.submit(TWO.format(body="await bob.perform('wait')"))
        assert (await bob.channel.poll(20)).action == "wait"
        alice = next(one for one in bay.engine.pool if one.role == "alice")
        bay.engine.pool.report(alice, ErrorBody(type=type, path="a.ts:1", details="lost my room"))
        case = (await bay.ended(session))["Two[alice=Nio,bob=ElementWebStable]"]
        assert case.state is state
        assert "lost my room" in case.message

    @pytest.mark.parametrize("details", ["no such room", "x: no such room"])
    async def test_the_message_names_the_action_once(self, bay: "EngineHarness", details: str) -> None:
        """Some adapters name it themselves."""
        alice = bay.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
        session = await bay.submit(ONE.format(body="await alice.perform('x')"))
        await alice.channel.poll(20)
        bay.engine.pool.report(alice, ErrorBody(type="action", details=details))
        case = (await bay.ended(session))["One[alice=Nio]"]
        assert case.message == "alice: x: no such room"

    @pytest.mark.parametrize(
        ("report", "caught", "uncaught"),
        [
            ({"response": "error", "error": "no room"}, State.SUCCESS, State.FAILURE),
            (ErrorBody(type="action", details="no room"), State.SUCCESS, State.FAILURE),
            (ErrorBody(type="unknown", details="x: no room"), State.SUCCESS, State.FAILURE),
            (ErrorBody(type="unsupported", details="no room"), State.SUCCESS, State.SKIPPED),
            (ErrorBody(type="adapter", details="no room"), State.ERROR, State.ERROR),
        ],
    )
    async def test_one_rule_for_what_a_test_may_catch(
        self,
        bay: "EngineHarness",
        report: JsonObject | ErrorBody,
        caught: State,
        uncaught: State,
    ) -> None:
        """An action's failure may be caught, however the adapter reports it; an adapter's failure may not."""
        bodies = (CATCHES, "await alice.perform('x')")
        for uuid, body, state in zip("ab", bodies, (caught, uncaught), strict=True):
            alice = bay.engine.pool.register(uuid, Registration.model_validate({"type": "nio"}))
            session = await bay.submit(ONE.format(body=body))
            message = await alice.channel.poll(20)
            if isinstance(report, ErrorBody):
                bay.engine.pool.report(alice, report)
            else:
                alice.channel.respond(message.id, report)
            case = (await bay.ended(session))["One[alice=Nio]"]
            assert case.state is state
            assert case.message == ("" if state is State.SUCCESS else "alice: x: no room")

    async def test_a_deadline_may_not_be_caught(self, bay_with: MakeBay) -> None:
        bay = await bay_with(action=0.1)
        bay.play_once(lambda action, data: None)
        for body in (CATCHES, CATCHES + "\n        assert False, 'blames the client'"):
            case = (await bay.ended(await bay.submit(ONE.format(body=body))))["One[alice=Nio]"]
            assert case.state is State.ERROR
            assert case.message.startswith("alice: did not answer x within 0.1 s")
            bay.play_once(lambda action, data: None)

    async def test_an_adapter_that_was_lost_may_not_be_caught(self, bay: "EngineHarness") -> None:
        alice = bay.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
        session = await bay.submit(ONE.format(body=CATCHES))
        await alice.channel.poll(20)
        bay.engine.pool.lose(alice, "its process exited")
        case = (await bay.ended(session))["One[alice=Nio]"]
        assert case.state is State.ERROR
        assert case.message.startswith("alice: x: its process exited")

    async def test_actions_that_no_adapter_of_the_type_declares(self, bay_with: MakeBay) -> None:
        """Such a case is skipped; it is an error if an adapter does not say what it supports."""
        text = ONE.replace("Nio}}", "Nio(actions=['fly', 'dance'])}}").format(body="pass")
        case_id = "One[alice=Nio(actions=dance+fly)]"
        bay = await bay_with()
        bay.player(actions=["dance", "sing"])
        bay.engine.adapters_deadline = lambda: 0.1
        case = (await bay.ended(await bay.submit(text)))[case_id]
        assert case.outcome is Outcome.SKIPPED
        message = "alice: no nio adapter supports fly; all of them declare their actions"
        assert (case.skip_type, case.message) == ("unsupported", message)
        bay.player(type="element-web")
        bay.engine.pool.register("old", Registration.model_validate({"type": "nio", "version": "1"}))
        session = await bay.submit(text.replace("Nio(actions", "Nio(version='>2', actions"))
        (case,) = (await bay.ended(session)).values()
        assert case.state is State.ERROR

    async def test_one_that_is_gone_ends_its_case(self, bay: "EngineHarness") -> None:
        alice = bay.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
        session = await bay.submit(ONE.format(body="await alice.perform('x')"))
        await alice.channel.poll(20)
        bay.engine.pool.lose(alice, "its process ended (signal 9)")
        case = (await bay.ended(session))["One[alice=Nio]"]
        assert case.state is State.ERROR
        assert "its process ended (signal 9); x is outstanding for" in case.message

    async def test_one_that_erred_before_is_never_allocated(self, bay: "EngineHarness") -> None:
        broken = bay.engine.pool.register("broken", Registration.model_validate({"type": "nio"}))
        bay.engine.pool.report(broken, ErrorBody(type="adapter", details="no browser"))
        session = await bay.submit(ONE.format(body="await alice.perform('dance')"))
        await asyncio.sleep(0)
        assert broken.lease is None
        bay.player()
        assert (await bay.ended(session))["One[alice=Nio]"].state is State.SUCCESS
        assert broken.lease is None


class TestHomeservers:
    async def test_a_case_without_any_watches_none(
        self, bay: "EngineHarness", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Attempt, "_homeserver_lost", None)
        bay.player()
        case = await bay.ended(await bay.submit(ONE.format(body="await alice.perform('x')")))
        assert case["One[alice=Nio]"].state is State.SUCCESS

    async def test_it_is_given_and_destroyed(self, bay: "EngineHarness") -> None:
        case = (await bay.ended(await bay.submit(SERVER)))["Served[server=SynapseStable]"]
        assert case.attempts[-1].servers["server"].image == "fake:1"
        assert case.state is State.SUCCESS
        assert [server.operations for server in bay.provider.deployed] == [["restart"]]
        assert not bay.provider.running

    async def test_it_does_not_come_up(self, bay: "EngineHarness", deploy_error: DeployError) -> None:
        bay.provider.fails = deploy_error
        case = (await bay.ended(await bay.submit(SERVER)))["Served[server=SynapseStable]"]
        assert case.state is State.ERROR
        assert "synapse did not answer" in case.message
        assert "KeyError: 'server_name'" in case.message, "the log is there"
        assert any(isinstance(event, ServerFailed) for event in bay.events)

    async def test_it_hangs(self, bay_with: MakeBay) -> None:
        bay = await bay_with(prepare=0.1)
        bay.provider.hangs = True
        case = (await bay.ended(await bay.submit(SERVER)))["Served[server=SynapseStable]"]
        assert (case.state, case.message) == (State.ERROR, "the homeservers did not answer within 0.1 s")

    async def test_the_provider_has_a_bug(self, bay: "EngineHarness") -> None:
        bay.provider.fails = KeyError("port")
        case = (await bay.ended(await bay.submit(SERVER)))["Served[server=SynapseStable]"]
        assert case.state is State.ERROR
        assert case.message == "internal error of the coordinator: KeyError: 'port'"

    async def test_it_can_never_be_deployed(self, bay: "EngineHarness") -> None:
        bay.provider.refuses = "no Go compiler"
        case = (await bay.ended(await bay.submit(SERVER)))["Served[server=SynapseStable]"]
        assert (case.state, case.message) == (State.SKIPPED, "no Go compiler")

    async def test_it_turns_out_to_be_unsupported(self, bay: "EngineHarness") -> None:
        bay.provider.fails = UnsupportedError("this image has no such version")
        case = (await bay.ended(await bay.submit(SERVER)))["Served[server=SynapseStable]"]
        assert case.state is State.SKIPPED

    async def test_it_cannot_be_destroyed(self, bay: "EngineHarness") -> None:
        bay.provider.fails_to_destroy = DeployError("it does not let go")
        case = (await bay.ended(await bay.submit(SERVER)))["Served[server=SynapseStable]"]
        assert (case.state, case.message) == (State.ERROR, "it does not let go")

    async def test_that_does_not_hide_what_the_test_found(self, bay: "EngineHarness") -> None:
        bay.provider.fails_to_destroy = DeployError("it does not let go")
        failing = SERVER + "        assert False, 'found something'\n"
        case = (await bay.ended(await bay.submit(failing)))["Served[server=SynapseStable]"]
        assert (case.state, case.message) == (State.FAILURE, "found something")

    @pytest.mark.parametrize("wrong", ["1 / 0", "assert False"])
    async def test_one_that_died_is_named_and_no_client_is_blamed(
        self, bay: "EngineHarness", wrong: str, tmp_path: Path
    ) -> None:
        lines = f"""import os
        while not os.path.exists({str(tmp_path / "died")!r}): await asyncio.sleep(0.01)
        {wrong}"""
        session = await bay.submit(SERVER.replace("await server.restart()", lines))
        await bay.until(Log, message="running")
        bay.provider.running[0].exited = "signal 9"
        (tmp_path / "died").touch()
        case = (await bay.ended(session))["Served[server=SynapseStable]"]
        assert case.state is State.ERROR
        assert case.message.endswith("; the homeserver server exited (signal 9)")
        assert "cancelled" not in case.message, "the test ended by itself"


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("raise SystemExit", State.ERROR),
        ("raise asyncio.CancelledError", State.ERROR),
        ("asyncio.current_task().cancel(); await asyncio.sleep(1)", State.ERROR),
        ("self.skip('not now')", State.SKIPPED),
        ("raise ExceptionGroup('', [AssertionError('a')])", State.FAILURE),
    ],
)
async def test_odd_endings(bay: "EngineHarness", body: str, state: State) -> None:
    bay.player()
    case = (await bay.ended(await bay.submit(ONE.format(body=body))))["One[alice=Nio]"]
    assert case.state is state
