"""The adapters that there are, grouped by what they can fill: all that planning knows of them."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from trafficlight.client_types import ClientMatcher, ClientTypeSpec
from trafficlight.coordinator.scheduling.bipartite import assign, assign_most
from trafficlight.errors import LabError

# What an adapter can fill: one bit for each client type that somebody waits for.
Mask: TypeAlias = int
TypeKey: TypeAlias = tuple[type, str, Hashable]


class MatchError(LabError):
    """What a client type matches is not known: the message says why, or that it is not known yet."""


def type_key(kind: ClientMatcher) -> TypeKey:
    """Return what makes two client types the same."""
    return (type(kind), kind.name(), kind if isinstance(kind, ClientTypeSpec) else None)


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


class AdapterInventory:
    """The adapters of one decision: which are free, which are taken meanwhile, and what is kept back.

    :param kinds: the client types that somebody waits for.
    :param free: the adapters that can be had.
    :param busy: those that will be free some day.
    """

    def __init__(self, kinds: Iterable[ClientMatcher], free: Iterable[Free], busy: Iterable[Free]) -> None:
        known = {type_key(kind): kind for kind in kinds}
        ordered = sorted(known, key=_place)
        self._kinds = {1 << index: known[key] for index, key in enumerate(ordered)}
        self._bits = {key: 1 << index for index, key in enumerate(ordered)}
        self._masks: dict[str, Mask] = {}
        self._problems: dict[Mask, str] = {}
        adapters: dict[Mask, list[str]] = defaultdict(list)
        for adapter in sorted(free, key=lambda adapter: (adapter.rank, adapter.key), reverse=True):
            adapters[self._mask(adapter)].append(adapter.key)
        self._adapters = adapters
        self._available = {mask: len(keys) for mask, keys in adapters.items()}
        self._kept: Counter[Mask] = Counter()
        self._registered = Counter(self._available) + Counter(self._mask(adapter) for adapter in busy)
        self._first = dict(self._available)
        # Adapters that can do least are taken first, so that the versatile ones stay for others.
        masks = sorted(self._registered, key=lambda mask: (mask.bit_count(), mask))
        self._fillers = {bit: [mask for mask in masks if mask & bit] for bit in self._kinds}
        self._scarcity = {bit: _count(self._first, bit) for bit in self._kinds}

    def bit(self, kind: ClientMatcher) -> Mask:
        """Return the bit that stands for a client type."""
        return self._bits[type_key(kind)]

    def _mask(self, adapter: Free) -> Mask:
        # Adapters of one kind say the same of themselves: asking once for all of them is much faster.
        said = repr(adapter.registration)
        mask = self._masks.get(said)
        if mask is None:
            mask = self._masks[said] = sum(bit for bit in self._kinds if self._matches(bit, adapter))
        return mask

    def _matches(self, bit: Mask, adapter: Free) -> bool:
        try:
            return bool(self._kinds[bit].match(adapter))
        except MatchError as error:
            self._problems[bit] = str(error)
            return False
        except Exception as error:
            # It is the test author's code, and must not keep everybody else's cases from starting.
            self._problems[bit] = f"its match() raised {type(error).__name__}: {error}"
            return False

    def scarcity(self, bits: Sequence[Mask]) -> int:
        """Return how many adapters were free at first for the type that has the fewest."""
        return min((self._scarcity[bit] for bit in bits), default=1 << 30)

    def satisfiable(self, bits: Sequence[Mask]) -> bool:
        """Return whether all adapters together, free and busy ones, could fill these roles."""
        return (
            assign({place: self._fillers[bit] for place, bit in enumerate(bits)}, self._registered)
            is not None
        )

    def known(self, bits: Sequence[Mask]) -> bool:
        """Return whether there is any adapter at all, free or busy, for each of these roles."""
        return all(self._fillers[bit] for bit in bits)

    def take(self, roles: Mapping[str, Mask]) -> dict[str, str] | None:
        """Take an adapter for every role, all or none."""
        chosen = assign({role: self._fillers[bit] for role, bit in roles.items()}, self._available)
        if chosen is None:
            return None
        taken = {}
        for role in roles:
            self._available[chosen[role]] -= 1
            taken[role] = self._adapters[chosen[role]].pop()
        return taken

    def reserve(self, bits: Sequence[Mask]) -> None:
        """Let nobody else take what is there of what these roles need."""
        wanted = {place: self._fillers[bit] for place, bit in enumerate(bits)}
        for mask in assign_most(wanted, self._available).values():
            self._available[mask] -= 1
            self._kept[mask] += 1

    def shortage(self, bits: Iterable[Mask]) -> str:
        """Say what is missing for these roles."""
        parts = []
        for bit, needed in Counter(bits).items():
            there, kept = _count(self._available, bit), _count(self._kept, bit)
            if there >= needed:
                continue
            text = f"needs {needed} x {self._kinds[bit].name()}, {there} free"
            if kept:
                text += f" and {kept} kept for a case that has waited longer"
            text += f", {_count(self._registered, bit)} registered"
            if bit in self._problems:
                text += f" ({self._problems[bit]})"
            parts.append(text)
        return "; ".join(parts) or "needs adapters that other roles of the same case need too"


def _place(key: TypeKey) -> tuple[str, str, str, str]:
    cls, name, identity = key
    return (cls.__module__, cls.__qualname__, name, repr(identity))


def _count(counted: Mapping[Mask, int], bit: Mask) -> int:
    return sum(count for mask, count in counted.items() if mask & bit)
