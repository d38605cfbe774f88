"""The forms of SERVER_OVERRIDES, and the leases of its homeservers."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.config import StaticServer
from trafficlight.errors import ConfigError, UnsupportedError
from trafficlight.homeservers.static import StaticServerPool, parse_overrides

ONE = {"server_name": "one.example", "cs_api": "https://one.example/"}
TWO = {"server_name": "two.example", "cs_api": "http://127.0.0.1:8008"}


def _server(number: int) -> StaticServer:
    return StaticServer(server_name=f"hs{number}", cs_api=f"http://127.0.0.1:{number}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ONE, [["one.example"]]),
        ([ONE], [["one.example"]]),
        ([ONE, TWO], [["one.example", "two.example"]]),
        ([[ONE], [TWO]], [["one.example"], ["two.example"]]),
        ("https://matrix.example", [["matrix.example"]]),
        ("http://localhost:8448/", [["localhost:8448"]]),
        ([["http://a.example"], [ONE]], [["a.example"], ["one.example"]]),
        ({"cs_api": "http://127.0.0.1:8008"}, [["127.0.0.1:8008"]]),
    ],
)
def test_every_form_is_parsed(value: Any, expected: list[list[str]]) -> None:
    [sets] = parse_overrides({"SynapseStable": value}).values()
    assert [[server.server_name for server in found] for found in sets] == expected
    assert not any(server.cs_api.endswith("/") for found in sets for server in found)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ([], "SERVER_OVERRIDES.SynapseStable"),
        ([[], [ONE]], "SERVER_OVERRIDES.SynapseStable"),
        ([[ONE], TWO], "SERVER_OVERRIDES.SynapseStable"),
        ([[ONE], [ONE, TWO]], "SERVER_OVERRIDES.SynapseStable"),
        (7, "SERVER_OVERRIDES.SynapseStable"),
        ("matrix.example", "SERVER_OVERRIDES.SynapseStable.cs_api"),
        ({"server_name": "x"}, "SERVER_OVERRIDES.SynapseStable.cs_api"),
        ([ONE, {**TWO, "cs_pai": 1}], r"SERVER_OVERRIDES.SynapseStable\[1\].cs_pai"),
    ],
)
def test_an_invalid_entry_is_named(value: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_overrides({"SynapseStable": value})


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_any_other_value_is_a_config_error(value: Any) -> None:
    try:
        parse_overrides({"X": value})
    except ConfigError as error:
        assert (error.key or "").startswith("SERVER_OVERRIDES.X")  # noqa: PT017 - some values are valid


async def test_a_set_is_leased_to_one_case_at_a_time_in_order() -> None:
    pool = StaticServerPool("SynapseStable", [(_server(1),), (_server(2),)])
    order: list[str] = []
    held: set[str] = set()

    async def case(name: str, count: int) -> None:
        async with pool.lease(count) as servers:
            names = {server.server_name for server in servers}
            assert len(names) == count
            assert not names & held
            held.update(names)
            order.append(name)
            await asyncio.sleep(0)
            held.difference_update(names)

    async with asyncio.TaskGroup() as group:
        for name, count in [("a", 1), ("b", 2), ("c", 1), ("d", 1)]:
            group.create_task(case(name, count))
    assert order == ["a", "b", "c", "d"]
    async with asyncio.timeout(10), pool.lease(2):
        pass  # all were released


async def test_a_cancelled_wait_leases_nothing() -> None:
    pool = StaticServerPool("SynapseStable", [(_server(1),)])

    async def case() -> None:
        async with pool.lease(1):
            pytest.fail("it was leased twice")

    async with pool.lease(1):
        waiting = asyncio.create_task(case())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(10), pool.lease(1):
        pass  # it was released


async def test_more_homeservers_than_configured_are_unsupported() -> None:
    pool = StaticServerPool("SynapseStable", [(_server(1), _server(2))])
    with pytest.raises(UnsupportedError, match="SynapseStable names 2 homeservers, the case needs 3"):
        async with pool.lease(3):
            pytest.fail("more than there are were leased")
