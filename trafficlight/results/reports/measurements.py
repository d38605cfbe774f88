"""Measurements of an attempt: summaries, plots, and what earlier sessions measured in the same case."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

from trafficlight.results.case import AttemptRecord
from trafficlight.results.events import Measurement, NetworkChanged
from trafficlight.results.history.statistics import Past
from trafficlight.results.history.verdicts import Series, percentile
from trafficlight.results.reports.sparkline import Trend, number, trend_of
from trafficlight.text import count

_SINGLE_VALUES = 10  # measurements of one name that are listed; more are summed up
_NAMES = 50  # shown for an attempt
_PLOTS = 12  # drawn for an attempt
_FEWEST = 3  # values of a plot
_COLUMNS = 200  # of a plot: what falls into one is drawn as its minimum, median and maximum
_DOTS = 60  # values that are drawn as dots, too
_SIZE = 1000  # the width and the height of a plot, in its own units
_FAULTS = 50  # shaded in a plot


@dataclass(frozen=True, slots=True)
class Fault:
    """What a test broke for a while.

    :ivar begin: seconds from the start of the attempt.
    :ivar end: likewise.
    :ivar role: whose network it was; empty for that of all.
    """

    name: str
    begin: float
    end: float
    role: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """Values over time, as paths in a square of :data:`_SIZE` units, which the page stretches.

    :ivar line: through the values, or through the median of each column.
    :ivar dots: the values; empty if they are many.
    :ivar band: from the minimum to the maximum of each column; empty if each has one value.
    :ivar shades: each fault with its left edge and its width.
    :ivar low: the value at the lower edge.
    :ivar high: the value at the upper edge.
    :ivar begin: seconds from the start of the attempt, at the left edge.
    :ivar end: likewise, at the right edge.
    """

    line: str
    dots: str
    band: str
    shades: list[tuple[Fault, int, int]]
    low: str
    high: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one name.

    :ivar now: the value, or the median of several.
    :ivar was: that of the last session; empty if there is none.
    :ivar session: the id of that session.
    :ivar more: the other numbers.
    :ivar plot: None where there is nothing to draw.
    :ivar trend: over sessions; None without earlier ones.
    """

    name: str
    now: str
    was: str = ""
    session: str = ""
    more: str = ""
    plot: Plot | None = None
    trend: Trend | None = None


def measured(attempt: AttemptRecord, past: Sequence[Past] = ()) -> list[Measured]:
    """Return the measurements of an attempt by their names, with those of the case before.

    :param past: the verdicts of the case in earlier sessions, newest first.
    """
    found = list[Measured]()
    series = _series(attempt)
    faults = faults_of(attempt) if series else []
    for one in list(series.values())[:_NAMES]:
        before = [
            (session.session, was)
            for session in past
            for was in session.verdict.measurements
            if (was.name, was.unit) == (one.name, one.unit)
        ]
        session, last = before[0] if before else ("", None)
        now, was, more = _summarise(one.values, last, one.unit)
        wanted = len(one.values) >= _FEWEST and sum(item.plot is not None for item in found) < _PLOTS
        plot = _plot(one.points, faults) if wanted else None
        points = [(was.p50, was.p95) for _, was in reversed(before)]
        trend = trend_of([*points, (rank(one.values, 0.5), rank(one.values, 0.95))], one.unit)
        found.append(Measured(one.name, now, was, session, more, plot, trend))
    if len(series) > _NAMES:
        found.append(Measured(f"{len(series) - _NAMES:,} more", "in measurements.json"))
    return found


def summarized(measurements: Iterable[Measurement]) -> list[tuple[str, str]]:
    """Return name and text of each measurement, or of all of one name together if they are many."""
    by_name: dict[str, list[Measurement]] = {}
    for item in measurements:
        by_name.setdefault(item.name, []).append(item)
    found: list[tuple[str, str]] = []
    for name, items in by_name.items():
        if len(items) <= _SINGLE_VALUES:
            found += [(name, f"{item.value} {item.unit}".strip()) for item in items]
            continue
        values = [float(item.value) for item in items]
        numbers = (f"{what} {do(values):g}" for what, do in (("min", min), ("median", median), ("max", max)))
        found.append((name, f"{', '.join(numbers)} {items[0].unit}".strip() + f" ({len(items):,} values)"))
    return found


@dataclass(slots=True)
class _Series:
    name: str
    unit: str
    points: list[tuple[float, float]] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points]


def _series(attempt: AttemptRecord) -> dict[tuple[str, str], _Series]:
    """Return the measurements by name and unit, each at its seconds from the start of the attempt."""
    found: dict[tuple[str, str], _Series] = {}
    begin = attempt.started.timestamp() if attempt.started is not None else 0.0
    for item in attempt.measurements:
        one = found.setdefault((item.name, item.unit), _Series(item.name, item.unit))
        when = item.time.timestamp() if item.at is None else item.at
        one.points.append((when - begin, float(item.value)))
    return found


def _summarise(values: Sequence[float], was: Series | None, unit: str) -> tuple[str, str, str]:
    """Return what is said of values: the middle one, that of earlier values, and the other numbers."""

    def text(value: float) -> str:
        return f"{number(value)} {unit}".strip()

    several = was is not None and was.number > 1
    earlier = text(was.p50) if was is not None else ""
    if len(values) == 1:
        return text(values[0]), f"p50 {earlier}" if several else earlier, ""
    more = f"p95 {text(rank(values, 0.95))}" + (f", was {text(was.p95)}" if was is not None else "")
    if len(values) <= _SINGLE_VALUES:
        more += f"; {', '.join(map(number, values))}"
    else:
        more += f"; {text(min(values))} to {text(max(values))}, {count(len(values), 'value')}"
    return f"p50 {text(rank(values, 0.5))}", earlier, more


def rank(values: Sequence[float], part: float) -> float:
    """Return the value below which a part of the values are; of no number if one of them is none."""
    if any(map(math.isnan, values)):
        return math.nan
    return median(values) if part == 0.5 else percentile(sorted(values), part)


def faults_of(attempt: AttemptRecord) -> list[Fault]:
    """Return what the test broke, in the order in which that ended."""
    begin = attempt.started
    if begin is None:
        return []

    def offset(time: datetime) -> float:
        return (time - begin).total_seconds()

    found: list[Fault] = []
    active: dict[str, list[float]] = {}
    roles: dict[str, str] = {}
    for event in attempt.timeline:
        # What only watches requests breaks nothing.
        if isinstance(event, NetworkChanged) and not event.rule.startswith("intercept "):
            name = f"{event.role}: {event.rule}" if event.role else event.rule
            if event.active:
                roles[name] = event.role or ""
                active.setdefault(name, []).append(offset(event.time))
            # At the end of a rule it also says how many requests matched.
            elif began := next((one for one in active if f"{name}: ".startswith(f"{one}: ")), ""):
                found.append(Fault(began, active[began].pop(), offset(event.time), roles[began]))
                if not active[began]:
                    del active[began]
    end = offset(attempt.ended) if attempt.ended is not None else math.inf
    return found + [Fault(name, since, end, roles[name]) for name, open in active.items() for since in open]


def _plot(points: Sequence[tuple[float, float]], faults: Sequence[Fault]) -> Plot | None:
    """Draw values over the time in which there are values or faults."""
    drawn = sorted(point for point in points if all(map(math.isfinite, point)))
    if len(drawn) < _FEWEST:
        return None
    begin = min([drawn[0][0], *(one.begin for one in faults)])
    ends = (one.end for one in faults if one.end < math.inf)
    end = max([drawn[-1][0], begin + 0.001, *ends])
    low, high = min(value for _, value in drawn), max(value for _, value in drawn)
    if 0 <= low <= high / 2:
        low = 0.0
    if low == high:
        low, high = low - 1, high + 1
    if not math.isfinite(high - low):
        return None

    def x(seconds: float) -> int:
        return round(_SIZE * min(1.0, max(0.0, (seconds - begin) / (end - begin))))

    def y(value: float) -> int:
        return round(_SIZE * (high - value) / (high - low))

    def path(places: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{x(seconds)} {y(value)}" for seconds, value in places)

    shades = [(one, x(one.begin), max(2, x(one.end) - x(one.begin))) for one in faults[:_FAULTS]]
    labels = (number(low), number(high), begin, end)
    if len(drawn) <= _COLUMNS:
        dots = "".join(f"M{x(seconds)} {y(value)}h0" for seconds, value in drawn)
        return Plot(path(drawn), dots if len(drawn) <= _DOTS else "", "", shades, *labels)
    columns: dict[int, list[float]] = {}
    for seconds, value in drawn:
        columns.setdefault(x(seconds) * _COLUMNS // (_SIZE + 1), []).append(value)
    width = (end - begin) / _COLUMNS
    middles = {begin + (column + 0.5) * width: values for column, values in columns.items()}
    edge = [(seconds, max(values)) for seconds, values in middles.items()]
    edge += [(seconds, min(values)) for seconds, values in reversed(middles.items())]
    return Plot(path((at, median(values)) for at, values in middles.items()), "", path(edge), shades, *labels)
