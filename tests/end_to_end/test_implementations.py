"""The built-in chat suites on other homeservers: a part of `tests/interop`, fast enough for every change."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import junitparser
import pytest
import pytest_asyncio

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.server_types import Dendrite, Synapse
from trafficlight.suites.selection import Selection
from trafficlight.suites.yaml_files import read_expected_failures

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Running, Start

pytestmark = pytest.mark.timeout(600)

# Installs an old Synapse and builds Dendrite where the cache has none.
_INSTALLS = pytest.mark.network

_CHECKOUT = Path(__file__).parents[2]
_INTEROP = _CHECKOUT / "tests" / "interop"
_EXPECTED_FAILURES = _INTEROP / "expected-failures.yml"
_ALONE = "tests/interop/messages_test.py::SendMessages[alice=Nio,bob=Nio,server={}]"
_FEDERATED = "tests/interop/federation_test.py::FederatedMessages[alice=Nio,bob=Nio,here={},there={}]"
_SYNAPSES = [
    _ALONE.format("SynapseStable"),
    _ALONE.format("Synapse-1.98.0"),
    _FEDERATED.format("Synapse-1.98.0", "SynapseStable"),
]
_WITH_DENDRITE = [
    _ALONE.format("Dendrite"),
    _FEDERATED.format("Dendrite", "SynapseStable"),
]
_ROOM_TOO_NEW = _FEDERATED.format("SynapseStable", "Synapse-1.98.0")
_ROOM_TOO_NEW_FOR_DENDRITE = _FEDERATED.format("SynapseStable", "Dendrite")


@pytest_asyncio.fixture
async def installed() -> None:
    """Install what the tests compare, and skip them if it cannot be installed here."""
    specs = [Synapse("1.98.0").homeservers()[0], Dendrite().homeservers()[0]]
    provider = LocalProvider()
    try:
        await provider.prepare(specs)
    except DeployError as error:
        pytest.skip(error.message)
    finally:
        await provider.close()
    if reasons := list(filter(None, map(provider.unsupported, specs))):
        pytest.skip("; ".join(reasons))


async def _run(start: "Start", *cases: str) -> "Running":
    paths = [_CHECKOUT / case for case in cases]
    return await start("run", *paths, "--expected-failures", _EXPECTED_FAILURES)


def _expect_room_version(case: junitparser.TestCase) -> None:
    """Assert that a case failed as expected, with the reason of the file."""
    (known,) = case.result
    assert isinstance(known, junitparser.Skipped)
    assert "Room version" in str(known.message)


@_INSTALLS
@pytest.mark.usefixtures("installed")
async def test_synapses_of_two_years_talk_as_far_as_room_versions_go(start: "Start") -> None:
    running = await _run(start, *_SYNAPSES, _ROOM_TOO_NEW)

    assert await running.ended(timeout=550) == 0, running.output + running.errors
    cases = running.cases()
    assert [case for case in _SYNAPSES if cases[case].result] == []
    _expect_room_version(cases[_ROOM_TOO_NEW])


@_INSTALLS
@pytest.mark.usefixtures("installed")
async def test_dendrite_talks_alone_and_with_synapse_as_far_as_room_versions_go(start: "Start") -> None:
    running = await _run(start, *_WITH_DENDRITE, _ROOM_TOO_NEW_FOR_DENDRITE)

    assert await running.ended(timeout=550) == 0, running.output + running.errors
    cases = running.cases()
    assert sorted(cases) == sorted([*_WITH_DENDRITE, _ROOM_TOO_NEW_FOR_DENDRITE])
    assert [case for case in _WITH_DENDRITE if cases[case].result] == []
    _expect_room_version(cases[_ROOM_TOO_NEW_FOR_DENDRITE])


async def test_without_go_dendrite_is_skipped_and_says_so(start: "Start", tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "TRAFFICLIGHT_CACHE_FOLDER": str(tmp_path / "cache")}
    running = await start("run", _CHECKOUT / _ALONE.format("Dendrite"), environment=environment)

    # Nothing has run, which is no success.
    assert await running.ended() == 2, running.output + running.errors
    results = [result for suite in running.junit() for case in suite for result in case.result]
    assert "Go" in next(str(one.message) for one in results if isinstance(one, junitparser.Skipped))


async def test_every_expected_failure_means_cases_that_there_are(start: "Start") -> None:
    collecting = await start("collect", "--json", _INTEROP)
    assert await collecting.ended() == 0, collecting.errors

    ids = [case["id"] for case in json.loads("".join(collecting.output))["cases"]]

    assert len(ids) > 50
    expected = read_expected_failures(_EXPECTED_FAILURES)
    assert list(Selection(expected_failures=expected).unused(ids)) == []
