"""Which case gets which of the homeservers that cases share, and when they are replaced."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.coordinator.waiting import case_of
from trafficlight.config import load
from trafficlight.coordinator.lab import _shared_servers
from trafficlight.errors import DeployError
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import Provider, ServerRequest
from trafficlight.homeservers.registry import ProviderRegistry
from trafficlight.homeservers.shared import SharedLease, SharedServers
from trafficlight.server_types import HomeServerSpec

ELM, FIR = (HomeServerSpec(name, name.lower(), "1", "") for name in ("Elm", "Fir"))
CAPACITY, MOST_CASES = 3, 4


@dataclass(eq=False)
class Server:
    """A homeserver that only exists."""

    request: ServerRequest
    exited: str | None = None
    had: int = 0

    async def say(self, text: str) -> None:
        with await asyncio.to_thread(self.request.log.open, "a") as log:
            log.write(f"{text}\n")


class Machine:
    """A provider of such homeservers."""

    name = "machine"

    def __init__(self) -> None:
        self.running: list[Server] = []
        self.started = 0
        self.fails: DeployError | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.asked = asyncio.Event()

    @asynccontextmanager
    async def deploy(self, _: str, requests: Sequence[ServerRequest]) -> AsyncIterator[list[Server]]:
        self.asked.set()
        await self.may_start.wait()
        if self.fails is not None:
            for request in requests:
                await asyncio.to_thread(request.log.write_text, "cannot start\n")
            raise self.fails
        servers = [Server(request) for request in requests]
        for server in servers:
            await server.say("started")
        self.running += servers
        self.started += len(servers)
        try:
            yield servers
        finally:
            for server in servers:
                self.running.remove(server)


@asynccontextmanager
async def sharing(machine: Machine, **options: Any) -> AsyncIterator[SharedServers]:
    options = {"capacity": CAPACITY, "most_cases": MOST_CASES, **options}
    shared = SharedServers(cast("Provider", machine), lambda spec: spec.recipe != "static", **options)
    try:
        yield shared
    finally:
        await shared.close()
    assert machine.running == []


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[ServerRequest]]:
    """What a case asks for: homeservers with logs in its own folder."""

    def asked(case: str, *specs: HomeServerSpec) -> list[ServerRequest]:
        return [
            ServerRequest(f"server{place}", spec, tmp_path / f"{case}-{place}.log")
            for place, spec in enumerate(specs or (ELM,))
        ]

    return asked


def _of(lease: SharedLease) -> list[Server]:
    return cast("list[Server]", lease.servers)


def test_who_shares() -> None:
    shared = SharedServers(cast("Provider", None), lambda spec: spec.recipe != "static", capacity=1)
    plain, without = case_of("a", {}, ["Elm"]), case_of("a", {})
    slot = plain.servers[0]

    def having(**changes: Any) -> Any:
        spec = HomeServerSpec(**{"type_name": "Elm", "recipe": "", "version": "", "image": "", **changes})
        return type(plain)(**{**_fields(plain), "servers": (type(slot)("Elm", (spec,), slot.roles),)})

    assert shared.shares(plain)
    assert not shared.shares(without)
    assert not shared.shares(type(plain)(**{**_fields(plain), "isolated": True}))
    assert not shared.shares(having(config={"a": 1}))
    assert not shared.shares(having(behind_proxy=True))
    assert not shared.shares(having(recipe="static"))


def _fields(case: Any) -> dict[str, Any]:
    return {name: getattr(case, name) for name in case.__dataclass_fields__}


async def test_each_log_is_what_was_written_in_the_time_of_the_case(
    ask: Callable[..., list[ServerRequest]],
) -> None:
    machine = Machine()
    first, second = ask("first", ELM, FIR), ask("second", ELM, FIR)
    async with sharing(machine) as shared:
        async with shared.lease(first) as lease:
            elm, fir = _of(lease)
            await elm.say("of the first")
            async with shared.lease(second) as other:
                assert _of(other) == [elm, fir]
                await elm.say("of both")
                await fir.say("of fir")
            await elm.say("of the first again")
    assert machine.started == 2
    assert first[0].log.read_text() == "of the first\nof both\nof the first again\n"
    assert second[0].log.read_text() == "of both\n"
    assert first[1].log.read_text() == second[1].log.read_text() == "of fir\n"


async def test_cases_that_come_during_the_start_wait_for_it(
    ask: Callable[..., list[ServerRequest]],
) -> None:
    machine = Machine()
    machine.may_start.clear()
    async with sharing(machine) as shared, AsyncExitStack() as stack:
        leases = [asyncio.create_task(_entered(stack, shared, ask(name))) for name in "abc"]
        machine.may_start.set()
        servers = [_of(lease) for lease in await asyncio.gather(*leases)]
        assert servers[0] == servers[1] == servers[2] == machine.running


async def test_a_start_that_fails_is_the_error_of_all_that_wait_and_of_no_other(
    ask: Callable[..., list[ServerRequest]],
) -> None:
    machine = Machine()
    machine.fails = DeployError("no disk")
    async with sharing(machine) as shared, AsyncExitStack() as stack:
        asked = [ask(name) for name in "ab"]
        failed = [_entered(stack, shared, requests) for requests in asked]
        assert await asyncio.gather(*failed, return_exceptions=True) == [machine.fails] * 2
        assert [one.log.read_text() for (one,) in asked] == ["cannot start\n"] * 2
        machine.fails = None
        assert _of(await _entered(stack, shared, ask("c"))) == machine.running


async def test_a_case_that_is_cancelled_during_the_start_leaves_nothing(
    ask: Callable[..., list[ServerRequest]],
) -> None:
    machine = Machine()
    machine.may_start.clear()
    async with sharing(machine) as shared, AsyncExitStack() as stack:
        lease = asyncio.create_task(_entered(stack, shared, ask("a")))
        await machine.asked.wait()
        lease.cancel()
        await asyncio.wait([lease])
    assert machine.started == 0


async def _entered(
    stack: AsyncExitStack, shared: SharedServers, requests: list[ServerRequest]
) -> SharedLease:
    return await stack.enter_async_context(shared.lease(requests))


kinds = st.sampled_from([(ELM,), (FIR,), (ELM, FIR)])
steps = st.lists(
    st.tuples(st.just("begin"), kinds)
    | st.tuples(st.just("begin alone"), kinds)
    | st.tuples(st.sampled_from(["end", "fail", "crash"]), st.integers(0, 9)),
    max_size=40,
)


@given(steps)
@settings(max_examples=30, deadline=None)
def test_the_rules_hold_whatever_the_order(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    asyncio.run(_follow(tmp_path_factory.mktemp("case"), steps))


async def _follow(folder: Path, steps: list[tuple[str, Any]]) -> None:
    machine = Machine()
    held: list[tuple[AsyncExitStack, list[Server], SharedLease | None]] = []
    bad: set[Server] = set()

    async def end(place: int, *, failed: bool) -> None:
        stack, servers, lease = held.pop(place % len(held))
        if lease is not None:
            lease.failed = failed
            bad.update(servers if failed else ())
        await stack.aclose()

    async with sharing(machine) as shared:
        for number, (step, what) in enumerate(steps):
            started = machine.started
            if step.startswith("begin"):
                stack = AsyncExitStack()
                requests = [
                    ServerRequest(f"s{n}", spec, folder / f"{number}-{n}.log") for n, spec in enumerate(what)
                ]
                alone = step.endswith("alone")
                lease = None
                if alone:
                    servers = cast(
                        "list[Server]", await stack.enter_async_context(shared.deploy("a", requests))
                    )
                else:
                    lease = await stack.enter_async_context(shared.lease(requests))
                    servers = _of(lease)
                others = {one for _, theirs, _ in held for one in theirs}
                assert not alone or others.isdisjoint(servers)
                assert bad.isdisjoint(servers)
                assert all(one.exited is None for one in servers)
                assert [one.request.spec for one in servers] == list(what)
                for one in servers:
                    one.had += 1
                    assert one.had <= (1 if alone else MOST_CASES)
                    bad.update([one] if alone else ())
                held.append((stack, servers, lease))
                # Before another one starts, those that no case has are destroyed.
                used = {one for _, theirs, _ in held for one in theirs}
                if machine.started > started:
                    assert len(machine.running) <= max(CAPACITY, len(used))
            elif held and step == "crash":
                for one in held[what % len(held)][1]:
                    one.exited = "signal 9"
            elif held:
                await end(what, failed=step == "fail")
            used_by = Counter(one for _, theirs, _ in held for one in theirs)
            assert set(used_by) <= set(machine.running)
        while held:
            await end(0, failed=False)
        await shared.end_unused()
        assert machine.running == []


@pytest.mark.parametrize(
    ("setting", "expected"), [("true", "Elm Fir both"), ('["Elm"]', "Elm"), ('["Oak"]', ""), ("false", "")]
)
def test_the_setting_names_types_whose_homeservers_are_shared(
    setting: str, expected: str, tmp_path: Path
) -> None:
    loaded = load(environment={"TRAFFICLIGHT_SHARE_SERVERS": setting}, directory=tmp_path)
    shared = _shared_servers(loaded, ProviderRegistry({"local": LocalProvider(recipes=[])}))
    cases = [case_of("Elm", {}, ["Elm"]), case_of("Fir", {}, ["Fir"]), case_of("both", {}, ["Elm", "Fir"])]
    assert " ".join(one.id for one in cases if shared is not None and shared.shares(one)) == expected
