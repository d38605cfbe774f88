"""Every pair is held by a row, and there are few rows."""

import itertools

import pytest
from allpairspy import AllPairs
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficlight.suites.pairwise import pairwise

Dimension = list[frozenset[object]]


def plain(sizes: list[int]) -> list[Dimension]:
    return [[frozenset({(index, value)}) for value in range(size)] for index, size in enumerate(sizes)]


def pairs(dimensions: list[Dimension], rows: list[tuple[int, ...]]) -> set[frozenset[object]]:
    found: set[frozenset[object]] = set()
    for row in rows:
        items = set().union(*(dimension[value] for dimension, value in zip(dimensions, row, strict=True)))
        found |= {frozenset(pair) for pair in itertools.combinations(items, 2)} | {
            frozenset({one}) for one in items
        }
    return found


def everything(dimensions: list[Dimension]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(dimension)) for dimension in dimensions)))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
@settings(deadline=None)
def test_every_pair_is_held(sizes: list[int]) -> None:
    dimensions = plain(sizes)
    rows = pairwise(dimensions)
    assert pairs(dimensions, rows) == pairs(dimensions, everything(dimensions))
    assert len(rows) == len(set(rows)) <= len(everything(dimensions))


@given(
    st.lists(st.integers(1, 3), max_size=3),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=8),
)
@settings(deadline=None)
def test_pairs_within_sets_of_values_are_held(sizes: list[int], sets: set[tuple[int, ...]]) -> None:
    whole: Dimension = [frozenset(enumerate(one, start=100)) for one in sorted(sets)]
    dimensions = [*plain(sizes), whole]
    rows = pairwise(dimensions)
    assert pairs(dimensions, rows) == pairs(dimensions, everything(dimensions))


def test_the_same_input_gives_the_same_rows() -> None:
    assert pairwise(plain([3, 4, 2, 5])) == pairwise(plain([3, 4, 2, 5]))


def test_nothing_to_choose_from() -> None:
    assert pairwise(plain([2, 0, 3])) == []
    assert pairwise([]) == [()]
    assert pairwise(plain([1, 1])) == [(0, 0)]


@pytest.mark.parametrize("sizes", [[2, 2, 2], [3] * 4, [4, 4, 3], [5] * 6, [8] * 6, [6, 6, 6, 2, 2, 3]])
def test_there_are_no_more_rows_than_the_best_known_library_needs(sizes: list[int]) -> None:
    theirs = list(AllPairs([list(range(size)) for size in sizes]))
    assert len(pairwise(plain(sizes))) <= len(theirs)
