"""Registration, leases, and lost adapters."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from trafficlight.cli.serve import Arrivals
from trafficlight.coordinator import pool as pool_module
from trafficlight.coordinator.adapter import AdapterState, RegistrationConflictError, UnknownAdapterError
from trafficlight.errors import ActionError, AdapterError
from trafficlight.protocol import ErrorBody, Registration
from trafficlight.results.events import AdapterLeased, AdapterLost, AdapterRegistered

if TYPE_CHECKING:
    from tests.unit.coordinator.conftest import PoolHarness
    from trafficlight.coordinator.adapter import Adapter


class TestRegistration:
    def test_the_scheduler_looks_again(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        assert yard.pool.free == [adapter]
        assert yard.changes == 1
        assert yard.kinds == [AdapterRegistered.kind]
        assert yard.pool.get("a") is adapter

    def test_the_same_again_changes_nothing(self, yard: "PoolHarness") -> None:
        first = yard.adapter()
        yard.clock.elapsed += 10
        assert yard.adapter() is first
        assert (len(yard.pool), yard.changes, len(yard.events)) == (1, 1, 1)
        assert first.seen == yard.clock.elapsed, "it is a sign of life"

    def test_other_data_are_refused(self, yard: "PoolHarness") -> None:
        yard.adapter()
        with pytest.raises(RegistrationConflictError, match="other data"):
            yard.adapter(type="element-web")

    def test_a_uuid_that_has_ended_is_refused(self, yard: "PoolHarness") -> None:
        yard.pool.lose(yard.adapter(), "its process ended")
        with pytest.raises(RegistrationConflictError, match="its process ended"):
            yard.adapter()

    def test_those_that_never_poll_are_bounded(self, yard: "PoolHarness") -> None:
        polls = yard.adapter("polls")
        yard.pool.seen(polls)
        many = [yard.adapter(f"a{number}", note="x" * 60_000) for number in range(1000)]
        there = [one for one in many if one.state is AdapterState.FREE]
        assert there == many[-len(there) :], "the newest stay"
        assert 200 < len(there) < 300
        assert "never polled" in many[0].reason
        assert polls.state is AdapterState.FREE
        assert sum(len(str(one.fields)) for one in yard.pool) < 40_000_000, "nor are ended ones kept"

    def test_programs_are_forgotten(self, yard: "PoolHarness", monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool_module, "_REMEMBERED", 3)
        for number in range(5):
            lease = yard.lease(alice=yard.adapter(f"a{number}", instance=f"program {number}"))
            yard.pool.judge(lease, ["alice"])
            yard.pool.release(lease, "the case ended")
        assert (
            list(yard.pool.leases) == list(yard.pool._failed_in_a_row) == [f"program {n}" for n in (2, 3, 4)]
        )

    def test_nobody_knows_a_stranger(self, yard: "PoolHarness") -> None:
        with pytest.raises(UnknownAdapterError, match="no adapter has registered as x"):
            yard.pool.get("x")


class TestExit:
    def test_the_time_since_the_last_adapter_of_a_program_ended(self, yard: "PoolHarness") -> None:
        one, two = (yard.pool.register(uuid, Registration(type="nio", instance="p")) for uuid in "ab")
        yard.pool.end(one, "told to")
        assert yard.pool.since_exit("p") is None, "another one has not ended"
        lease = yard.lease(alice=two)
        yard.pool.release(lease, "the case ended")
        yard.clock.elapsed += 5
        assert yard.pool.since_exit("p") == yard.pool.since_exit("p", after_case=True) == 5
        three = yard.pool.register("c", Registration(type="nio", instance="p"))
        assert yard.pool.since_exit("p") is None, "it has registered again"
        assert yard.pool.known_types == Counter(one.type for one in yard.pool), "also of those that ended"
        yard.pool.end(three, "told to")
        yard.pool.end(three, "told to")
        assert (yard.pool.since_exit("p"), yard.pool.since_exit("p", after_case=True)) == (0, None)


class TestLeases:
    def test_the_adapters_are_held(self, yard: "PoolHarness") -> None:
        alice, bob, other = yard.adapter("a"), yard.adapter("b"), yard.adapter("c")
        lease = yard.lease(alice=alice, bob=bob)
        assert [alice.state, bob.state, other.state] == [AdapterState.LEASED] * 2 + [AdapterState.FREE]
        assert yard.pool.free == [other]
        assert (alice.role, alice.held_by, bob.held_by) == ("alice", lease, lease)
        event = yard.events[-1]
        assert (event.kind, event.case, event.role, event.adapter) == (
            AdapterLeased.kind,
            lease.case,
            "bob",
            "b",
        )

    def test_all_or_none(self, yard: "PoolHarness") -> None:
        alice, bob = yard.adapter("a"), yard.adapter("b")
        yard.lease(bob=bob)
        with pytest.raises(AdapterError, match="bob: the nio adapter b is no longer free"):
            yard.lease(alice=alice, bob=bob)
        assert alice.state is AdapterState.FREE
        assert yard.pool.free == [alice]

    async def test_released_adapters_are_told_to_exit(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        lease = yard.lease(alice=adapter)
        yard.pool.release(lease, "the case ended: success")
        message = await adapter.channel.poll(0)
        assert (message.action, message.data) == ("exit", {"reason": "the case ended: success"})
        assert adapter.state is AdapterState.ENDED
        assert adapter.lease is lease, "late uploads still belong to the case"
        assert yard.pool.free == []

    def test_releasing_twice_is_releasing_once(self, yard: "PoolHarness") -> None:
        lease = yard.lease(alice=yard.adapter())
        yard.pool.release(lease, "first")
        count = len(yard.events)
        yard.pool.release(lease, "second")
        assert len(yard.events) == count


class TestLosing:
    def test_a_free_adapter_is_dropped_with_a_reason(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        yard.pool.lose(adapter, "its process ended (signal 9)")
        assert (adapter.state, yard.pool.free) == (AdapterState.ENDED, [])
        assert "signal 9" in adapter.reason
        assert yard.changes == 2, "why the others wait may have changed"

    async def test_a_leased_one_ends_what_is_outstanding(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        yard.lease(alice=adapter)
        asked = asyncio.create_task(adapter.channel.perform("login", {}, 30))
        await asyncio.sleep(0)
        yard.pool.lose(adapter, "its process ended")
        with pytest.raises(AdapterError, match="its process ended; login is outstanding"):
            await asked
        ((role, error, told),) = yard.failures
        assert (role, told) == ("alice", True)
        assert isinstance(error, AdapterError)

    async def test_a_report_while_an_action_waits_is_told_to_the_test(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        yard.lease(alice=adapter)
        asked = asyncio.create_task(adapter.channel.perform("login", {}, 30))
        await asyncio.sleep(0)
        yard.pool.report(adapter, ErrorBody(type="action", details="no such room"))
        with pytest.raises(ActionError, match="login: no such room"):
            await asked
        ((_, _, told),) = yard.failures
        assert told, "the test may catch it, and is not called off"

    def test_and_its_case_learns_of_it_when_nothing_is(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        yard.lease(alice=adapter)
        yard.pool.report(adapter, ErrorBody(type="action", details="no such room"))
        ((role, error, told),) = yard.failures
        assert (role, told) == ("alice", False)
        assert isinstance(error, ActionError)

    def test_an_error_before_any_case_takes_the_adapter_out(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        yard.pool.report(adapter, ErrorBody(type="adapter", details="no browser"))
        assert yard.pool.free == []
        assert "no browser" in adapter.reason

    def test_one_that_has_ended_is_not_lost_again(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        yard.pool.lose(adapter, "first")
        count = len(yard.events)
        yard.pool.lose(adapter, "second")
        yard.pool.report(adapter, ErrorBody())
        assert len(yard.events) == count


class TestSweeping:
    def test_the_silent_are_dropped(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        yard.clock.elapsed += 60
        yard.pool.sweep()
        assert yard.pool.free == [adapter]
        yard.clock.elapsed += 0.1
        yard.pool.sweep()
        assert adapter.state is AdapterState.ENDED
        assert "gave no sign of life for 60 s" in adapter.reason

    def test_a_sign_of_life_counts(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        for _ in range(5):
            yard.clock.elapsed += 50
            yard.pool.seen(adapter)
            yard.pool.sweep()
        assert adapter.state is AdapterState.FREE

    async def test_one_that_waits_in_a_poll_is_there(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        poll = asyncio.create_task(adapter.channel.poll(30))
        await asyncio.sleep(0)
        yard.clock.elapsed += 1000
        yard.pool.sweep()
        assert adapter.state is AdapterState.FREE
        poll.cancel()
        await asyncio.wait([poll])

    async def test_one_at_work_has_the_deadline_of_its_action(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter()
        yard.lease(alice=adapter)
        asked = asyncio.create_task(adapter.channel.perform("login", {}, 30))
        await asyncio.sleep(0)
        yard.clock.elapsed += 1000
        yard.pool.sweep()
        assert not yard.failures
        asked.cancel()
        await asyncio.wait([asked])

    def test_a_leased_one_that_is_silent_between_actions_is_lost_once(self, yard: "PoolHarness") -> None:
        yard.lease(alice=yard.adapter())
        for _ in range(5):
            yard.clock.elapsed += 100
            yard.pool.sweep()
        assert yard.kinds.count(AdapterLost.kind) == 1
        assert len(yard.failures) == 1


class TestClosing:
    async def test_everybody_is_told_to_exit(self, yard: "PoolHarness") -> None:
        adapters = [yard.adapter(f"a{n}") for n in range(3)]
        yard.pool.close("the lab ends")
        assert yard.pool.free == []
        for adapter in adapters:
            assert (await adapter.channel.poll(0)).data == {"reason": "the lab ends"}

    async def test_and_whoever_comes_late(self, yard: "PoolHarness") -> None:
        yard.pool.close("the lab ends")
        assert (await yard.adapter().channel.poll(0)).action == "exit"


def test_those_who_have_ended_are_forgotten_in_the_end(
    yard: "PoolHarness", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_REMEMBERED", 10)
    for number in range(50):
        yard.pool.lose(yard.adapter(f"a{number}"), "its process ended")
    assert len(yard.pool) == 10
    assert yard.pool.get("a49").uuid == "a49"
    with pytest.raises(UnknownAdapterError):
        yard.pool.get("a39")


class TestPrograms:
    """What is known of a program outside of its adapters' cases."""

    def errs(self, yard: "PoolHarness", adapter: "Adapter") -> None:
        lease = yard.lease(alice=adapter)
        yard.pool.judge(lease, ["alice"])
        yard.pool.release(lease, "the case ended")

    def test_a_program_without_an_instance_is_quarantined(
        self, yard: "PoolHarness", caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(3):
            self.errs(yard, yard.adapter(f"a{number}", program="nio at 10.0.0.1"))
        assert yard.adapter("next", program="nio at 10.0.0.1").quarantined
        assert "the nio adapter next is quarantined" in caplog.text
        assert [one.why for one in yard.pool.missing] == [
            "the nio adapter next is quarantined: its program erred in 3 cases in a row"
        ]
        assert not yard.adapter("other", program="nio at 10.0.0.2").quarantined

    def test_a_program_that_the_lab_starts_again_is_not_quarantined(self, yard: "PoolHarness") -> None:
        yard.pool.own_programs["secret"] = "p"
        for number in range(6):
            self.errs(yard, yard.adapter(f"a{number}", program="p"))
        assert not yard.adapter("next", program="p").quarantined

    def test_a_good_adapter_at_the_same_address_is_not_quarantined_at_once(self, yard: "PoolHarness") -> None:
        yard.adapter("good", program="nio at 10.0.0.1")
        for number in range(6):
            bad = yard.adapter(f"a{number}", program="nio at 10.0.0.1")
            assert not bad.quarantined
            self.errs(yard, bad)
        assert yard.adapter("next", program="nio at 10.0.0.1").quarantined

    def test_one_whose_case_has_not_ended_is_no_other_program(self, yard: "PoolHarness") -> None:
        for number in range(2):
            self.errs(yard, yard.adapter(f"a{number}", program="nio at 10.0.0.1"))
        last = yard.adapter("a2", program="nio at 10.0.0.1")
        lease = yard.lease(alice=last)
        yard.pool.report(last, ErrorBody(details="ENOSPC"))
        yard.pool.judge(lease, ["alice"])
        assert yard.adapter("next", program="nio at 10.0.0.1").quarantined

    def test_one_that_plays_two_roles_errs_once(self, yard: "PoolHarness") -> None:
        for number in range(2):
            lease = yard.lease(
                alice=yard.adapter(f"a{number}", program="p"), bob=yard.adapter(f"b{number}", program="p")
            )
            yard.pool.judge(lease, ["alice", "bob"])
            yard.pool.release(lease, "the case ended")
        assert not yard.adapter("next", program="p").quarantined

    def test_the_exit_of_a_process_counts_once_for_all_its_cases(self, yard: "PoolHarness") -> None:
        for exits in (1, 2, 3):
            leases = [
                yard.lease(alice=yard.adapter(f"a{exits}-{number}", program="p", instance="p"))
                for number in range(4)
            ]
            assert not any(adapter.paused for one in leases for adapter in one.adapters.values())
            yard.pool.process_exited("p", "signal 9")
            for lease in leases:
                yard.pool.judge(lease, ["alice"])
                yard.pool.release(lease, "the case ended")
        assert yard.adapter("next", program="p", instance="p").quarantined

    def test_a_process_that_exits_takes_its_adapters_along(self, yard: "PoolHarness") -> None:
        adapter = yard.adapter(program="p")
        yard.lease(alice=adapter)
        assert yard.pool.process_exited("p", "exit code 9: boom")
        ((_, error, _),) = yard.failures
        assert "its process exited (exit code 9: boom);" in str(error)
        assert not yard.pool.process_exited("p", "exit code 9"), "it was in no case since"

    def test_the_exit_of_a_host_says_how_many_cases_it_ended(self, yard: "PoolHarness") -> None:
        for number in range(3):
            yard.lease(alice=yard.adapter(f"a{number}", program="p", instance="p"))
        yard.pool.process_exited("p", "signal 9")
        errors = [str(error) for _, error, _ in yard.failures]
        assert len(errors) == 3
        assert all("its process exited (signal 9), with its clients of 3 cases;" in one for one in errors)

    def test_an_error_outside_of_cases_is_remembered_until_the_next_case(
        self, yard: "PoolHarness", caplog: pytest.LogCaptureFixture
    ) -> None:
        yard.pool.report(yard.adapter("a", program="p"), ErrorBody(details="No Cypress here"))
        (missing,) = yard.pool.missing
        assert missing.registration == {"type": "nio"}
        assert missing.why == "the nio adapter a failed while in no case: No Cypress here"
        assert missing.why in caplog.text
        yard.lease(alice=yard.adapter("b", program="p"))
        assert not yard.pool.missing

    def test_an_adapter_that_registers_again_under_its_old_uuid_is_named(
        self, yard: "PoolHarness", caplog: pytest.LogCaptureFixture
    ) -> None:
        yard.pool.end(yard.adapter("a", program="p"), "the case ended")
        for _ in range(3):
            with pytest.raises(RegistrationConflictError):
                yard.adapter("a", program="p")
        assert [one.why for one in yard.pool.missing] == [
            "the nio adapter a has ended and must register under a new uuid"
        ]
        assert caplog.text.count("must register under a new uuid") == 1

    def test_rivals_under_one_uuid_are_logged(
        self, yard: "PoolHarness", caplog: pytest.LogCaptureFixture
    ) -> None:
        adapter = yard.adapter()
        assert adapter.channel.on_rivals is not None
        adapter.channel.on_rivals()
        assert "do two processes share one uuid?" in caplog.text


class TestArrivals:
    """What `serve` prints of the pool."""

    def test_a_program_comes_and_leaves_once(self, yard: "PoolHarness") -> None:
        lines: list[str] = []
        arrivals = Arrivals(yard.pool, lines.append)
        yard.journal.subscribe(arrivals, (AdapterRegistered,))
        for number in range(7):
            yard.adapter(f"u{number}", program=f"p{number}")
        arrivals.look()
        arrivals.look()
        assert lines == ["7 adapter programs came: nio p0, nio p1, nio p2, nio p3, nio p4, and 2 more"]
        # Most register again after each case.
        yard.pool.end(yard.pool.get("u0"), "the case ended")
        yard.clock.elapsed += 20
        arrivals.look()
        yard.adapter("again", program="p0")
        arrivals.look()
        assert len(lines) == 1
        yard.pool.lose(yard.pool.get("again"), "gave no sign of life")
        yard.clock.elapsed += 31
        arrivals.look()
        arrivals.look()
        assert len(lines) == 2
        assert lines[1].startswith("1 adapter program left: p0 (gave no sign of life")
        yard.adapter("back", program="p0")
        arrivals.look()
        assert lines[2] == "1 adapter program came: nio p0"
