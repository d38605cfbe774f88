"""Which adapters can fill the roles of a case: maximum bipartite matching, as a pure function."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

R = TypeVar("R", bound=Hashable)
A = TypeVar("A", bound=Hashable)


def assign(candidates: Mapping[R, Sequence[A]], available: Mapping[A, int]) -> dict[R, A] | None:
    """Give every role one of its candidates, none more often than it is available; None where that cannot be.

    An overlap of candidates never blocks an assignment that exists. Candidates are tried in their order.

    :param candidates: what can fill each role, best first.
    :param available: how many there are of each.
    """
    found = assign_most(candidates, available)
    return found if len(found) == len(candidates) else None


def assign_most(candidates: Mapping[R, Sequence[A]], available: Mapping[A, int]) -> dict[R, A]:
    """Give as many roles as possible one of their candidates.

    Kuhn's augmenting paths: a role that finds all its candidates taken makes another role move over.

    :param candidates: what can fill each role, best first.
    :param available: how many there are of each.
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
                    # `other` has moved on to another candidate; its place is free.
                    held[index] = role
                    return True
        return False

    # The pickiest roles first: they have the fewest ways to be placed.
    for role in sorted(candidates, key=lambda role: len(candidates[role])):
        place(role, set())
    return {role: candidate for candidate, held in holders.items() for role in held}
