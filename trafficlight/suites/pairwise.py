"""Few rows that hold every pair of values of a matrix."""

import itertools
import random
from collections.abc import Hashable, Iterable, Sequence, Set
from typing import TypeAlias

# What one value of a dimension stands for: one thing, or several where values come in sets.
Items: TypeAlias = Set[Hashable]
# A value of a dimension: the place of the dimension, and that of the value in it.
_Place: TypeAlias = tuple[int, int]
_Pair: TypeAlias = tuple[int, int]
_Values: TypeAlias = Sequence[Sequence[Sequence[int]]]
# Every pair with the places that hold it together.
_Missing: TypeAlias = dict[_Pair, list[tuple[_Place, ...]]]

# Rows that are tried for each one that is taken, and plans for the one that is returned: more of them make it
# smaller and slower. Many pairs afford fewer plans.
_TRIES = 20
_STARTS = 10
_AFFORDED = 800


def pairwise(dimensions: Sequence[Sequence[Items]]) -> list[tuple[int, ...]]:
    """Return rows, as indices into the dimensions, in which every pair of items that can meet does meet.

    Greedy: each row begins with a pair that is still missing, and takes for every other dimension the value
    that brings in the most missing pairs; the best of several such rows is kept. So every row adds at least
    one pair, and after the last one none is missing. The same input gives the same rows.

    :param dimensions: the values of every dimension; an item belongs to one dimension only.
    """
    if not all(dimensions):
        return []
    # What does not vary meets everything anyway, and would only distract the greed.
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
    # Not for secrets: a fixed seed makes the same plan of the same tests.
    chance = random.Random(0)  # noqa: S311
    starts = max(1, min(_STARTS, _AFFORDED // max(1, len(missing))))
    rows = min((_rows(values, dict(missing), chance) for _ in range(starts)), key=len)
    whole = [dict(zip(varying, row, strict=True)) for row in rows]
    return sorted(tuple(row.get(index, 0) for index in range(len(dimensions))) for row in whole)


def _rows(values: _Values, missing: _Missing, chance: random.Random) -> list[tuple[int, ...]]:
    """Return rows until nothing is missing."""
    rows = []
    while missing:
        tries = (_row(values, missing, chance) for _ in range(_TRIES))
        row, brought = max(tries, key=lambda one: len(one[1]))
        for pair in brought:
            del missing[pair]
        rows.append(row)
    return rows


def _row(values: _Values, missing: _Missing, chance: random.Random) -> tuple[tuple[int, ...], set[_Pair]]:
    """Return a row, and the missing pairs that it brings in."""
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
    """Return every pair of items that can meet, with values that hold it; single items where none meet."""
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
