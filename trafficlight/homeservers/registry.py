"""All providers behind one: which of them deploys what, and how many homeservers each carries."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from trafficlight.errors import ConfigError
from trafficlight.homeservers.provider import Hosting, Provider, RunningServer, ServerRequest
from trafficlight.server_types import HomeServerSpec


class ProviderRegistry:
    """Hands every server type to its provider; is a provider itself.

    :param providers: the providers that there are, by name.
    :param by_type: the name of the provider for a server type, by the type's name.
    :param default: the provider for all other server types.
    :raises ConfigError: a provider is named that does not exist.
    """

    name = "providers"

    def __init__(
        self,
        providers: Mapping[str, Provider],
        by_type: Mapping[str, str] | None = None,
        *,
        default: str = "local",
    ) -> None:
        self._providers = dict(providers)
        self._by_type = dict(by_type or {})
        self._default = default
        for type_name, provider in (*self._by_type.items(), ("default", default)):
            if provider not in self._providers:
                known = ", ".join(sorted(self._providers))
                raise ConfigError(f"there is no provider {provider!r}, only {known}", key=type_name)

    @property
    def capacities(self) -> dict[str, int]:
        """How many homeservers of a server type may run for cases at once, where its provider says so."""
        found: dict[str, int] = {}
        for provider in self._providers.values():
            found.update(getattr(provider, "capacities", {}))
        return found

    @property
    def hosts(self) -> dict[str, int]:
        """How many homeservers each host of any provider carries at once."""
        return {host: most for hosts in self.hosting.hosts.values() for host, most in hosts.items()}

    @property
    def hosting(self) -> Hosting:
        """What carries homeservers now; engines come and go."""
        hosts = {
            name: dict(found)
            for name, provider in self._providers.items()
            if (found := provider.hosts) is not None
        }
        return Hosting(hosts, self._by_type, self._default)

    def provider(self, spec: HomeServerSpec) -> Provider:
        """Return the provider that deploys what is asked for."""
        return self._providers[self._by_type.get(spec.type_name, self._default)]

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return why what is asked for can never be deployed, or None where it can."""
        return self.provider(spec).unsupported(spec)

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Let every provider do its slow work, one after the other, so that their progress can be read.

        :raises DeployError: it cannot be done.
        """
        for provider, theirs in self._shared_out(specs):
            await provider.prepare([specs[index] for index in theirs])

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Deploy homeservers, each by its provider.

        :raises DeployError: one does not come up.
        """
        async with contextlib.AsyncExitStack() as stack:
            found: dict[int, RunningServer] = {}
            for provider, theirs in self._shared_out([request.spec for request in requests]):
                deployment = provider.deploy(case_id, [requests[index] for index in theirs])
                found.update(zip(theirs, await stack.enter_async_context(deployment), strict=True))
            yield [found[index] for index in range(len(requests))]

    async def close(self) -> None:
        """Close every provider, even when one fails to. Idempotent."""
        async with contextlib.AsyncExitStack() as stack:
            for provider in self._providers.values():
                stack.push_async_callback(provider.close)

    def _shared_out(self, specs: Sequence[HomeServerSpec]) -> list[tuple[Provider, list[int]]]:
        """Return every provider that is concerned with the positions of what it is to deploy."""
        shares: dict[str, list[int]] = {}
        for index, spec in enumerate(specs):
            shares.setdefault(self._by_type.get(spec.type_name, self._default), []).append(index)
        return [(self._providers[name], theirs) for name, theirs in shares.items()]
