"""Maximum bipartite matching of roles and adapters, as pure functions."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

R = TypeVar("R", bound=Hashable)
A = TypeVar("A", bound=Hashable)


def match(candidates: Mapping[R, Sequence[A]], available: Mapping[A, int]) -> dict[R, A] | None:
    """Assign a candidate to every role; return None if that is impossible.

    Finds an assignment whenever one exists, however the candidates overlap. Candidates are tried in order.

    :param candidates: what can fill each role, best first.
    :param available: how many there are of each candidate.
    """
    found = maximum_match(candidates, available)
    return found if len(found) == len(candidates) else None


def maximum_match(candidates: Mapping[R, Sequence[A]], available: Mapping[A, int]) -> dict[R, A]:
    """Assign a candidate to as many roles as possible.

    Kuhn's augmenting paths: a role whose candidates are all taken makes another role move to its next one.

    :param candidates: what can fill each role, best first.
    :param available: how many there are of each candidate.
    """
    holders: dict[A, list[R]] = {}

    def place(role: R, tried: set[A]) -> bool:
        for candidate in candidates[role]:
            if candidate in tried:
                continue
            tried.add(candidate)
            held = holders.setdefault(candidate, [])
            if len(held) < available.get(candidate, 0):
                held.append(role)
                return True
            for index, other in enumerate(held):
                if place(other, tried):
                    # `other` has moved to another candidate, so its place is free.
                    held[index] = role
                    return True
        return False

    # Most constrained roles first.
    for role in sorted(candidates, key=lambda role: len(candidates[role])):
        place(role, set())
    return {role: candidate for candidate, held in holders.items() for role in held}
