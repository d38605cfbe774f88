"""A small set of rows that covers every pair of values of a matrix."""

import itertools
import random
from collections.abc import Hashable, Iterable, Sequence, Set
from typing import TypeAlias

# What one value of a dimension covers: one item, or several if values come in sets.
Items: TypeAlias = Set[Hashable]
# A value of a dimension: the indices of both.
_Place: TypeAlias = tuple[int, int]
_Pair: TypeAlias = tuple[int, int]
_Values: TypeAlias = Sequence[Sequence[Sequence[int]]]
# Every uncovered pair, with the places that cover it.
_Missing: TypeAlias = dict[_Pair, list[tuple[_Place, ...]]]

# Candidates for each row, and for the whole plan: more of them make it smaller and slower. With many pairs,
# fewer plans are tried.
_TRIES = 20
_STARTS = 10
_AFFORDED = 800


def pairwise(dimensions: Sequence[Sequence[Items]]) -> list[tuple[int, ...]]:
    """Return rows, as indices into the dimensions, that cover every pair of items that can occur together.

    Greedy: each row begins with an uncovered pair, and takes for every other dimension the value that covers
    the most uncovered pairs; the best of several such rows is kept. So every row covers at least one more
    pair, until all are covered. The same input gives the same rows.

    :param dimensions: the values of every dimension; an item belongs to one dimension only.
    """
    if not all(dimensions):
        return []
    # A dimension with one value is covered anyway.
    varying = [index for index, dimension in enumerate(dimensions) if len(dimension) > 1]
    if not varying:
        return [(0,) * len(dimensions)]
    numbers: dict[Hashable, int] = {}
    values = [
        [
            [numbers.setdefault(item, len(numbers)) for item in sorted(items, key=repr)]
            for items in dimensions[index]
        ]
        for index in varying
    ]
    missing = _missing(values)
    # Not for secrets: a fixed seed makes the plan reproducible.
    chance = random.Random(0)  # noqa: S311
    starts = max(1, min(_STARTS, _AFFORDED // max(1, len(missing))))
    rows = min((_rows(values, dict(missing), chance) for _ in range(starts)), key=len)
    whole = [dict(zip(varying, row, strict=True)) for row in rows]
    return sorted(tuple(row.get(index, 0) for index in range(len(dimensions))) for row in whole)


def _rows(values: _Values, missing: _Missing, chance: random.Random) -> list[tuple[int, ...]]:
    """Return rows until all pairs are covered."""
    rows = []
    while missing:
        tries = (_row(values, missing, chance) for _ in range(_TRIES))
        row, brought = max(tries, key=lambda one: len(one[1]))
        for pair in brought:
            del missing[pair]
        rows.append(row)
    return rows


def _row(values: _Values, missing: _Missing, chance: random.Random) -> tuple[tuple[int, ...], set[_Pair]]:
    """Return a row, and the uncovered pairs that it covers."""
    row = dict(chance.choice(next(iter(missing.values()))))
    order = [index for index in range(len(values)) if index not in row]
    chance.shuffle(order)
    held = [item for index, value in row.items() for item in values[index][value]]
    brought = {pair for pair in _pairs(held, held) if pair in missing}
    for index in order:
        candidates = list(range(len(values[index])))
        chance.shuffle(candidates)
        gains = {
            value: {
                pair
                for pair in _pairs(values[index][value], [*held, *values[index][value]])
                if pair in missing
            }
            for value in candidates
        }
        row[index] = max(candidates, key=lambda value: len(gains[value]))
        brought |= gains[row[index]]
        held.extend(values[index][row[index]])
    return tuple(row[index] for index in range(len(values))), brought


def _missing(values: _Values) -> _Missing:
    """Return every pair of items that can occur together, with values that cover it; else single items."""
    places = [[(index, value) for value in range(len(dimension))] for index, dimension in enumerate(values)]
    found: _Missing = {}
    for first, second in itertools.combinations(places, 2):
        for one, other in itertools.product(first, second):
            for pair in _pairs(values[one[0]][one[1]], values[other[0]][other[1]]):
                found.setdefault(pair, []).append((one, other))
    for place in itertools.chain.from_iterable(places):
        items = values[place[0]][place[1]]
        for pair in _pairs(items, items):
            if pair[0] == pair[1] and len(values) > 1:
                continue
            found.setdefault(pair, []).append((place,))
    return found


def _pairs(some: Iterable[int], others: Sequence[int]) -> Iterable[_Pair]:
    return ((one, other) if one <= other else (other, one) for one in some for other in others)
