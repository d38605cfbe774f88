"""What an adapter author subclasses."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from trafficlight.adapters.sdk.actions import Declared, declared_by
from trafficlight.adapters.sdk.errors import UnsupportedActionError
from trafficlight.protocol import JsonObject, Registration


class Context(Protocol):
    """The registration, as an adapter uses it."""

    @property
    def uuid(self) -> str:
        """The id under which this adapter is registered."""
        ...

    @property
    def action_deadline(self) -> float | None:
        """Seconds that the coordinator gives an action; None where it does not say."""
        ...

    async def upload(self, path: Path, name: str | None = None) -> str:
        """Send a file to the case's results, streaming from the disk, and return the name it has there.

        Connection trouble is retried; a refusal is only logged, as it is no reason to end a case.

        :param path: the file.
        :param name: the name it is to have; by default its own.
        """
        ...


class Adapter:
    """A program that drives one client for one registration. A fresh object each time, so nothing survives.

    Subclasses set :attr:`type`, declare methods with :func:`~trafficlight.adapters.sdk.action`, and release
    their resources in :meth:`close`.
    """

    type: ClassVar[str]
    """What kind of client this is, on the wire."""

    labels: ClassVar[Sequence[str]] = ()
    """Free words that client types can ask for."""

    reusable: ClassVar[bool] = False
    """Whether its action `reset` restores its initial state, so that it need not register again."""

    actions: ClassVar[Mapping[str, Declared]] = {}
    """What it can perform, by name on the wire; filled from the declared methods."""

    version: str | None = None
    """The client's version, shown to people."""

    context: Context
    """Set before the first action."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.actions = declared_by(cls)

    async def open(self) -> None:
        """Get the client ready. Runs before the registration, so that the first action finds it ready."""

    async def close(self) -> None:
        """Release the client's resources. Always called once, also when :meth:`open` failed."""

    async def watch(self) -> None:
        """Raise when the client is lost while no action is outstanding; returning means that none can be.

        Runs beside the polls. The registration ends with an error report, in the same moment.
        """

    def registration(self) -> Registration:
        """Return the registration; a subclass may add fields."""
        return Registration(
            type=self.type,
            version=self.version,
            labels=list(self.labels),
            actions=list(self.actions),
            reusable=self.reusable or None,
            # The process's supervisor sets it, to know which adapters exit with the process.
            instance=os.environ.get("TRAFFICLIGHT_INSTANCE"),
        )

    async def perform(self, name: str, data: JsonObject) -> JsonObject:
        """Perform an action and return the response object.

        :raises UnsupportedActionError: this adapter has no such action.
        :raises ActionFailed: the client did the wrong thing.
        """
        declared = self.actions.get(name)
        if declared is None:
            close = difflib.get_close_matches(name, self.actions, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UnsupportedActionError(f"{self.type} does not support this action{hint}")
        outcome = await declared.method(self, **declared.arguments(data))
        return declared.response(outcome)
