"""Decides which waiting cases start, with which adapters, and why the others wait. A pure function.

No clock, no I/O, and no dependence on the order in which groups and adapters are passed.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from trafficlight.coordinator.scheduling.inventory import (
    AdapterInventory,
    AvailableAdapter,
    MissingAdapter,
    Needed,
    TypeMask,
    needs_of,
)
from trafficlight.coordinator.scheduling.queues import WaitingCase, WaitingGroup
from trafficlight.homeservers.provider import all_of
from trafficlight.suites.model import Case

# Seconds for which a case can lack adapters and still have others reserved: adapters that left after a case
# come back within that time.
_RETURN = 30.0
# Cases of a group that can start in one decision, if the number of cases is not limited.
_MOST_STARTS = 1000

MACHINE = "a Dask worker"
"""What a case needs, and nothing else, if it runs on another machine."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once. None: no limit.

    :param ahead: cases that may start besides, to wait on their machine until others have ended.
    :param types: clients or homeservers, by the name of their type, or of all that a provider carries.
    :param unreachable: those of them of which none can start now.
    :param provider_of: returns the provider of a server type.
    :param aging: seconds after which the oldest case of a session goes first and gets what it needs reserved,
        so that smaller cases cannot starve it.
    :param nodes: whether the cluster has certain nodes, which are among the adapters.
    :param shares: returns whether a case shares its homeservers with others.
    :param elsewhere: whether cases run on other machines, which have what they need.
    """

    cases: int | None = None
    ahead: int = 0
    homeservers: int | None = None
    types: Mapping[str, int] = field(default_factory=dict)
    unreachable: frozenset[str] = frozenset()
    provider_of: Callable[[str], str] = str
    aging: float = 60.0
    nodes: bool = False
    shares: Callable[[Case], bool] = lambda _: False
    elsewhere: bool = False

    @property
    def started(self) -> int | None:
        """How many cases may have started and not ended."""
        return None if self.cases is None else self.cases + self.ahead

    def roles(self, case: Case) -> dict[str, Needed]:
        """Return what a case leases."""
        return {} if self.elsewhere else needs_of(case, nodes=self.nodes)

    def needs(self, case: Case, servers: Sequence[str]) -> Counter[str]:
        """Return how many of everything that may be limited a case needs.

        :param servers: the types of the homeservers that it needs; none if it shares those of another case.
        """
        if self.elsewhere:
            return Counter([MACHINE])
        clients = case.clients.values()
        carried = (all_of(self.provider_of(name)) for name in servers)
        return Counter([*(kind.type_name for kind in clients), *servers, *carried])


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in use.

    :param types: what they need, see :meth:`Limits.needs`.
    :param shared: the server types of each set of homeservers that cases share: another case with these types
        needs no other homeservers.
    """

    cases: Mapping[str, int] = field(default_factory=dict)
    homeservers: int = 0
    types: Mapping[str, int] = field(default_factory=dict)
    shared: Set[tuple[str, ...]] = frozenset()


@dataclass(frozen=True, slots=True)
class Start:
    """A case that starts.

    :param adapters: the UUID of an adapter for every client role, and the key of a node for every node.
    """

    group: WaitingGroup
    case: str
    adapters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """What starts and what waits.

    :param reasons: why the rest of a group waits.
    :param unsatisfiable: the groups that all adapters and providers together, free and busy, cannot satisfy.
    :param no_adapter: those of them that lack adapters.
    """

    starts: tuple[Start, ...]
    reasons: Mapping[WaitingGroup, str]
    unsatisfiable: frozenset[WaitingGroup]
    no_adapter: frozenset[WaitingGroup]


def decide(
    waiting: Iterable[WaitingGroup],
    now: float,
    free: Iterable[AvailableAdapter],
    busy: Iterable[AvailableAdapter] = (),
    limits: Limits | None = None,
    usage: Usage | None = None,
    missing: Iterable[MissingAdapter] = (),
    known: tuple[str, ...] = (),
) -> Decision:
    """Decide what starts.

    The session with the fewest running cases goes first. Within a session, the oldest case goes first once it
    has aged; then the groups that need the scarcest adapters, the bigger ones first. Ties are decided by the
    order of the plan. Within a group, cases start in the order in which they were added.

    :param waiting: the groups of waiting cases of all sessions.
    :param missing: adapters that are not there, for the reasons.
    :param known: types that adapters have registered as, or may, for the reasons.
    """
    return _Table(waiting, now, free, busy, limits or Limits(), usage or Usage(), missing, known).decision()


@dataclass(slots=True, eq=False)
class _Candidates:
    """The cases of a group that are not decided yet, the next one last.

    :param types: what each needs, see :meth:`Limits.needs`.
    :param others: what it needs besides homeservers.
    :param shares: whether it shares its homeservers.
    """

    group: WaitingGroup
    bits: tuple[TypeMask, ...]
    types: Mapping[str, int]
    others: Mapping[str, int]
    shares: bool
    cases: list[WaitingCase]


# What orders the groups of a session (scarcity, size, order in the plan, id), and the group.
_Place: TypeAlias = tuple[int, int, int, str, _Candidates]


class _Table:
    """The state of one decision."""

    def __init__(
        self,
        waiting: Iterable[WaitingGroup],
        now: float,
        free: Iterable[AvailableAdapter],
        busy: Iterable[AvailableAdapter],
        limits: Limits,
        usage: Usage,
        missing: Iterable[MissingAdapter],
        known: tuple[str, ...],
    ) -> None:
        self._now = now
        self._limits = limits
        self._starts: list[Start] = []
        self._reasons: dict[WaitingGroup, str] = {}
        self._no_adapter: set[WaitingGroup] = set()
        self._running = Counter(usage.cases)
        self._homeservers = usage.homeservers
        self._types = Counter(usage.types)
        self._shared = set(usage.shared)
        self._reserved_homeservers = 0
        self._reserved_types: Counter[str] = Counter()
        groups = [group for group in waiting if group.cases]
        firsts = [next(iter(group.cases.values())).case for group in groups]
        kinds = (kind for case in firsts for kind in limits.roles(case).values())
        self._adapters = AdapterInventory(kinds, free, busy, missing, known)
        # One more than can start, so that the group gets a reason.
        most = _MOST_STARTS
        if limits.started is not None:
            most = max(0, limits.started - self._running.total()) + 1
        self._candidates = []
        for group, case in zip(groups, firsts, strict=True):
            self._candidates.append(
                _Candidates(
                    group,
                    bits=tuple(sorted(map(self._adapters.bit, limits.roles(case).values()))),
                    types=limits.needs(case, group.server_types),
                    others=limits.needs(case, ()),
                    shares=limits.shares(case),
                    cases=list(islice(group.cases.values(), most))[::-1],
                )
            )

    def decision(self) -> Decision:
        """Return the decision; may be called once."""
        queues: dict[str, list[_Place]] = defaultdict(list)
        heads: dict[str, tuple[_Candidates, WaitingCase]] = {}
        turns: list[tuple[int, float, str]] = []
        unreachable = set()
        for one in self._candidates:
            queues[one.group.session].append(self._place(one))
            if not self._adapters.satisfiable(one.bits):
                self._no_adapter.add(one.group)
            if not self._reachable(one):
                unreachable.add(one.group)
        for session, queue in queues.items():
            heapq.heapify(queue)
            oldest = min(case.since for place in queue for case in place[-1].cases)
            turns.append((self._running[session], oldest, session))
            if self._has_aged(oldest) and (head := self._head(queue)) is not None:
                heads[session] = head
        heapq.heapify(turns)
        while turns:
            _, oldest, session = heapq.heappop(turns)
            queue = queues[session]
            if session not in heads or not self._start_or_reserve(*heads.pop(session)):
                self._start_next(queue)
            if queue:
                heapq.heappush(turns, (self._running[session], oldest, session))
        return Decision(
            tuple(self._starts),
            self._reasons,
            frozenset(self._no_adapter | unreachable),
            frozenset(self._no_adapter),
        )

    def _place(self, one: _Candidates) -> _Place:
        case = one.cases[-1]
        return (self._adapters.scarcity(one.bits), -len(one.bits), case.order, case.case.id, one)

    def _has_aged(self, since: float) -> bool:
        return self._now - since >= self._limits.aging

    def _head(self, queue: Iterable[_Place]) -> tuple[_Candidates, WaitingCase] | None:
        """Return the oldest case, of those that have aged and can be satisfied."""
        aged = (
            (one, case)
            for *_, one in queue
            if self._lacks_little(one)
            for case in one.cases
            if self._has_aged(case.since)
        )
        return min(aged, key=lambda found: (found[1].since, found[1].order), default=None)

    def _lacks_little(self, one: _Candidates) -> bool:
        """Return whether what a group lacks is expected to come back soon."""
        since = one.group.unsatisfiable_since
        recent = since is None or self._now - since < _RETURN
        return recent and self._adapters.any_registered(one.bits) and self._reachable(one)

    def _reachable(self, one: _Candidates) -> bool:
        return self._limits.unreachable.isdisjoint(one.types)

    def _start_or_reserve(self, one: _Candidates, case: WaitingCase) -> bool:
        """Start the oldest case of a session, or reserve what it needs; return whether it started."""
        reason = self._over_limit(one)
        if reason is None:
            if self._start(one, case):
                return True
            reason = self._adapters.shortage(one.bits)
        self._wait(one, reason)
        self._adapters.reserve(one.bits)
        servers, types = self._needs(one)
        self._reserved_homeservers += servers
        self._reserved_types.update(types)
        return False

    def _needs(self, one: _Candidates) -> tuple[int, Mapping[str, int]]:
        """Return how many homeservers the next case of a group needs, and how many of everything."""
        if one.shares and one.group.server_types in self._shared:
            return 0, one.others
        return len(one.group.server_types), one.types

    def _start_next(self, queue: list[_Place]) -> None:
        """Start the next case of a session that can start, and note why those before it wait."""
        while queue:
            one = heapq.heappop(queue)[-1]
            if not one.cases:
                continue
            reason = self._over_limit(one)
            if reason is None:
                if self._start(one, one.cases[-1]):
                    if one.cases:
                        heapq.heappush(queue, self._place(one))
                    return
                reason = self._adapters.shortage(one.bits)
            self._wait(one, reason)

    def _wait(self, one: _Candidates, reason: str) -> None:
        """Note why a group waits: no case of it can start any more."""
        self._reasons[one.group] = reason
        one.cases.clear()

    def _start(self, one: _Candidates, case: WaitingCase) -> bool:
        needs = self._limits.roles(case.case)
        bits = {role: self._adapters.bit(kind) for role, kind in needs.items()}
        adapters = self._adapters.take(bits)
        if adapters is None:
            return False
        del one.cases[-1 if case is one.cases[-1] else one.cases.index(case)]
        self._starts.append(Start(one.group, case.case.id, adapters))
        self._running[one.group.session] += 1
        servers, types = self._needs(one)
        self._homeservers += servers
        self._types.update(types)
        if one.shares:
            self._shared.add(one.group.server_types)
        return True

    def _over_limit(self, one: _Candidates) -> str | None:
        running, limits = self._running.total(), self._limits
        # What it cannot have at all is why it waits, also while a limit is reached.
        if one.group in self._no_adapter:
            return None
        if not self._reachable(one):
            none = next(name for name in one.types if name in limits.unreachable)
            return f"waiting for {none} (none is reachable)"
        if limits.started is not None and running >= limits.started:
            running -= limits.ahead
            return f"waiting for other cases to end ({running} of {limits.cases} are running)"
        servers, types = self._needs(one)
        taken = self._homeservers + self._reserved_homeservers
        most = max(limits.homeservers or 0, servers)  # a case that needs more than the limit runs alone
        if limits.homeservers is not None and servers and taken + servers > most:
            use = _in_use(self._homeservers, limits.homeservers, self._reserved_homeservers)
            slots = "a homeserver slot" if servers == 1 else f"{servers} homeserver slots"
            return f"waiting for {slots} ({use})"
        for name, needed in types.items():
            limit, taken = limits.types.get(name), self._types[name] + self._reserved_types[name]
            if limit is not None and taken + needed > max(limit, needed):
                return f"waiting for {name} ({_in_use(self._types[name], limit, self._reserved_types[name])})"
        return None


def _in_use(used: int, limit: int, reserved: int) -> str:
    return f"{used} of {limit} in use{f', {reserved} reserved for an older case' if reserved else ''}"
