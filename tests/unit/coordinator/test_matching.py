"""Maximum matching, against trying everything."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from trafficlight.coordinator.scheduling.inventory import match, maximum_match

CANDIDATES = st.dictionaries(
    st.sampled_from("pqrst"), st.lists(st.sampled_from("ABCD"), unique=True, max_size=4)
)
AVAILABLE = st.dictionaries(st.sampled_from("ABCD"), st.integers(0, 2))


def most(candidates: dict[str, list[str]], available: dict[str, int]) -> int:
    """Return how many roles can be filled at most, by trying everything."""
    best = 0
    for choice in product(*([None, *some] for some in candidates.values())):
        taken = [one for one in choice if one is not None]
        if all(taken.count(one) <= available.get(one, 0) for one in set(taken)):
            best = max(best, len(taken))
    return best


@given(CANDIDATES, AVAILABLE)
def test_as_many_roles_as_possible_are_filled(
    candidates: dict[str, list[str]], available: dict[str, int]
) -> None:
    found = maximum_match(candidates, available)
    assert len(found) == most(candidates, available)
    assert all(found[role] in candidates[role] for role in found)
    taken = list(found.values())
    assert all(taken.count(one) <= available[one] for one in taken)


@given(CANDIDATES, AVAILABLE)
def test_all_roles_or_none(candidates: dict[str, list[str]], available: dict[str, int]) -> None:
    found = match(candidates, available)
    if found is None:
        assert most(candidates, available) < len(candidates)
    else:
        assert found.keys() == candidates.keys()


def test_a_role_makes_room_for_a_pickier_one() -> None:
    assert match({"any": ["A", "B"], "picky": ["A"]}, {"A": 1, "B": 1}) == {"any": "B", "picky": "A"}


def test_a_chain_of_moves() -> None:
    candidates = {"p": ["A", "B"], "q": ["B", "C"], "r": ["A", "C"]}
    found = match(candidates, {"A": 1, "B": 1, "C": 1})
    assert found is not None
    assert sorted(found.values()) == ["A", "B", "C"]


def test_nothing_is_needed() -> None:
    assert match({}, {}) == {}
