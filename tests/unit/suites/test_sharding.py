"""Every case is in one shard, the same one everywhere."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.suites.model import Case
from trafficlight.suites.planning import plan
from trafficlight.suites.selection import Selection
from trafficlight.suites.sharding import assign_shards

SHARDS = st.integers(1, 9)
ORDERS = st.randoms(use_true_random=False)
DURATIONS = st.lists(st.none() | st.floats(0, 1e4), min_size=1, max_size=60)


def case(number: int, *, skip: str | None = None) -> Case:
    suite = f"{number % 3}::A"
    return Case(f"{suite}[n={number}]", suite, Path(__file__), str(number % 3), "A", "run", 1, skip=skip)


@given(st.integers(1, 60), SHARDS, ORDERS)
def test_without_durations_shards_are_of_equal_size(count: int, shards: int, order: Random) -> None:
    cases = [case(n, skip="no" if n % 7 == 0 else None) for n in range(count)]
    shard_of = assign_shards(cases, shards)

    assert sorted(shard_of) == sorted(one.id for one in cases)
    kinds: list[Callable[[Case], bool]] = [
        lambda case: True,
        lambda case: case.skip is None,
        lambda case: case.file == "1" and not case.skip,
    ]
    for some in kinds:
        sizes = Counter(dict.fromkeys(range(1, shards + 1), 0))
        sizes.update(shard_of[one.id] for one in cases if some(one))
        assert max(sizes.values()) - min(sizes.values()) <= 1
    order.shuffle(cases)
    assert assign_shards(cases, shards) == shard_of


@given(DURATIONS, SHARDS, ORDERS)
def test_with_durations_shards_take_equally_long(
    seconds: list[float | None], shards: int, order: Random
) -> None:
    cases = [case(number) for number in range(len(seconds))]
    known = {one.id: took for one, took in zip(cases, seconds, strict=True) if took is not None}
    shard_of = assign_shards(cases, shards, known)

    assert shard_of.keys() == {one.id for one in cases}
    assert set(shard_of.values()) <= set(range(1, shards + 1))
    if len(known) == len(cases):
        loads = [sum(known[id] for id, one in shard_of.items() if one == n) for n in range(1, shards + 1)]
        assert max(loads) - min(loads) <= max(known.values()) * (1 + 1e-9)
    order.shuffle(cases)
    assert assign_shards(cases, shards, known) == shard_of


def test_unknown_cases_count_as_usual_ones_and_skipped_ones_as_nothing() -> None:
    known = {case(0).id: 3.0, case(1).id: 3.0, case(2).id: 30.0}
    cases = [*map(case, range(12)), *(case(n, skip="no") for n in range(12, 20))]
    shard_of = assign_shards(cases, 2, known)

    beside = [id for id, shard in shard_of.items() if shard == shard_of[case(2).id]]
    assert sum(id in {one.id for one in cases if one.skip is None} for id in beside) == 2
    assert len(shard_of) == 20


def test_a_repetition_takes_as_long_as_its_case() -> None:
    again = [replace(case(0), id=f"{case(0).id}#{n}") for n in (2, 3)]
    shard_of = assign_shards([case(0), *again, case(1)], 2, {case(0).id: 1.0, case(1).id: 3.0})

    assert Counter(shard_of.values()) == {1: 1, 2: 3} or Counter(shard_of.values()) == {1: 3, 2: 1}


@pytest.mark.parametrize("durations", [{}, {"x_test.py::X.test_x[n=1]": 5.0}])
def test_a_plan_knows_which_cases_are_elsewhere(tmp_path: Path, durations: dict[str, float]) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "x_test.py").write_text(
        "from trafficlight import Test, matrix\n\n"
        "class X(Test):\n"
        "    @matrix(n=list(range(6)))\n"
        "    async def test_x(self, n):\n"
        "        pass\n"
    )
    whole = plan([tmp_path])
    plans = [plan([tmp_path], Selection(shard=(part, 4), durations=durations)) for part in range(1, 5)]

    assert len(whole.cases) == 6
    assert (whole.shard, whole.elsewhere, whole.whole) == (None, {}, whole.cases)
    assert sorted(one.id for some in plans for one in some.cases) == sorted(one.id for one in whole.cases)
    for part, some in enumerate(plans, 1):
        assert (some.shard, some.whole) == ((part, 4), whole.whole)
        own = {one.id: part for one in some.cases}
        assert {**some.elsewhere, **own} == {**plans[0].elsewhere, **{one.id: 1 for one in plans[0].cases}}
