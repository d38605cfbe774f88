"""What every question of an examination works with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from trafficlight.adapters.conformance.program import Program
from trafficlight.adapters.conformance.results import Level, Results
from trafficlight.adapters.conformance.scripted import Reply, ScriptedAdapter, ScriptedCoordinator
from trafficlight.protocol import JsonObject

T = TypeVar("T")

STARTUP = 30.0
"""Seconds until the first registration of a process."""

SPIN = 3
"""So many polls at the wrong time are bad luck; more are a tight loop."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What a check does.

    :param action: an action that it can perform at any time; by default one it declares, sent without data.
    :param data: the parameters of the action.
    :param hold: seconds that polls are held; coordinators hold up to 28.
    :param grace: seconds for everything else: an answer, coming back after an exit or a restart.
    :param idle_delay: seconds that an idle answer asks to wait for the next poll.
    :param away: seconds that the coordinator is away when it restarts.
    :param token: a shared registration token to require; it is handed over as ``ADAPTER_TOKEN``.
    """

    action: str | None = None
    data: JsonObject = field(default_factory=dict)
    hold: float = 3.0
    grace: float = 10.0
    idle_delay: float = 0.5
    away: float = 1.0
    token: str | None = None


class CheckContext:
    """One adapter's examination: its coordinator, its process, and where the findings go.

    :param coordinator: the coordinator that it talks to, started.
    :param program: the adapter's process, started.
    :param options: what to do.
    :param results: where the findings go.
    """

    def __init__(
        self, coordinator: ScriptedCoordinator, program: Program, options: CheckOptions, results: Results
    ) -> None:
        self.coordinator = coordinator
        self.program = program
        self.options = options
        self.results = results
        self.uuids: set[str] = set()

    def fresh_uuid(self, adapter: ScriptedAdapter) -> None:
        """Judge the uuid of a registration."""
        if adapter.uuid in self.uuids:
            self.wrong(
                "fresh-uuid",
                f"it registered a second time as {adapter.uuid}; a registration needs a new uuid",
            )
        self.uuids.add(adapter.uuid)
        try:
            UUID(adapter.uuid)
        except ValueError:
            self.note("fresh-uuid", f"{adapter.uuid!r} is not a UUID, so it may not be unique")

    async def next_life(self, adapter: ScriptedAdapter, check: str) -> ScriptedAdapter | None:
        """Return the registration that follows, starting the program again where it has ended."""
        count = self.coordinator.adapters.index(adapter) + 1
        successor = await self.until(lambda: self.newest(count) or self.ended())
        if not isinstance(successor, ScriptedAdapter) and self.program.ended:
            how = f"its process ends (code {self.program.returncode})"
            self.note("needs-supervisor", f"{check}: {how}; something has to start it again")
            await self.program.start()
            successor = await self.until(lambda: self.newest(count), STARTUP)
        if not isinstance(successor, ScriptedAdapter):
            self.wrong(check, f"no new registration within {self.options.grace:g} s, but its process runs")
            return None
        self.fresh_uuid(successor)
        return successor

    async def act(self, adapter: ScriptedAdapter, name: str) -> Reply | None:
        """Ask for an action with the data of the options."""
        return await adapter.act(name, self.options.data, timeout=self.options.grace)

    def silent(self, check: str, adapter: ScriptedAdapter, action: str, polls: int) -> None:
        """Report that an action was not answered."""
        repeats = len(adapter.polls) - polls - 1
        how = f"it spins: {repeats} polls more" if repeats > SPIN else "it goes silent"
        self.wrong(
            check, f"{action} was neither answered nor reported within {self.options.grace:g} s; {how}"
        )

    def newest(self, count: int) -> ScriptedAdapter | None:
        """Return the first registration after so many, or None."""
        return next(iter(self.coordinator.adapters[count:]), None)

    def newest_after(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Return the registration after a registration, or None."""
        return self.newest(self.coordinator.adapters.index(adapter) + 1)

    def ended(self) -> bool:
        """Return whether its process has ended."""
        return self.program.ended

    async def until(self, see: Callable[[], T | None], timeout: float | None = None) -> T | None:
        """Wait until something is to be seen, as long as the grace is by default."""
        return await self.coordinator.until(see, timeout or self.options.grace)

    def ok(self, check: str, text: str) -> None:
        """Report what it does right."""
        self.results.add(check, Level.OK, text)

    def wrong(self, check: str, text: str) -> None:
        """Report what it does wrong."""
        self.results.add(check, Level.WRONG, text)

    def note(self, check: str, text: str) -> None:
        """Report what it would do better otherwise."""
        self.results.add(check, Level.NOTE, text)
