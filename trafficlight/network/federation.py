"""What a test can do to the network between homeservers: ``server.federation``."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol

from trafficlight.network.connection import CaseNetwork, line_between
from trafficlight.network.control import Line, Rule

_EVERYTHING = "/*"


class _HomeServer(Protocol):
    @property
    def name(self) -> str: ...


class FederationNetwork:
    """The network between one homeserver and the others of its case, as a test sees and changes it.

    ``here.federation.block(there)`` blocks requests from `here` to `there`, not those from `there` to `here`.

    :param role: the role of the source homeserver.
    """

    def __init__(self, role: str, case: CaseNetwork | None) -> None:
        self._role, self._in_case = role, case
        self._lines: dict[str, Line] = {}

    @property
    def _case(self) -> CaseNetwork:
        if self._in_case is None:
            raise RuntimeError(f"{self._role} is not part of a running case")
        if not self._in_case.homeservers:
            raise RuntimeError(
                f"{self._role}.federation: the homeservers ask each other directly; the class of the test"
                " needs breaks_federation = True"
            )
        return self._in_case

    def to(self, other: _HomeServer) -> Line:
        """Return the line to another homeserver, which has all rules of a client's network.

        :raises ValueError: there is no such line.
        :raises RuntimeError: the class of the test does not declare ``breaks_federation``.
        """
        role, known = getattr(other, "name", ""), self._others()
        if role not in known:
            raise ValueError(
                f"{self._role}.federation: {other!r} is not another homeserver of the case, only"
                f" {', '.join(known) or 'this one'} is"
            )
        if role not in self._lines:
            self._lines[role] = _line(self._case, self._role, role)
        return self._lines[role]

    def block(self, other: _HomeServer) -> AbstractAsyncContextManager[None]:
        """Cut the line to another homeserver: open requests break, and new ones fail.

        Requests from that homeserver to this one pass.

        :raises ValueError: there is no such line.
        :raises RuntimeError: as for :meth:`to`.
        """
        return self.to(other).cut("blocked")

    def delay(self, other: _HomeServer, *, seconds: float) -> AbstractAsyncContextManager[Rule]:
        """Delay every request to another homeserver.

        :param seconds: for how long, at most until the end of the rule.
        :raises ValueError: there is no such line, or the time is not one.
        :raises RuntimeError: as for :meth:`to`.
        """
        return self.to(other).delay(_EVERYTHING, seconds=seconds)

    @asynccontextmanager
    async def offline(self) -> AsyncIterator[None]:
        """Cut all lines between this homeserver and the others, in both directions. Its clients reach it.

        :raises RuntimeError: as for :meth:`to`.
        """
        async with AsyncExitStack() as stack:
            for other in self._others():
                for pair in ((self._role, other), (other, self._role)):
                    await stack.enter_async_context(_line(self._case, *pair).cut("offline"))
            yield

    def _others(self) -> list[str]:
        return [role for role in self._case.homeservers if role != self._role]


def _line(case: CaseNetwork, asking: str, asked: str) -> Line:
    return Line(asking, line_between(asking, asked), case, f"to {asked}: ")
