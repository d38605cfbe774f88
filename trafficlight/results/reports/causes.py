"""Why cases failed: failures with one signature, and the factors that explain each best. Pure.

A factor is one thing that a case has: the type in a role, a parameter, a version. A pair of factors explains
a group of failures well if most of the failures have both, and most of the cases with both are among them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from pydantic import BaseModel, Field

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.events import State
from trafficlight.results.signature import signature
from trafficlight.suites.query import planned_values
from trafficlight.text import single_line

Factor: TypeAlias = tuple[str, str]
"""Name and value, as in queries."""

_TROUBLE = (Outcome.FAILURE, Outcome.ERROR, Outcome.EXPECTED_FAILURE)  # the worst first
_RAN = frozenset({State.SUCCESS, State.FAILURE, State.ERROR})
# What a further factor must improve the score by, so that noise names none.
_PRICE = 0.9


class Cause(BaseModel):
    """Failures that have one signature."""

    key: str = Field(description="Names the signature; `cause:<key>` in a query selects its cases.")
    status: str = Field(description="`failure` or `error`, or `expected failure` if all are expected.")
    message: str = Field(description="The first line of one of the messages.")
    cases: list[str] = Field(description="The ids of the cases, in the order of the plan.")
    expected: int = Field(description="How many of the cases are expected to fail.")
    reason: str = Field(description="Why one of them is expected to fail; empty if none is.")
    factors: list[Factor] = Field(
        description="Name, as in queries, and value of at most two factors that explain the failures best."
    )
    matching: int = Field(description="How many of the cases have these factors.")
    total: int = Field(description="How many cases that have these factors ran, and succeeded or failed.")
    since: str = Field(
        default="",
        description="The session since which one of the cases fails; `new` if none did before.",
    )


def causes(cases: Iterable[CaseRecord], since: Mapping[str, str] | None = None) -> list[Cause]:
    """Return the causes of the failures and errors of a session, the largest first, the expected ones last.

    :param since: by case, the session since which it fails, or ``new``.
    """
    ran = [case for case in cases if case.verdict in _RAN]
    groups: dict[str, list[int]] = {}
    for index, case in enumerate(ran):
        if key := cause_of(case):
            groups.setdefault(key, []).append(index)
    explain = _Explanations(ran) if any(len(members) > 1 for members in groups.values()) else None
    found = []
    for key, members in groups.items():
        troubled = [ran[index] for index in members]
        factors, matching, total = (
            explain.best(members) if explain and len(members) > 1 else ((), len(members), len(ran))
        )
        known = [case.expected for case in troubled if case.outcome is Outcome.EXPECTED_FAILURE]
        outcomes = {case.outcome for case in troubled}
        found.append(
            Cause(
                key=key,
                status=next(one for one in _TROUBLE if one in outcomes),
                message=single_line(troubled[0].message) or "no message",
                cases=[case.id for case in troubled],
                expected=len(known),
                reason=known[0].reason if known and known[0] is not None else "",
                factors=list(factors),
                matching=matching,
                total=total,
                since=min((begun for case in troubled if (begun := (since or {}).get(case.id))), default=""),
            )
        )
    return sorted(found, key=lambda cause: (cause.expected - len(cause.cases), -len(cause.cases)))


def cause_of(case: CaseRecord) -> str:
    """Return the key of the cause of a failure or an error; empty for a case that has neither."""
    if case.outcome not in _TROUBLE:
        return ""
    return key_of(signature(case.message))


def key_of(signature: str) -> str:
    """Return the key of a signature."""
    return hashlib.sha256(signature.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def factors_of(case: CaseRecord) -> Iterator[Factor]:
    """Yield the factors of a case: roles, types, its test, parameters, and what its last attempt ran with."""
    yield from planned_values(case.suite, case.file, case.clients, case.servers, case.parameters)
    if (attempt := case.attempt) is None:
        return
    # Copied: an attempt that runs gets more of them meanwhile.
    for registration in list(attempt.adapters.values()):
        if version := registration.get("version"):
            yield "version", f"{registration.get('type')} {version}"
        if instance := registration.get("instance"):
            yield "host", str(instance)
    for server in list(attempt.servers.values()):
        if server.version:
            yield "version", f"{server.type} {server.version}"


class _Explanations:
    """Finds the factors that explain groups of cases.

    The set of the cases that have a factor is one integer, a bit for each: two sets are intersected and
    counted in a microsecond.
    """

    def __init__(self, cases: list[CaseRecord]) -> None:
        self._size = len(cases)
        # Numbers in place of factors: the objects of each case would make full garbage collections frequent.
        self._numbers: dict[Factor, int] = {}
        self._having: dict[int, list[int]] = {}
        self._factors: list[tuple[int, ...]] = []
        for index, case in enumerate(cases):
            numbers = (self._numbers.setdefault(one, len(self._numbers)) for one in factors_of(case))
            mine = tuple(dict.fromkeys(numbers))
            self._factors.append(mine)
            for factor in mine:
                self._having.setdefault(factor, []).append(index)
        self._sets: dict[int, int] = {}

    def best(self, members: list[int]) -> tuple[tuple[Factor, ...], int, int]:
        """Return the factors that explain a group, how many of it have them, and how many cases have them."""
        size, group = len(members), _bits(members, self._size)
        counted = Counter(factor for index in members for factor in self._factors[index])
        # The order decides between equal scores: what all cases have in front, then the order in a case.
        least = max(2, size / 2)  # what most of them do not have explains little
        hits = sorted((one for one in counted.items() if one[1] >= least), key=lambda one: -one[1])
        best: tuple[int, ...] = ()
        score, numbers = size / self._size, (size, self._size)
        for factor, hit in hits:
            total = len(self._having[factor])
            if (mine := _PRICE * hit * hit / (size * total)) > score:
                best, score, numbers = (factor,), mine, (hit, total)
        for position, (factor, limit) in enumerate(hits):
            if _PRICE**2 * limit / size <= score:  # no pair with it, or after it, can be better
                break
            inside = self._set(factor) & group
            for other, _ in hits[:position]:
                hit = (inside & self._set(other)).bit_count()
                if hit < least or _PRICE**2 * hit / size <= score:
                    continue
                total = (self._set(factor) & self._set(other)).bit_count()
                if (mine := _PRICE**2 * hit * hit / (size * total)) > score:
                    best, score, numbers = (other, factor), mine, (hit, total)
        names = list(self._numbers)
        return tuple(names[factor] for factor in best), *numbers

    def _set(self, factor: int) -> int:
        if (known := self._sets.get(factor)) is None:
            known = self._sets[factor] = _bits(self._having[factor], self._size)
        return known


def _bits(indices: Iterable[int], size: int) -> int:
    found = bytearray(size // 8 + 1)
    for index in indices:
        found[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(found, "little")
