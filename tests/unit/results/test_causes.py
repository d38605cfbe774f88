"""Causes: which failures belong together, and what explains them."""

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from trafficlight.results.case import AttemptRecord, CaseRecord
from trafficlight.results.events import Expected, ServerReady, State
from trafficlight.results.reports.causes import Cause, causes, factors_of

CLIENTS = ("Nio", "ElementWeb", "Hydrogen", "Element")


def case(
    alice: str, bob: str, server: str = "Synapse", *, number: int = 0, message: str = "", **values: Any
) -> CaseRecord:
    suite = "chat_test.py::Talk"
    return CaseRecord(
        **{
            "id": f"{suite}[alice={alice},bob={bob},server={server},n={number}]",
            "suite": suite,
            "file": "chat_test.py",
            "clients": {"alice": alice, "bob": bob},
            "servers": {"server": server},
            "parameters": {"n": number},
            "state": State.FAILURE if message else State.SUCCESS,
            "message": message,
            **values,
        }
    )


def every(
    fails: Callable[..., str | None], servers: tuple[str, ...] = ("Synapse", "Dendrite")
) -> list[CaseRecord]:
    """Return a case of each pair of clients on each server; `fails` returns a message or nothing."""
    return [
        case(alice, bob, server, number=number, message=fails(alice, bob, server, number) or "")
        for alice in CLIENTS
        for bob in CLIENTS
        for server in servers
        for number in range(3)
    ]


def test_a_pair_of_factors_explains_failures_of_one_signature() -> None:
    def fails(alice: str, bob: str, server: str, number: int) -> str | None:
        if bob == "Hydrogen" and server == "Dendrite" and (alice, number) != ("Nio", 0):
            return f"bob: $event{number}:localhost:{40_000 + number} cannot be decrypted\nmore"
        return "nothing of the kind" if (alice, bob, number) == ("Nio", "Nio", 1) else None

    found = causes(every(fails))
    assert [(len(one.cases), one.factors, one.matching, one.total) for one in found] == [
        (11, [("bob", "Hydrogen"), ("server", "Dendrite")], 11, 12),
        (2, [("alice", "Nio"), ("bob", "Nio")], 2, 6),
    ]
    assert found[0].message.startswith("bob: $event1:")
    assert found[0].status == "failure"


def test_a_client_in_any_role_is_one_factor() -> None:
    found = causes(every(lambda alice, bob, *_: "crashed" if "Hydrogen" in (alice, bob) else None))
    assert [(one.factors, one.matching, one.total) for one in found] == [([("client", "Hydrogen")], 42, 42)]


def test_what_all_cases_share_and_what_one_has_explains_nothing() -> None:
    assert causes(every(lambda *_: "broken"))[0].factors == []
    alone = causes(
        every(
            lambda alice, bob, server, number: (
                "odd" if (alice, number) == ("Nio", 0) and bob == "Nio" and server == "Synapse" else None
            )
        )
    )
    assert [(len(one.cases), one.factors) for one in alone] == [(1, [])]
    assert causes([]) == []
    assert causes([case("Nio", "Nio")]) == []


def test_versions_and_hosts_are_factors() -> None:
    cases = every(lambda alice, bob, server, number: "slow" if number == 1 else None, ("Synapse",))
    for one in cases:
        attempt = AttemptRecord(1, "", state=one.state)
        bad = one.state is State.FAILURE
        attempt.adapters["bob"] = {"type": "nio", "version": "0.26", "instance": "lab-7" if bad else "lab-8"}
        attempt.servers["server"] = ServerReady(server_name="s", cs_api="", type="Synapse", version="1.2")
        one.attempts, one.parameters = [attempt], {}
    assert ("version", "nio 0.26") in list(factors_of(cases[0]))
    assert ("version", "Synapse 1.2") in list(factors_of(cases[0]))
    assert causes(cases)[0].factors == [("host", "lab-7")]


def test_an_adapter_that_is_leased_meanwhile_disturbs_no_factors() -> None:
    one = case("Nio", "Nio")
    one.attempts = [AttemptRecord(1, "", state=State.RUNNING)]
    one.attempts[0].adapters["alice"] = {"type": "nio", "version": "0.26"}
    found = factors_of(one)
    assert ("version", "nio 0.26") in found  # stops there

    one.attempts[0].adapters["bob"] = {"type": "nio", "version": "0.27"}

    assert list(found) == []


def test_expected_failures_are_known_and_come_last() -> None:
    known: dict[str, Any] = {
        "state": State.FAILURE,
        "expected": Expected("Hydrogen cannot verify", outcome="failure"),
    }
    cases = [case("Nio", "Hydrogen", number=n, message="cannot verify", **known) for n in range(5)]
    cases += [
        case("Nio", "Nio", message="lost", state=State.ERROR),
        # Not an expected failure: the lab is wrong.
        case("Nio", "Element", message="exited", **{**known, "state": State.ERROR}),
        case("Nio", "Element", message="", state=State.SKIPPED),
        case("Nio", "Element", state=State.WAITING),
    ]
    since = dict(zip((one.id for one in cases), ("new", "2026-11-21--003", "2026-11-21--002"), strict=False))
    found = causes(cases, {**since, cases[6].id: "new"})
    assert [(one.message, one.status, one.expected) for one in found] == [
        ("lost", "error", 0),
        ("exited", "error", 0),
        ("cannot verify", "expected failure", 5),
    ]
    assert found[2].reason == "Hydrogen cannot verify"
    assert [one.since for one in found] == ["", "new", "2026-11-21--002"]


MESSAGES = ("", "", "", "undecryptable", "no room", "took longer than 3 s")
SOME_CASES = some.lists(
    some.builds(
        case,
        some.sampled_from(CLIENTS),
        some.sampled_from(CLIENTS),
        some.sampled_from(["Synapse", "Dendrite"]),
        number=some.integers(0, 2),
        message=some.sampled_from(MESSAGES),
    ),
    max_size=40,
)


def naive(cases: list[CaseRecord], failed: set[str]) -> float:
    """Return the best score of any factor or pair, counted in the slowest way."""
    size = len(failed)
    best = size / len(cases)
    factors = {one.id: set(factors_of(one)) for one in cases}
    hits: Counter[tuple[object, ...]] = Counter()
    totals: Counter[tuple[object, ...]] = Counter()
    for one in cases:
        mine = sorted(factors[one.id])
        sets = [*((factor,) for factor in mine), *combinations(mine, 2)]
        totals.update(sets)
        if one.id in failed:
            hits.update(sets)
    for chosen, hit in hits.items():
        if hit >= max(2, size / 2):
            best = max(best, 0.9 ** len(chosen) * hit * hit / (size * totals[chosen]))
    return best


def score(cause: Cause) -> float:
    return float(0.9 ** len(cause.factors) * cause.matching**2 / (len(cause.cases) * cause.total))


@given(SOME_CASES)
def test_no_factors_explain_better(cases: list[CaseRecord]) -> None:
    distinct = list({one.id: one for one in cases}.values())
    found = causes(distinct)
    assert sorted(id for cause in found for id in cause.cases) == sorted(
        one.id for one in distinct if one.message
    )
    for cause in found:
        if len(cause.cases) > 1:
            assert abs(score(cause) - naive(distinct, set(cause.cases))) < 1e-9
        having = [one for one in distinct if set(cause.factors) <= set(factors_of(one))]
        assert cause.total == len(having)
        assert cause.matching == sum(one.id in cause.cases for one in having)
        assert 0 < cause.matching <= len(cause.cases) <= len(distinct)


@given(SOME_CASES, some.randoms())
def test_the_order_of_cases_changes_no_group(cases: list[CaseRecord], random: Random) -> None:
    distinct = list({one.id: one for one in cases}.values())
    before = {one.key: sorted(one.cases) for one in causes(distinct)}
    random.shuffle(distinct)
    assert {one.key: sorted(one.cases) for one in causes(distinct)} == before
