"""The capacity of the hosts that homeservers run on, as the scheduler sees it."""

from collections import Counter
from collections.abc import Iterable, Mapping

from trafficlight.homeservers.provider import Hosting


class HostCapacity:
    """The capacity of all hosts during one decision. A case's homeservers of one provider share a host.

    :param hosting: the hosts and their capacities.
    :param used: how many homeservers run already, by the host's name.
    """

    def __init__(self, hosting: Hosting, used: Mapping[str, int]) -> None:
        self._hosting = hosting
        self._used = Counter(used)
        # Reserved for cases that have waited longer.
        self._reserved: Counter[str] = Counter()

    def required(self, server_types: Iterable[str]) -> dict[str, int]:
        """Return how many homeservers these types need of each provider that has a limit."""
        needed = Counter(self._hosting.provider(name) for name in server_types)
        return {provider: many for provider, many in needed.items() if provider in self._hosting.hosts}

    def reachable(self, required: Mapping[str, int]) -> bool:
        """Return whether each of these providers has a reachable host."""
        return all(self._hosting.hosts[provider] for provider in required)

    def missing(self, required: Mapping[str, int]) -> str | None:
        """Return the reason why no host has enough capacity; None if each provider has one that does."""
        return next(
            (
                self._shortage(provider, many)
                for provider, many in sorted(required.items())
                if self._roomiest(provider, many, room=True) is None
            ),
            None,
        )

    def allocate(self, required: Mapping[str, int], server_types: Iterable[str]) -> dict[str, str]:
        """Take the capacity, of which nothing is :meth:`missing`; return the host for each server type."""
        hosts: dict[str, str] = {}
        for provider, many in required.items():
            host = self._roomiest(provider, many, room=True)
            assert host is not None
            self._used[host] += many
            hosts[provider] = host
        providers = {name: self._hosting.provider(name) for name in server_types}
        return {name: hosts[provider] for name, provider in providers.items() if provider in hosts}

    def reserve(self, required: Mapping[str, int]) -> None:
        """Reserve capacity on the hosts that will have enough of it first."""
        for provider, many in required.items():
            if (host := self._roomiest(provider, many)) is not None:
                self._reserved[host] += many

    def _roomiest(self, provider: str, many: int, *, room: bool = False) -> str | None:
        """Return the host with the most free capacity, of those that can carry so many at all.

        A case that needs more than any host can carry runs alone on the largest one.

        :param room: whether the capacity must be free now.
        """
        hosts = self._hosting.hosts[provider]
        least = min(many, max(hosts.values(), default=0))
        able = [
            (most - self._used[host] - self._reserved[host], host)
            for host, most in hosts.items()
            if most >= least
            and (not room or self._used[host] + self._reserved[host] + many <= max(most, many))
        ]
        return min(able, key=lambda one: (-one[0], one[1]))[1] if able else None

    def _shortage(self, provider: str, many: int) -> str:
        hosts = self._hosting.hosts[provider]
        what = f"a {provider} homeserver" if many == 1 else f"{many} {provider} homeservers"
        if not hosts:
            return f"waiting for {what} (no host is reachable)"
        where = " on one host" if many > 1 and len(hosts) > 1 else ""
        used, reserved = (sum(count[host] for host in hosts) for count in (self._used, self._reserved))
        return f"waiting for {what}{where} ({in_use(used, sum(hosts.values()), reserved)})"


def in_use(used: int, limit: int, reserved: int) -> str:
    """Return a phrase for how much of a resource is in use and reserved."""
    return f"{used} of {limit} in use{f', {reserved} reserved for an older case' if reserved else ''}"
