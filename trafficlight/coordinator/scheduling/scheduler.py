"""Which waiting cases start now, with which adapters, and why the others wait. A pure function of its inputs.

No clock, no I/O, and no dependence on the order in which things are handed in.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeAlias

from trafficlight.client_types import ClientMatcher
from trafficlight.coordinator.scheduling.capacity import HostCapacity, in_use
from trafficlight.coordinator.scheduling.inventory import AdapterInventory, Free, Mask
from trafficlight.homeservers.provider import Hosting

# Seconds that a case can be short of adapters with something still kept back for it: those that left after
# a case come back within that time.
_RETURN = 30.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A case that waits.

    :param key: names it uniquely among all that wait, in all sessions.
    :param session: the session that it belongs to.
    :param order: its place in its session.
    :param clients: the client type of every client role.
    :param servers: how many homeservers it needs.
    :param age: seconds that it has been waiting.
    :param unfilled: seconds for which all that there is, free and busy, could not fill its roles.
    :param server_types: the name of the server type of each of its homeservers.
    """

    key: str
    session: str
    order: int
    clients: Mapping[str, ClientMatcher]
    servers: int = 0
    age: float = 0.0
    unsatisfiable_since: float = 0.0
    server_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once. None: no limit.

    :param cases: cases at once.
    :param homeservers: homeservers at once.
    :param types: clients, or homeservers, at once, by the name of their type.
    :param hosting: what carries homeservers, each host so many at once.
    :param aging: seconds of waiting after which the oldest case of a session is served before the others, and
        has what it needs kept back for it, so that smaller cases cannot starve it.
    """

    cases: int | None = None
    homeservers: int | None = None
    types: Mapping[str, int] = field(default_factory=dict)
    hosting: Hosting = field(default_factory=Hosting)
    aging: float = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in use already.

    :param cases: how many cases run, by session.
    :param homeservers: how many homeservers run for them.
    :param types: how many clients, and homeservers, by the name of their type.
    :param hosts: how many homeservers, by the name of the host that carries them.
    """

    cases: Mapping[str, int] = field(default_factory=dict)
    homeservers: int = 0
    types: Mapping[str, int] = field(default_factory=dict)
    hosts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """A case that starts now.

    :param adapters: an adapter for every client role.
    :param hosts: where its homeservers have room, by server type; those whose provider sets no limit are not
        in it.
    """

    key: str
    adapters: Mapping[str, str]
    hosts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What starts, why the rest waits, and what is missing altogether.

    :param unfilled: the cases that all that there is, free and busy, could not fill.
    :param unplayable: those of them that lack adapters, and not only a host for their homeservers.
    """

    starts: tuple[Start, ...]
    reasons: Mapping[str, str]
    unsatisfiable_since: frozenset[str]
    no_adapter_since: frozenset[str]


def decide(
    waiting: Iterable[Waiting],
    free: Iterable[Free],
    busy: Iterable[Free] = (),
    limits: Limits | None = None,
    usage: Usage | None = None,
) -> Decision:
    """Decide what starts now.

    Among sessions the one with the fewest running cases comes first. Within a session the case that has
    waited longest comes first once it has aged; then those that need the scarcest adapters, the bigger ones
    of these, and the order of the plan.
    """
    return _Table(waiting, free, busy, limits or Limits(), usage or Usage()).decision()


@dataclass(slots=True, eq=False)
class _Group:
    """The cases of one session that need the same, the next one last."""

    session: str
    bits: tuple[Mask, ...]
    names: Mapping[str, int]
    servers: int
    server_types: tuple[str, ...]
    hosted: Mapping[str, int]
    cases: list[Waiting] = field(default_factory=list)


# Scarcity, size, order and key, for the order in which groups are served, and the group.
_Place: TypeAlias = tuple[int, int, int, str, _Group]


class _Table:
    """The state of one decision.

    Cases that need the same are looked at together: what one of them cannot have, none of them can.
    """

    def __init__(
        self,
        waiting: Iterable[Waiting],
        free: Iterable[Free],
        busy: Iterable[Free],
        limits: Limits,
        usage: Usage,
    ) -> None:
        self._limits = limits
        self._starts: list[Start] = []
        self._reasons: dict[str, str] = {}
        self._running = Counter(usage.cases)
        self._homeservers = usage.homeservers
        self._types = Counter(usage.types)
        self._hosts = HostCapacity(limits.hosting, usage.hosts)
        # What is kept back for cases that have aged, beside adapters.
        self._kept_homeservers = 0
        self._kept_types: Counter[str] = Counter()
        alike: dict[tuple[object, ...], list[Waiting]] = defaultdict(list)
        for case in waiting:
            alike[(case.session, case.servers, case.server_types, *map(id, case.clients.values()))].append(
                case
            )
        firsts = [cases[0] for cases in alike.values()]
        kinds = {id(kind): kind for case in firsts for kind in case.clients.values()}
        self._supply = AdapterInventory(kinds.values(), free, busy)
        self._bits = {key: self._supply.bit(kind) for key, kind in kinds.items()}
        self._groups = self._grouped(alike.values())
        self._fillable = {
            bits: self._supply.satisfiable(bits) for bits in {group.bits for group in self._groups}
        }

    def _grouped(self, alike: Iterable[list[Waiting]]) -> list[_Group]:
        groups: dict[tuple[object, ...], _Group] = {}
        for cases in alike:
            first = cases[0]
            kinds = first.clients.values()
            bits = tuple(sorted(self._bits[id(kind)] for kind in kinds))
            key = (first.session, first.servers, first.server_types, bits)
            if key not in groups:
                names = Counter([*(kind.name() for kind in kinds), *first.server_types])
                hosted = self._hosts.needs(first.server_types)
                groups[key] = _Group(first.session, bits, names, first.servers, first.server_types, hosted)
            groups[key].cases += cases
        for group in groups.values():
            group.cases.sort(key=attrgetter("order", "key"), reverse=True)
        return list(groups.values())

    def decision(self) -> Decision:
        """Go through all groups, in turn, and return what came of it."""
        queues: dict[str, list[_Place]] = defaultdict(list)
        heads: dict[str, tuple[_Group, Waiting]] = {}
        turns: list[tuple[int, float, str]] = []
        no_adapter_since = _keys(group for group in self._groups if not self._fillable[group.bits])
        homeless = _keys(group for group in self._groups if not self._hosts.answer(group.hosted))
        for group in self._groups:
            queues[group.session].append(self._place(group))
        for session, queue in queues.items():
            heapq.heapify(queue)
            oldest = max(case.age for place in queue for case in place[-1].cases)
            turns.append((self._running[session], -oldest, session))
            if oldest >= self._limits.aging and (head := self._head(queue)) is not None:
                heads[session] = head
        heapq.heapify(turns)
        while turns:
            _, age, session = heapq.heappop(turns)
            queue = queues[session]
            if session not in heads or not self._first(*heads.pop(session)):
                self._next(queue)
            if queue:
                heapq.heappush(turns, (self._running[session], age, session))
        return Decision(tuple(self._starts), self._reasons, no_adapter_since | homeless, no_adapter_since)

    def _place(self, group: _Group) -> _Place:
        case = group.cases[-1]
        return (self._supply.scarcity(group.bits), -len(group.bits), case.order, case.key, group)

    def _head(self, queue: Iterable[_Place]) -> tuple[_Group, Waiting] | None:
        """Return the case that has waited longest, of those that have aged and can be filled at all."""
        aged = (
            (group, case)
            for *_, group in queue
            if self._supply.known(group.bits) and self._hosts.answer(group.hosted)
            for case in group.cases
            if case.age >= self._limits.aging and case.unsatisfiable_since < _RETURN
        )
        return min(aged, key=lambda one: (-one[1].age, one[1].order, one[1].key), default=None)

    def _first(self, group: _Group, case: Waiting) -> bool:
        """Start the oldest case of a session, or keep back what is there for it; say whether it started."""
        reason = self._over_limit(group)
        if reason is None:
            if self._start(group, case):
                return True
            reason = self._supply.shortage(group.bits)
        self._wait(group, reason)
        self._supply.reserve(group.bits)
        self._kept_homeservers += group.servers
        self._kept_types.update(group.names)
        self._hosts.reserve(group.hosted)
        return False

    def _next(self, queue: list[_Place]) -> None:
        """Start the next case of a session that can start; note why those before it wait."""
        while queue:
            group = heapq.heappop(queue)[-1]
            if not group.cases:
                continue
            reason = self._over_limit(group)
            if reason is None:
                if self._start(group, group.cases[-1]):
                    if group.cases:
                        heapq.heappush(queue, self._place(group))
                    return
                reason = self._supply.shortage(group.bits)
            self._wait(group, reason)

    def _wait(self, group: _Group, reason: str) -> None:
        """Note why a group waits: none of its cases can start in this decision."""
        self._reasons.update(dict.fromkeys(map(attrgetter("key"), group.cases), reason))
        group.cases.clear()

    def _start(self, group: _Group, case: Waiting) -> bool:
        adapters = self._supply.take({role: self._bits[id(kind)] for role, kind in case.clients.items()})
        if adapters is None:
            return False
        del group.cases[-1 if case is group.cases[-1] else group.cases.index(case)]
        hosts = self._hosts.take(group.hosted, group.server_types)
        self._starts.append(Start(case.key, adapters, hosts))
        self._running[case.session] += 1
        self._homeservers += group.servers
        self._types.update(group.names)
        return True

    def _over_limit(self, group: _Group) -> str | None:
        running, limits = self._running.total(), self._limits
        if limits.cases is not None and running >= limits.cases:
            return f"waits for a place ({running} of {limits.cases} cases are running)"
        taken = self._homeservers + self._kept_homeservers
        most = max(limits.homeservers or 0, group.servers)  # one that needs more than there may be runs alone
        if limits.homeservers is not None and group.servers and taken + group.servers > most:
            use = in_use(self._homeservers, limits.homeservers, self._kept_homeservers)
            return f"waits for {_slots(group.servers)} ({use})"
        for name, needed in group.names.items():
            limit, taken = limits.types.get(name), self._types[name] + self._kept_types[name]
            if limit is not None and taken + needed > max(limit, needed):
                return f"waits for {name} ({in_use(self._types[name], limit, self._kept_types[name])})"
        return self._hosts.shortage(group.hosted)


def _keys(groups: Iterable[_Group]) -> frozenset[str]:
    return frozenset(case.key for group in groups for case in group.cases)


def _slots(servers: int) -> str:
    return "a homeserver slot" if servers == 1 else f"{servers} homeserver slots"
