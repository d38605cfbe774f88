"""A proxy between clients and a homeserver that can delay and refuse requests."""

from typing import Annotated

from trafficlight.clients.action import Wire, action
from trafficlight.clients.base import CaseBackend, Client, ClientApi
from trafficlight.errors import AdapterError
from trafficlight.protocol import JsonObject

Endpoint = Annotated[str, Wire("endpoint")]


class NetworkProxyClient(Client):
    """A network proxy. Pass it to `register` and `login` in place of its homeserver.

    Endpoints are parts of a request's path, for instance ``/sendToDevice``.
    """

    def __init__(self, name: str, registration: JsonObject, link: CaseBackend) -> None:
        super().__init__(name, registration, link)
        self._target: ClientApi | None = None

    @property
    def cs_api(self) -> str:
        """The base URL for clients, without a trailing slash.

        :raises AdapterError: the proxy registered without one.
        """
        endpoint = self.registration.get("endpoint")
        if not isinstance(endpoint, str) or not endpoint:
            raise AdapterError("the network proxy registered without an endpoint", role=self.name)
        return endpoint.rstrip("/")

    @property
    def server_name(self) -> str:
        """The name of its homeserver.

        :raises RuntimeError: :meth:`proxy_to` was not called.
        """
        if self._target is None:
            raise RuntimeError(f"{self.name} has no homeserver: call proxy_to() first")
        return self._target.server_name

    async def proxy_to(self, server: ClientApi) -> None:
        """Forward requests to a homeserver."""
        await self._proxy_to(server.cs_api)
        self._target = server

    @action("proxyTo")
    async def _proxy_to(self, url: str) -> None:
        """Forward all requests to a base URL. Returns only when this is in effect."""

    @action("disableEndpoint")
    async def disable_endpoint(self, path: Endpoint) -> None:
        """Answer every request whose path contains the endpoint with 503, until it is enabled again."""

    @action("enableEndpoint")
    async def enable_endpoint(self, path: Endpoint) -> None:
        """Forward requests to a disabled endpoint again."""

    @action("delayEndpoint")
    async def delay_endpoint(self, path: Endpoint, delay: int) -> None:
        """Delay every request whose path contains the endpoint by `delay` milliseconds."""

    @action("undelayEndpoint")
    async def undelay_endpoint(self, path: Endpoint) -> None:
        """Stop delaying requests to an endpoint."""

    @action("waitUntilEndpointAccessed")
    async def wait_until_endpoint_accessed(self, path: Endpoint, timeout: int | None = None) -> None:
        """Wait for a request whose path contains the endpoint; fail after `timeout` milliseconds (the proxy's
        own default is 15,000)."""
