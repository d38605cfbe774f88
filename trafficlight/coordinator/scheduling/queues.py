"""The waiting cases of a session, grouped by what they need."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from trafficlight.suites.model import Case


@dataclass(frozen=True, slots=True)
class WaitingCase:
    """A case that waits for its next attempt.

    :param order: its position in the plan.
    :param since: when it started to wait, on the monotonic clock.
    :param attempt: the number of its next attempt, from 1.
    :param failures: the number of earlier attempts that failed.
    """

    case: Case
    order: int
    since: float
    attempt: int = 1
    failures: int = 0


@dataclass(slots=True, eq=False)
class WaitingGroup:
    """Waiting cases of one session with the same needs: what one of them cannot get, none of them can.

    :param server_types: the name of the server type of each homeserver that one case needs.
    :ivar cases: by id, in the order in which they were added.
    :ivar unsatisfiable_since: since when all that is there, free and busy, has not been enough, or None.
    :ivar no_adapter_since: the same for adapters only.
    :ivar patience: seconds for which adapters may be missing.
    """

    session: str
    server_types: tuple[str, ...] = ()
    cases: dict[str, WaitingCase] = field(default_factory=dict)
    reason: str = ""
    unsatisfiable_since: float | None = None
    no_adapter_since: float | None = None
    patience: float = 0.0
    _reported: str = ""
    _reported_at: float = float("-inf")

    def note_waiting(self, reason: str, now: float, *, unsatisfiable: bool, no_adapter: bool) -> None:
        """Note why the group waits.

        :param unsatisfiable: whether all adapters and providers together cannot fill its roles.
        :param no_adapter: whether that is for lack of adapters.
        """
        self.reason = reason
        self.unsatisfiable_since = _since(self.unsatisfiable_since, now, unsatisfiable)
        self.no_adapter_since = _since(self.no_adapter_since, now, no_adapter)

    def set_patience(self, seconds: float, now: float) -> None:
        """Set for how long adapters may be missing; a shorter time counts from now."""
        if seconds < self.patience and self.no_adapter_since is not None:
            self.no_adapter_since = self.unsatisfiable_since = now
        self.patience = seconds

    def expired_deadline(self, now: float, deadline: float, adapters_deadline: float) -> float | None:
        """Return the deadline that the group has reached, in seconds; None if it may wait longer.

        :param deadline: seconds for which the group may be unsatisfiable.
        :param adapters_deadline: seconds for which adapters may be missing; if longer, it replaces the other.
        """
        longest = max(deadline, adapters_deadline)
        timers = ((self.no_adapter_since, adapters_deadline), (self.unsatisfiable_since, longest))
        return next((limit for since, limit in timers if since is not None and now - since >= limit), None)

    def unreported_reason(self, now: float, pause: float) -> str | None:
        """Return the reason, once, if it changed and the last report was at least `pause` seconds ago."""
        if not self.cases or self.reason == self._reported or now - self._reported_at < pause:
            return None
        self._reported, self._reported_at = self.reason, now
        return self.reason


class WaitingCases:
    """All waiting cases of a session."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._groups: dict[object, WaitingGroup] = {}
        self._group_of: dict[str, WaitingGroup] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._group_of))

    def __contains__(self, case: str) -> bool:
        return case in self._group_of

    def __len__(self) -> int:
        return len(self._group_of)

    @property
    def groups(self) -> list[WaitingGroup]:
        """The groups that have cases."""
        return [group for group in self._groups.values() if group.cases]

    def add(self, waiting: WaitingCase) -> WaitingGroup:
        """Add a case to the group with its needs and return the group."""
        case = waiting.case
        servers = server_types(case)
        needs = frozenset(Counter(case.clients.values()).items()), servers, case.nodes, case.isolated
        if (group := self._groups.get(needs)) is None:
            group = self._groups[needs] = WaitingGroup(self._session, servers)
        group.cases[case.id] = waiting
        self._group_of[case.id] = group
        return group

    def remove(self, case: str, *, starts: bool = False) -> WaitingCase:
        """Remove and return a waiting case.

        :param starts: whether it starts, which shows that its group can be satisfied.
        :raises KeyError: it is not waiting.
        """
        group = self._group_of.pop(case)
        if starts:
            group.unsatisfiable_since = group.no_adapter_since = None
        return group.cases.pop(case)


def server_types(case: Case) -> tuple[str, ...]:
    """Return the name of the server type of every homeserver that a case needs."""
    return tuple(
        spec.type_name for slot in case.servers for _, spec in zip(slot.roles, slot.homeservers, strict=False)
    )


def _since(before: float | None, now: float, holds: bool) -> float | None:
    if not holds:
        return None
    return now if before is None else before
