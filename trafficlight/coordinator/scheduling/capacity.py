"""The hosts that homeservers run on, and what of them is taken: all that planning knows of them."""

from collections import Counter
from collections.abc import Iterable, Mapping

from trafficlight.homeservers.provider import Hosting


class HostCapacity:
    """The hosts of one decision. What a case needs of one provider is always on one host of it.

    :param hosting: what carries homeservers.
    :param used: how many run already, by the host's name.
    """

    def __init__(self, hosting: Hosting, used: Mapping[str, int]) -> None:
        self._hosting = hosting
        self._used = Counter(used)
        # What is kept back for cases that have waited longer.
        self._kept: Counter[str] = Counter()

    def needs(self, server_types: Iterable[str]) -> dict[str, int]:
        """Return how many homeservers such types need of each provider, where a provider sets a limit."""
        needed = Counter(self._hosting.provider(name) for name in server_types)
        return {provider: many for provider, many in needed.items() if provider in self._hosting.hosts}

    def answer(self, needs: Mapping[str, int]) -> bool:
        """Return whether every one of these providers has a host that answers."""
        return all(self._hosting.hosts[provider] for provider in needs)

    def shortage(self, needs: Mapping[str, int]) -> str | None:
        """Say which provider has no host with enough room; None where all have."""
        return next(
            (
                self._shortage(provider, many)
                for provider, many in sorted(needs.items())
                if self._roomiest(provider, many, room=True) is None
            ),
            None,
        )

    def take(self, needs: Mapping[str, int], server_types: Iterable[str]) -> dict[str, str]:
        """Take the room that :meth:`shortage` found, and return the host for each server type."""
        taken: dict[str, str] = {}
        for provider, many in needs.items():
            host = self._roomiest(provider, many, room=True)
            assert host is not None
            self._used[host] += many
            taken[provider] = host
        return {
            name: taken[self._hosting.provider(name)]
            for name in server_types
            if self._hosting.provider(name) in taken
        }

    def reserve(self, needs: Mapping[str, int]) -> None:
        """Let nobody else have room on the hosts where these come to have enough the soonest."""
        for provider, many in needs.items():
            if (host := self._roomiest(provider, many)) is not None:
                self._kept[host] += many

    def _roomiest(self, provider: str, many: int, *, room: bool = False) -> str | None:
        """Return the host with the most room, of those that can carry so many at all.

        One that needs more than any host carries runs alone on the largest.

        :param room: whether the room must be there now.
        """
        hosts = self._hosting.hosts[provider]
        least = min(many, max(hosts.values(), default=0))
        able = [
            (most - self._used[host] - self._kept[host], host)
            for host, most in hosts.items()
            if most >= least and (not room or self._used[host] + self._kept[host] + many <= max(most, many))
        ]
        return min(able, key=lambda one: (-one[0], one[1]))[1] if able else None

    def _shortage(self, provider: str, many: int) -> str:
        hosts = self._hosting.hosts[provider]
        what = "a homeserver" if many == 1 else f"{many} homeservers"
        if not hosts:
            return f"waits for {what} of {provider} (nothing that carries them answers)"
        where = " on one host" if many > 1 and len(hosts) > 1 else ""
        used, kept = (sum(count[host] for host in hosts) for count in (self._used, self._kept))
        return f"waits for {what} of {provider}{where} ({in_use(used, sum(hosts.values()), kept)})"


def in_use(used: int, limit: int, kept: int) -> str:
    """Say how much of something is in use, and how much is kept back."""
    kept_text = f", {kept} kept for a case that has waited longer" if kept else ""
    return f"{used} of {limit} in use{kept_text}"
