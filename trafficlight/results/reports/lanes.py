"""The swim lanes of an attempt: who did what when, what passed between them, and what a test broke."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trafficlight.results.case import AttemptRecord
from trafficlight.results.folder import folder_name
from trafficlight.results.reports.measurements import faults_of
from trafficlight.results.reports.timeline import Step
from trafficlight.text import single_line

TEST = "test"
_TOP, _HEIGHT = 22, 42  # pixels above the first lane, and of a lane
_BAR, _INSET = 17, 5  # pixels of a bar, and by how much one inside of another is lower
_NETWORK = "network"
_LEAST = 0.3  # percent of the width that a bar takes at least
_ROOM = 1.25  # what is later than this much of the attempt is drawn at the right edge
_HOLE, _HOLE_PART = 1.0, 0.06  # seconds, and the part of the attempt, in which nothing was asked
_FAULTS, _ARROWS, _MARKS = 50, 60, 40  # drawn
_TICKS = 5
_VERDICT_ROOM = 25  # percent that a tick and the verdict take on a phone
_WORD = 3  # letters of a value that connects two actions
# What they send is what others read.
_SENT = ("message", "text", "body", "content", "name")


@dataclass(frozen=True, slots=True)
class Bar:
    """A step with a duration.

    :ivar number: its position among the steps that are shown, from 1; 0 for a pause.
    :ivar left: percent of the width, as all of them.
    :ivar top: pixels, as all of them.
    """

    number: int
    left: float
    width: float
    top: int
    height: int
    text: str
    tip: str
    kind: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment: a file, a line of a log, an end.

    :ivar path: of the file, below the session's folder; empty if there is none.
    """

    left: float
    top: int
    sign: str
    tip: str
    kind: str
    path: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Lane:
    """One of those who take part."""

    name: str
    kind: str
    top: int


@dataclass(frozen=True, slots=True)
class Arrow:
    """What one client did, and another one saw."""

    left: float
    top: int
    right: float
    bottom: int
    tip: str


@dataclass(frozen=True, slots=True)
class Shade:
    """Something that the test broke for a while."""

    left: float
    width: float
    top: int
    height: int
    name: str


@dataclass(slots=True)
class Lanes:
    """The picture.

    :ivar whole: seconds of its width.
    :ivar ended: where the verdict is, in percent; None while the attempt runs.
    :ivar ticks: the position and the text of each.
    """

    whole: float
    height: int
    ended: float | None
    ticks: list[tuple[float, str]]
    lanes: list[Lane] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    shades: list[Shade] = field(default_factory=list)


def lanes_of(
    attempt: AttemptRecord,
    steps: Sequence[Step],
    clients: Iterable[str],
    servers: Iterable[str],
    warnings: Sequence[tuple[str, float, str, str]] = (),
) -> Lanes | None:
    """Return the picture of an attempt; None if there is nothing to draw.

    :param steps: those that are shown, in their order.
    :param clients: the roles of clients.
    :param servers: the roles of homeservers.
    :param warnings: of homeservers: the name of the role's folder, seconds, the line, and its log.
    """
    if attempt.started is None or not steps:
        return None
    return _Drawing(attempt, steps, [*clients], [*servers]).drawn(warnings)


class _Drawing:
    def __init__(
        self, attempt: AttemptRecord, steps: Sequence[Step], clients: list[str], servers: list[str]
    ) -> None:
        self._attempt, self._steps = attempt, steps
        latest = max(step.offset + (step.seconds or 0.0) for step in steps)
        limit = _ROOM * attempt.seconds if attempt.ended is not None else latest
        self._whole = max(0.001, attempt.seconds, min(latest, limit))
        self._faults = faults_of(attempt)[:_FAULTS]
        kinds = {TEST: "test", **dict.fromkeys(clients, "client"), **dict.fromkeys(servers, "server")}
        kinds |= {step.who: "service" for step in steps if step.kind == "service"}
        if any(fault.role not in kinds for fault in self._faults):
            kinds[_NETWORK] = "network"
        self._top = {name: _TOP + number * _HEIGHT for number, name in enumerate(kinds)}
        ticks = [self._whole * number / _TICKS for number in range(_TICKS)]
        self._picture = Lanes(
            round(self._whole, 3),
            _TOP + len(kinds) * _HEIGHT + 4,
            self._at(attempt.seconds) if attempt.ended is not None else None,
            [(self._at(seconds), f"{seconds:.3g} s") for seconds in ticks if not self._near_verdict(seconds)],
            [Lane(name, kind, self._top[name]) for name, kind in kinds.items()],
        )

    def drawn(self, warnings: Sequence[tuple[str, float, str, str]]) -> Lanes:
        picture = self._picture
        self._draw_steps()
        self._draw_pauses()
        for fault in self._faults:
            top = self._top.get(fault.role, self._top.get(_NETWORK, _TOP))
            left = self._at(fault.begin)
            width = max(_LEAST, self._at(min(fault.end, self._whole)) - left)
            picture.shades.append(Shade(left, round(width, 2), top + 14, _HEIGHT - 16, fault.name))
        self._draw_arrows()
        for file in [*self._attempt.uploads, *self._attempt.attachments][:_MARKS]:
            assert self._attempt.started is not None
            seconds, role = (file.time - self._attempt.started).total_seconds(), file.role or TEST
            if role in self._top:
                path = f"{self._attempt.folder}/{file.path}"
                self._mark(role, seconds, "▣" if file.is_image else "▤", file.name, "file", path=path)
        roles = {folder_name(name): name for name in self._top}
        for folder, seconds, line, path in warnings[:_MARKS]:
            if (lane := roles.get(folder)) is not None:
                self._mark(lane, seconds, "▲", line, "warning", path=path)
        return picture

    def _at(self, seconds: float) -> float:
        return round(0.4 + 99.2 * min(1.0, max(0.0, seconds / self._whole)), 2)

    def _near_verdict(self, seconds: float) -> bool:
        """Return whether the name of the verdict is where the text of a tick would be."""
        between = self._at(self._attempt.seconds) - self._at(seconds)
        return self._attempt.ended is not None and -2 < between < _VERDICT_ROOM

    def _mark(
        self, lane: str, seconds: float, sign: str, tip: str, kind: str, *, path: str = "", number: int = 0
    ) -> None:
        tip = f"{seconds:.2f} s: {single_line(tip)}"
        mark = Mark(self._at(seconds), self._top[lane] + _HEIGHT - 4, sign, tip, kind, path, number)
        self._picture.marks.append(mark)

    def _period(self, step: Step) -> tuple[float, float]:
        """Return when a step began and ended."""
        took = step.seconds or 0.0
        if step.kind == "server":  # its offset is when it was ready
            return max(0.0, step.offset - took), step.offset
        return step.offset, self._whole if step.outcome == "open" else step.offset + took

    def _draw_steps(self) -> None:
        busy: dict[str, list[float]] = {}
        for number, step in enumerate(self._steps, 1):
            lane = step.who if step.who in self._top else TEST
            quiet = step.kind in ("adapter", "network", "log") and step.outcome in ("ok", "info", "debug")
            if quiet:
                continue
            tip = " ".join(part for part in (step.what, step.asked, step.detail) if part)
            tip += f" → {step.answer}" if step.answer else ""
            begin, end = self._period(step)
            if step.seconds is None and step.outcome != "open":
                sign = {"late": "◷", "warning": "▲"}.get(step.outcome, "✗" if step.outcome != "ok" else "•")
                kind = "warning" if sign == "▲" else "failed" if sign != "•" else "file"
                self._mark(lane, begin, sign, tip, kind, number=number)
                continue
            outer = [one for one in busy.get(lane, ()) if one > begin]
            busy[lane] = [*outer, end]
            inset, left = _INSET * min(len(outer), 2), self._at(begin)
            self._picture.bars.append(
                Bar(
                    number,
                    left,
                    round(max(_LEAST, self._at(end) - left), 2),
                    self._top[lane] + 16 + inset,
                    _BAR - inset,
                    step.what,
                    f"{begin:.2f} s: {single_line(tip)}",
                    step.kind,
                    step.outcome,
                )
            )

    def _draw_pauses(self) -> None:
        """Draw when the test ran and nothing else did: it slept, computed, or waited for itself."""
        attempt, least = self._attempt, max(_HOLE, _HOLE_PART * self._whole)
        if attempt.running_since is None or attempt.started is None:
            return
        free = (attempt.running_since - attempt.started).total_seconds()
        end = attempt.seconds if attempt.ended is not None else self._whole
        kinds = ("action", "step", "service")
        working = (one for one in self._steps if one.kind in kinds and one.outcome != "late")
        busy = sorted(map(self._period, working))
        for begins, ends in [*busy, (end, end)]:
            if begins - free > least:
                text, left = f"nothing was asked for {begins - free:.1f} s", self._at(free)
                width = round(self._at(begins) - left, 2)
                top = self._top[TEST] + 16
                self._picture.bars.append(Bar(0, left, width, top, _BAR, text, text, "pause", "ok"))
            free = max(free, ends)

    def _draw_arrows(self) -> None:
        """Draw an arrow to each action from the last one of another client whose result it uses."""
        earlier: list[tuple[Step, set[str]]] = []
        for step in self._steps:
            if step.kind != "action" or step.outcome == "late" or step.who not in self._top:
                continue
            begin, end = self._period(step)
            for other, gave in reversed(earlier):
                done = self._period(other)[1]
                invited = (other.what, step.what) == ("invite_user", "accept_invite")
                used = invited or not gave.isdisjoint(step.took.values())
                if used and other.who != step.who and done < end:
                    if len(self._picture.arrows) < _ARROWS:
                        self._picture.arrows.append(
                            Arrow(
                                self._at(done),
                                self._top[other.who] + 24,
                                # What waits for it began before it came.
                                self._at(begin if begin >= done else end),
                                self._top[step.who] + 24,
                                f"{other.who}: {other.what} → {step.who}: {step.what}",
                            )
                        )
                    break
            sent = {value for name, value in step.took.items() if name in _SENT}
            earlier.append((step, {value for value in sent | set(step.gave) if len(value) >= _WORD}))
