"""A proxy between clients and a homeserver that can be told to misbehave."""

from typing import Annotated

from trafficlight.clients.action import Wire, action
from trafficlight.clients.base import Client, ClientApi
from trafficlight.clients.link import Link
from trafficlight.errors import AdapterError
from trafficlight.protocol import JsonObject

Endpoint = Annotated[str, Wire("endpoint")]


class NetworkProxyClient(Client):
    """A network proxy, to be given to `register` and `login` in place of the homeserver behind it.

    Endpoints are parts of a request's path, for instance ``/sendToDevice``.
    """

    def __init__(self, name: str, registration: JsonObject, link: Link) -> None:
        super().__init__(name, registration, link)
        self._target: ClientApi | None = None

    @property
    def cs_api(self) -> str:
        """The base URL that clients are to use, without a trailing slash.

        :raises AdapterError: the proxy registered without one.
        """
        endpoint = self.registration.get("endpoint")
        if not isinstance(endpoint, str) or not endpoint:
            raise AdapterError("the network proxy registered without an endpoint", role=self.name)
        return endpoint.rstrip("/")

    @property
    def server_name(self) -> str:
        """The name of the homeserver behind it.

        :raises RuntimeError: :meth:`proxy_to` was not called.
        """
        if self._target is None:
            raise RuntimeError(f"{self.name} stands before no homeserver: call proxy_to() first")
        return self._target.server_name

    async def proxy_to(self, server: ClientApi) -> None:
        """Stand before a homeserver from now on."""
        await self._proxy_to(server.cs_api)
        self._target = server

    @action("proxyTo")
    async def _proxy_to(self, url: str) -> None:
        """Send all requests on to a base URL. Returns only when it takes effect."""

    @action("disableEndpoint")
    async def disable_endpoint(self, path: Endpoint) -> None:
        """Answer every request whose path contains this with 503, until it is enabled again."""

    @action("enableEndpoint")
    async def enable_endpoint(self, path: Endpoint) -> None:
        """Let requests to a disabled endpoint through again."""

    @action("delayEndpoint")
    async def delay_endpoint(self, path: Endpoint, delay: int) -> None:
        """Hold every request whose path contains this for `delay` milliseconds."""

    @action("undelayEndpoint")
    async def undelay_endpoint(self, path: Endpoint) -> None:
        """Hold requests to a delayed endpoint no longer."""

    @action("waitUntilEndpointAccessed")
    async def wait_until_endpoint_accessed(self, path: Endpoint, timeout: int | None = None) -> None:
        """Wait until a request whose path contains this comes; fail after `timeout` milliseconds (the proxy's
        own default is 15,000)."""
