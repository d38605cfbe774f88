"""The verdicts and measurements of a case over sessions: small pictures with a text that says the same."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from trafficlight.results.history.statistics import Past
from trafficlight.results.history.verdicts import BAD
from trafficlight.text import count, duration

STEP = 8
"""The width of a session in a picture, in its own units."""
HALF = 12
"""Half of the height of a picture."""

_LEAST = 3  # the height of a bar
_SESSIONS = 20  # drawn, the latest


@dataclass(frozen=True, slots=True)
class Bar:
    """A verdict: above the middle, or below it if it is a failure or an error. Its height is its duration.

    :ivar x: the left edge.
    :ivar y: the upper edge.
    :ivar tip: session, outcome and duration.
    """

    x: int
    y: int
    height: int
    outcome: str
    tip: str


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts of a case, oldest first.

    :ivar text: says them in words.
    """

    bars: list[Bar]
    text: str

    @property
    def width(self) -> int:
        """Of the picture."""
        return STEP * len(self.bars)


@dataclass(frozen=True, slots=True)
class Trend:
    """The median and the 95th percentile of a measurement in sessions, oldest first, as paths.

    :ivar p95: empty if each session has one value.
    :ivar end: the height at which the line of medians ends.
    :ivar against: both, compared with what they were, in words.
    :ivar text: the medians, in words.
    """

    width: int
    p50: str
    p95: str
    end: int
    against: str
    text: str


def verdicts_of(past: Sequence[Past]) -> Verdicts | None:
    """Draw the verdicts of a case; None if there are fewer than two.

    :param past: newest first.
    """
    shown = list(reversed(past[:_SESSIONS]))
    if len(shown) < 2:
        return None
    longest = max(one.verdict.seconds for one in shown) or 1.0
    bars = []
    for at, one in enumerate(shown):
        height = max(_LEAST, round(HALF * one.verdict.seconds / longest))
        y = HALF if one.verdict.outcome in BAD else HALF - height
        outcome, took = one.verdict.outcome.value, duration(one.verdict.seconds)
        bars.append(Bar(STEP * at, y, height, outcome, f"{one.session}: {outcome}, {took}"))
    runs = (f"{len(list(some))} {outcome}" for outcome, some in groupby(bar.outcome for bar in bars))
    return Verdicts(bars, f"{count(len(bars), 'session')}, oldest first: {', '.join(runs)}")


def trend_of(points: Sequence[tuple[float, float]], unit: str) -> Trend | None:
    """Draw the median and the 95th percentile of a measurement; None if there are fewer than two sessions.

    :param points: both for each session, oldest first; the last ones are those of the session itself.
    """
    shown = [point for point in points if all(map(math.isfinite, point))][-_SESSIONS:]
    if len(shown) < 2 or not all(map(math.isfinite, points[-1])):
        return None
    low, high = min(p50 for p50, _ in shown), max(p95 for _, p95 in shown)
    scale = (high - low) or 1.0

    def y(value: float) -> int:
        return round(2 * HALF * (high - value) / scale) if high > low else HALF

    def path(values: Iterable[float]) -> str:
        return "M" + "L".join(f"{STEP * at + STEP // 2} {y(value)}" for at, value in enumerate(values))

    middles, upper = [p50 for p50, _ in shown], [p95 for _, p95 in shown]
    several = middles != upper

    def compared(name: str, values: Sequence[float]) -> str:
        return f"{name} {number(values[-1])} against {number(median(values[:-1]))}"

    numbers = [compared("p50", middles), *([compared("p95", upper)] if several else [])]
    against = f"{', '.join(numbers)} {unit}".rstrip() + f" in {count(len(shown) - 1, 'earlier session')}"
    text = f"p50 in {count(len(shown), 'session')}, oldest first: {', '.join(map(number, middles))} {unit}"
    width = STEP * len(shown)
    return Trend(width, path(middles), path(upper) if several else "", y(middles[-1]), against, text.rstrip())


def number(value: float) -> str:
    """Return a number of a measurement in three digits or so."""
    return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.3g}"
