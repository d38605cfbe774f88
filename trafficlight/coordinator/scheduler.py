"""Which waiting cases start now, with which adapters, and why the others wait. A pure function of its inputs.

No clock, no I/O, and no dependence on the order in which things are handed in.
"""

import heapq
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from trafficlight.client_types import ClientType
from trafficlight.coordinator.matching import assign

__all__ = ["Decision", "Free", "Limits", "Start", "Usage", "Waiting", "decide"]

logger = logging.getLogger(__name__)

# What an adapter can fill: one bit for each client type that somebody waits for.
Mask: TypeAlias = int
TypeKey: TypeAlias = tuple[type, str]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A case that waits.

    :param key: names it uniquely among all that wait, in all sessions.
    :param session: the session that it belongs to.
    :param order: its place in its session.
    :param clients: the client type of every client role.
    :param servers: how many homeservers it needs.
    :param age: seconds that it has been waiting.
    """

    key: str
    session: str
    order: int
    clients: Mapping[str, ClientType]
    servers: int = 0
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Free:
    """An adapter, as far as matching goes.

    :param key: its uuid.
    :param registration: what it said of itself.
    :param rank: the lower, the sooner it is taken.
    """

    key: str
    registration: Mapping[str, Any]
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once. None: no limit.

    :param cases: cases at once.
    :param homeservers: homeservers at once.
    :param aging: seconds of waiting after which a case is served before all younger ones, and has what it
        needs kept back for it, so that smaller cases cannot starve it.
    """

    cases: int | None = None
    homeservers: int | None = None
    clients: Mapping[str, int] = field(default_factory=dict)
    aging: float = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in use already."""

    cases: Mapping[str, int] = field(default_factory=dict)
    homeservers: int = 0
    clients: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """A case that starts now, with an adapter for every client role."""

    key: str
    adapters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """What starts, why the rest waits, and which of it has nobody at all for some role."""

    starts: tuple[Start, ...]
    reasons: Mapping[str, str]
    unfilled: frozenset[str]


def decide(
    waiting: Iterable[Waiting],
    free: Iterable[Free],
    busy: Iterable[Free] = (),
    limits: Limits | None = None,
    usage: Usage | None = None,
) -> Decision:
    """Decide what starts now.

    Among sessions the one with the fewest running cases comes first; within a session those that have waited
    longer than the aging time, then those that need the scarcest adapters, then the order of the plan.
    """
    table = _Table(
        sorted(waiting, key=lambda case: case.key), free, busy, limits or Limits(), usage or Usage()
    )
    for case in table.in_turn():
        table.consider(case)
    return Decision(tuple(table.starts), table.reasons, frozenset(table.unfilled))


class _Table:
    """The state of one decision."""

    def __init__(
        self,
        waiting: Sequence[Waiting],
        free: Iterable[Free],
        busy: Iterable[Free],
        limits: Limits,
        usage: Usage,
    ) -> None:
        self.limits = limits
        self.starts: list[Start] = []
        self.reasons: dict[str, str] = {}
        self.unfilled: set[str] = set()
        self._waiting = waiting
        self._cases = Counter(usage.cases)
        self._homeservers = usage.homeservers
        self._clients = Counter(usage.clients)
        self._types: dict[TypeKey, ClientType] = {}
        for case in waiting:
            for kind in case.clients.values():
                self._types.setdefault(_key(kind), kind)
        self._adapters: dict[Mask, list[str]] = defaultdict(list)
        for adapter in sorted(free, key=lambda adapter: (adapter.rank, adapter.key)):
            self._adapters[self._mask(adapter)].append(adapter.key)
        self._available = {mask: len(keys) for mask, keys in self._adapters.items()}
        self._taken: Counter[Mask] = Counter()
        self._busy = Counter(self._mask(adapter) for adapter in busy)
        self._free_at_first = dict(self._available)
        bits = {key: 1 << index for index, key in enumerate(self._types)}
        # Adapters that can do least are taken first, so that the versatile ones stay for others.
        masks = sorted(self._available, key=lambda mask: (mask.bit_count(), mask))
        self._fillers = {key: [mask for mask in masks if mask & bit] for key, bit in bits.items()}
        self._bits = bits
        self._hopeless: dict[tuple[Mask, ...], str] = {}

    def _mask(self, adapter: Free) -> Mask:
        return sum(1 << index for index, kind in enumerate(self._types.values()) if _matches(kind, adapter))

    def in_turn(self) -> Iterable[Waiting]:
        """Give the waiting cases in the order in which they are served."""
        queues: dict[str, list[Waiting]] = defaultdict(list)
        for case in sorted(self._waiting, key=self._priority, reverse=True):
            queues[case.session].append(case)
        heap = [(self._cases[session], session) for session in queues]
        heapq.heapify(heap)
        while heap:
            _, session = heapq.heappop(heap)
            before = len(self.starts)
            while queues[session] and len(self.starts) == before:
                yield queues[session].pop()
            if queues[session]:
                heapq.heappush(heap, (self._cases[session], session))

    def _priority(self, case: Waiting) -> tuple[Any, ...]:
        aged = case.age >= self.limits.aging
        scarcity = min(
            (self._count(self._free_at_first, kind) for kind in case.clients.values()), default=1 << 30
        )
        return (not aged, -case.age if aged else 0.0, scarcity, -len(case.clients), case.order, case.key)

    def _count(self, counted: Mapping[Mask, int], kind: ClientType) -> int:
        bit = self._bits[_key(kind)]
        return sum(count for mask, count in counted.items() if mask & bit)

    def consider(self, case: Waiting) -> None:
        """Start a case, or note why it waits."""
        signature = tuple(sorted(self._bits[_key(kind)] for kind in case.clients.values()))
        reason = self._over_limit(case)
        if reason is None:
            reason = self._hopeless.get(signature)
        if reason is None:
            candidates = {role: self._fillers[_key(kind)] for role, kind in case.clients.items()}
            chosen = assign(candidates, self._available)
            if chosen is not None:
                self._start(case, chosen)
                return
            reason = self._hopeless[signature] = self._shortage(case)
            if case.age >= self.limits.aging:
                self._keep_back(case)
        if case.clients and any(not self._registered(kind) for kind in case.clients.values()):
            self.unfilled.add(case.key)
        self.reasons[case.key] = reason

    def _start(self, case: Waiting, chosen: Mapping[str, Mask]) -> None:
        adapters = {}
        for role in sorted(chosen):
            mask = chosen[role]
            adapters[role] = self._adapters[mask][self._taken[mask]]
            self._taken[mask] += 1
            self._available[mask] -= 1
        self.starts.append(Start(case.key, {role: adapters[role] for role in case.clients}))
        self._cases[case.session] += 1
        self._homeservers += case.servers
        self._clients.update(kind.name() for kind in case.clients.values())

    def _keep_back(self, case: Waiting) -> None:
        """Keep what is there for a case that has waited too long, as far as it can be filled."""
        kinds = list(case.clients.values())
        if not all(self._registered(kind) for kind in kinds):
            return
        for kind in kinds:
            mask = next((mask for mask in self._fillers[_key(kind)] if self._available[mask] > 0), None)
            if mask is not None:
                self._available[mask] -= 1

    def _registered(self, kind: ClientType) -> int:
        return self._count(self._free_at_first, kind) + self._count(self._busy, kind)

    def _over_limit(self, case: Waiting) -> str | None:
        running, limits = sum(self._cases.values()), self.limits
        if limits.cases is not None and running >= limits.cases:
            return f"waits for a place ({running} of {limits.cases} cases are running)"
        wanted = self._homeservers + case.servers
        if limits.homeservers is not None and case.servers and wanted > max(limits.homeservers, case.servers):
            return f"waits for {_slots(case.servers)} ({self._homeservers} of {limits.homeservers} in use)"
        for name, needed in Counter(kind.name() for kind in case.clients.values()).items():
            limit = limits.clients.get(name)
            if limit is not None and self._clients[name] + needed > max(limit, needed):
                return f"waits for {name} ({self._clients[name]} of {limit} in use)"
        return None

    def _shortage(self, case: Waiting) -> str:
        parts = []
        for kind, needed in Counter(map(_key, case.clients.values())).items():
            there = self._count(self._available, self._types[kind])
            registered = self._registered(self._types[kind])
            if there < needed:
                parts.append(f"needs {needed} x {kind[1]}, {there} free, {registered} registered")
        return "; ".join(parts) or "needs adapters that other roles of the same case need too"


def _slots(servers: int) -> str:
    return "a homeserver slot" if servers == 1 else f"{servers} homeserver slots"


def _matches(kind: ClientType, adapter: Free) -> bool:
    """Return whether an adapter can fill a role; a test author's type that raises says no."""
    try:
        return bool(kind.match(adapter))
    except Exception:
        logger.warning("the client type %s cannot judge %s", kind.name(), adapter.registration, exc_info=True)
        return False


def _key(kind: ClientType) -> TypeKey:
    return (type(kind), kind.name())
