"""Which shard runs which case: the same in every process, whatever the order of the cases."""

import hashlib
from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace
from statistics import median

from trafficlight.suites.case_ids import base_id
from trafficlight.suites.model import Case


def digest(*parts: object) -> bytes:
    """Return what sorts by texts as if at random, and always the same way."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()


def assign_shards(
    cases: Sequence[Case], shards: int, durations: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Return the shard of every case by its id, from 1.

    Without durations, the shards are of equal size, for each suite and for what is skipped too. With
    durations, they take equally long: they differ by the longest case at most.

    :param durations: seconds that cases took, by id; a case that is not listed counts as their median.
    """
    if durations:
        return _balanced(cases, shards, durations)
    # Suite by suite, each shuffled, so that no shard always gets the same type of a role.
    dealt = sorted(cases, key=lambda case: (case.skip is not None, case.suite, digest(case.id)))
    return {case.id: number % shards + 1 for number, case in enumerate(dealt)}


def _balanced(cases: Sequence[Case], shards: int, durations: Mapping[str, float]) -> dict[str, int]:
    """Give the longest case that is left to the shard that has least to do, until none is left."""
    known = {case.id: durations.get(case.id, durations.get(base_id(case.id))) for case in cases}
    usual = median([seconds for seconds in known.values() if seconds is not None] or [1.0])

    def seconds(case: Case) -> float:
        took = known[case.id]
        return 0.0 if case.skip is not None else usual if took is None else took

    loads = [(0.0, 0, shard) for shard in range(1, shards + 1)]  # seconds, cases, shard: a heap
    heapify(loads)
    shard_of: dict[str, int] = {}
    for case in sorted(cases, key=lambda case: (-seconds(case), digest(case.id))):
        load, number, shard = loads[0]
        shard_of[case.id] = shard
        heapreplace(loads, (load + seconds(case), number + 1, shard))
    return shard_of
