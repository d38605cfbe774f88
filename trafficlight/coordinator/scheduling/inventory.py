"""The adapters of one decision, grouped by the client types that they match."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from trafficlight.client_types import ClientTypeSpec, did_you_mean
from trafficlight.errors import LabError
from trafficlight.parameters import AnyNode, NodeRequest
from trafficlight.suites.model import Case

R = TypeVar("R", bound=Hashable)
A = TypeVar("A", bound=Hashable)


def match(candidates: Mapping[R, Sequence[A]], available: Mapping[A, int]) -> dict[R, A] | None:
    """Assign a candidate to every role; return None if that is impossible.

    Finds an assignment whenever one exists, however the candidates overlap. Candidates are tried in order.

    :param candidates: what can fill each role, best first.
    :param available: how many there are of each candidate.
    """
    found = maximum_match(candidates, available)
    return found if len(found) == len(candidates) else None


def maximum_match(candidates: Mapping[R, Sequence[A]], available: Mapping[A, int]) -> dict[R, A]:
    """Assign a candidate to as many roles as possible.

    Kuhn's augmenting paths: a role whose candidates are all taken makes another role move to its next one.

    :param candidates: what can fill each role, best first.
    :param available: how many there are of each candidate.
    """
    holders: dict[A, list[R]] = {}

    def place(role: R, tried: set[A]) -> bool:
        for candidate in candidates[role]:
            if candidate in tried:
                continue
            tried.add(candidate)
            held = holders.setdefault(candidate, [])
            if len(held) < available.get(candidate, 0):
                held.append(role)
                return True
            for index, other in enumerate(held):
                if place(other, tried):
                    # `other` has moved to another candidate, so its place is free.
                    held[index] = role
                    return True
        return False

    # Most constrained roles first.
    for role in sorted(candidates, key=lambda role: len(candidates[role])):
        place(role, set())
    return {role: candidate for candidate, held in holders.items() for role in held}


# The client types that an adapter matches: one bit for each type that a case waits for.
TypeMask: TypeAlias = int
# Reasons that one message names.
_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class NodeType:
    """A kind of node of a cluster; among what a case needs, as client types are.

    :param request: for one node.
    """

    request: NodeRequest
    custom: None = None
    type: str = ""

    @property
    def type_name(self) -> str:
        """What messages call it."""
        return self.request.kind

    def match(self, adapter: "AvailableAdapter") -> bool:
        """Return whether a node is of this kind."""
        return adapter.node is not None and self.request.fits(adapter.node)


Needed: TypeAlias = ClientTypeSpec | NodeType


def needs_of(case: Case, *, nodes: bool) -> dict[str, Needed]:
    """Return what a case leases: a client of a type for each role, and its nodes.

    :param nodes: whether nodes count: not where the cluster makes as many as are asked for.
    """
    needs: dict[str, Needed] = dict(case.clients)
    if nodes and case.nodes is not None:
        kind = NodeType(replace(case.nodes, num_nodes=1))
        # No role of a client can be called that.
        needs.update({f"node {number}": kind for number in range(1, case.nodes.num_nodes + 1)})
    return needs


class MatchError(LabError):
    """It is not known what a client type matches; the message says why."""


@dataclass(frozen=True, slots=True)
class AvailableAdapter:
    """An adapter, as far as matching is concerned.

    :param key: its UUID.
    :param rank: adapters of a lower rank are taken first.
    :param alike: the same text for equal registrations, and for no others; empty if it is not known.
    :param node: the node of a cluster that it is; None for an adapter.
    """

    key: str
    registration: Mapping[str, Any]
    rank: int = 0
    alike: str = ""
    node: AnyNode | None = None


@dataclass(frozen=True, slots=True)
class MissingAdapter:
    """An adapter that is not there, and why.

    :param registration: what it last registered as; None if that is not known, so that it may be any type.
    :param node: the node of a cluster that it is; None for an adapter.
    """

    registration: Mapping[str, Any] | None
    why: str
    node: AnyNode | None = None


class AdapterInventory:
    """The adapters of one decision: free, taken by it, and reserved.

    :param busy: the adapters that will be free later.
    :param missing: adapters that are not there, for messages.
    :param known: types that adapters have registered as, or may, for messages.
    """

    def __init__(
        self,
        kinds: Iterable[Needed],
        free: Iterable[AvailableAdapter],
        busy: Iterable[AvailableAdapter],
        missing: Iterable[MissingAdapter] = (),
        known: tuple[str, ...] = (),
    ) -> None:
        self._known = known
        self._missing = tuple(missing)
        ordered = sorted(set(kinds), key=lambda kind: (kind.type_name, repr(kind)))
        self._kinds = {1 << index: kind for index, kind in enumerate(ordered)}
        self._bits = {kind: bit for bit, kind in self._kinds.items()}
        self._masks: dict[str, TypeMask] = {}
        self._problems: dict[TypeMask, str] = {}
        adapters: dict[TypeMask, list[str]] = defaultdict(list)
        for adapter in sorted(free, key=lambda adapter: (adapter.rank, adapter.key), reverse=True):
            adapters[self._mask(adapter)].append(adapter.key)
        self._adapters = adapters
        self._available = {mask: len(keys) for mask, keys in adapters.items()}
        self._reserved: Counter[TypeMask] = Counter()
        self._registered = Counter(self._available) + Counter(self._mask(adapter) for adapter in busy)
        # Prefer the least capable adapter.
        masks = sorted(self._registered, key=lambda mask: (mask.bit_count(), mask))
        self._fillers = {bit: [mask for mask in masks if mask & bit] for bit in self._kinds}
        self._scarcity = {bit: _count(self._available, bit) for bit in self._kinds}

    def bit(self, kind: Needed) -> TypeMask:
        """Return the bit of a client type."""
        return self._bits[kind]

    def _mask(self, adapter: AvailableAdapter) -> TypeMask:
        # Programs of one kind register alike: evaluating match() once for all of them is much faster.
        registration = adapter.alike or repr(adapter.node or adapter.registration)
        mask = self._masks.get(registration)
        if mask is None:
            mask = sum(bit for bit in self._kinds if self._matches(bit, adapter))
            self._masks[registration] = mask
        return mask

    def _matches(self, bit: TypeMask, adapter: AvailableAdapter) -> bool:
        try:
            kind = self._kinds[bit]
            if (adapter.node is None) is isinstance(kind, NodeType):
                return False
            return bool(kind.match(adapter))
        except MatchError as error:
            self._problems[bit] = str(error)
            return False
        except Exception as error:  # noqa: BLE001 - code of a test file
            # Code of a test file must not keep the cases of others from starting.
            self._problems[bit] = f"its match() raised {type(error).__name__}: {error}"
            return False

    def scarcity(self, bits: Sequence[TypeMask]) -> int:
        """Return how many adapters are free at first for the scarcest of these types."""
        return min((self._scarcity[bit] for bit in bits), default=1 << 30)

    def satisfiable(self, bits: Sequence[TypeMask]) -> bool:
        """Return whether all adapters together, free and busy, could fill these roles."""
        fillers = {role: self._fillers[bit] for role, bit in enumerate(bits)}
        return match(fillers, self._registered) is not None

    def any_registered(self, bits: Sequence[TypeMask]) -> bool:
        """Return whether there is an adapter, free or busy, for each of these roles."""
        return all(self._fillers[bit] for bit in bits)

    def take(self, roles: Mapping[str, TypeMask]) -> dict[str, str] | None:
        """Take a free adapter for every role, all or none."""
        chosen = match({role: self._fillers[bit] for role, bit in roles.items()}, self._available)
        if chosen is None:
            return None
        taken = {}
        for role in roles:
            self._available[chosen[role]] -= 1
            taken[role] = self._adapters[chosen[role]].pop()
        return taken

    def reserve(self, bits: Sequence[TypeMask]) -> None:
        """Reserve the free adapters that these roles need."""
        wanted = {role: self._fillers[bit] for role, bit in enumerate(bits)}
        for mask in maximum_match(wanted, self._available).values():
            self._available[mask] -= 1
            self._reserved[mask] += 1

    def shortage(self, bits: Iterable[TypeMask]) -> str:
        """Return what these roles lack."""
        wanted = Counter(bits)
        short = [bit for bit, needed in wanted.items() if _count(self._available, bit) < needed]
        parts = []
        for bit in short:
            needed, free = wanted[bit], _count(self._available, bit)
            reserved, kind = _count(self._reserved, bit), self._kinds[bit]
            if isinstance(kind, NodeType):
                of = f"{free} free of {_count(self._registered, bit)}"
                held = f", {reserved} reserved for an older case" if reserved else ""
                parts.append(f"needs {replace(kind.request, num_nodes=needed)} ({of}{held})")
                continue
            text = f"needs {needed} x {kind.type_name} ({free} free"
            if reserved:
                text += f", {reserved} reserved for an older case"
            registered = _count(self._registered, bit)
            text += f", {registered} registered"
            if not registered and kind.custom is None:
                text += did_you_mean(kind.type, self._known)
            if bit in self._problems:
                text += f"; {self._problems[bit]}"
            parts.append(text + ")")
        parts = parts or ["needs an adapter for two of its roles"]
        return "; ".join([*parts, *self._why_missing(short or wanted)])

    def _why_missing(self, bits: Iterable[TypeMask]) -> list[str]:
        """Return why adapters for these roles are not there, the last few reasons."""
        bits = tuple(bits)
        reasons = []
        for one in self._missing:
            adapter = AvailableAdapter("", one.registration or {}, node=one.node)
            unknown = one.registration is None and one.node is None
            if unknown or any(self._matches(bit, adapter) for bit in bits):
                reasons.append(one.why)
        return list(dict.fromkeys(reasons))[-_MOST_REASONS:]


def _count(counted: Mapping[TypeMask, int], bit: TypeMask) -> int:
    return sum(count for mask, count in counted.items() if mask & bit)
