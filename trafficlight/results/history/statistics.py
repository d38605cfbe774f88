"""What the verdicts of one case over time say: how often it flakes, since when it fails."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import NamedTuple

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.history.verdicts import BAD, GOOD, CaseVerdict, counts

_Z = 1.96  # of the normal distribution, for a confidence of 95 %


class Interval(NamedTuple):
    """Bounds between which a share lies with a confidence of 95 %."""

    low: float
    high: float


def wilson(hits: int, total: int) -> Interval:
    """Return Wilson's interval for a share, which also holds for few observations and for 0 of n.

    :param hits: at most `total`.
    """
    if not total:
        return Interval(0.0, 1.0)
    share, square = hits / total, _Z * _Z
    middle = share + square / (2 * total)
    spread = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    scale = 1 + square / total
    low = 0.0 if not hits else (middle - spread) / scale
    return Interval(max(0.0, low), 1.0 if hits == total else min(1.0, (middle + spread) / scale))


@dataclass(frozen=True, slots=True)
class Past:
    """The verdict of a case in one session.

    :ivar lab: where the session's folder is.
    :ivar revision: the commit of its tests, see :attr:`SessionRecord.revision`.
    """

    lab: str
    session: str
    started: datetime | None
    host: str
    verdict: CaseVerdict
    revision: str = ""


def with_now(case: CaseRecord, past: Sequence[Past]) -> Sequence[Past]:
    """Return the verdicts of a case, newest first, beginning with that of its own session if it has one."""
    if not counts(case):
        return past
    now = CaseVerdict(case.id, case.outcome, seconds=case.seconds)
    return [Past("", "this session", None, "", now), *past]


@dataclass(frozen=True, slots=True)
class CaseHistory:
    """The verdicts of one case over time.

    :ivar past: newest first.
    """

    past: Sequence[Past]

    @property
    def flakes(self) -> int:
        """How many times it was flaky, or failed between two sessions in which it succeeded."""
        outcomes = [one.verdict.outcome for one in self.past]
        alone = zip(outcomes[2:], outcomes[1:], outcomes, strict=False)
        return outcomes.count(Outcome.FLAKY) + sum(
            before in GOOD and now in BAD and after in GOOD for before, now, after in alone
        )

    @property
    def flake_interval(self) -> Interval:
        """The interval of its flake rate."""
        return wilson(self.flakes, len(self.past))

    @property
    def failing(self) -> Sequence[Past]:
        """The latest sessions in a row in which it failed, newest first; empty if it does not fail now."""
        bad = [one.verdict.outcome in BAD for one in self.past]
        return self.past[: bad.index(False) if False in bad else len(bad)]

    @property
    def first_bad(self) -> Past | None:
        """The session since which it fails; None if it does not."""
        return self.failing[-1] if self.failing else None

    @property
    def last_good(self) -> Past | None:
        """The latest session in which it succeeded."""
        return next((one for one in self.past if one.verdict.outcome in GOOD), None)

    @property
    def typical_seconds(self) -> float | None:
        """The median duration of its successes; None without one."""
        seconds = [one.verdict.seconds for one in self.past if one.verdict.outcome in GOOD]
        return median(seconds) if seconds else None
