"""What the homeservers of a session share, installed or built while the other cases run."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from trafficlight.clock import Clock, cancel_all
from trafficlight.errors import ConfigError, TrafficlightError
from trafficlight.server_types import HomeServerSpec

logger = logging.getLogger(__name__)

# Seconds that the start of a session waits for the first result.
_HEAD_START = 20.0

Prepare: TypeAlias = Callable[[HomeServerSpec], Coroutine[Any, Any, None]]


class Preparation:
    """Prepares the homeservers of a session, all types at the same time.

    :param specs: the homeservers.
    :ivar problems: why the homeservers of a type cannot be prepared, by the type's name.
    """

    def __init__(self, specs: Iterable[HomeServerSpec], prepare: Prepare, clock: Clock) -> None:
        self._prepare = prepare
        self._clock = clock
        self._errors: list[Exception] = []
        self.problems: dict[str, str] = {}
        #: Called when a type is ready, or cannot be.
        self.on_change: Callable[[], None] = lambda: None
        by_type: dict[str, list[HomeServerSpec]] = {}
        for spec in dict.fromkeys(specs):
            by_type.setdefault(spec.type_name, []).append(spec)
        self._tasks: Mapping[str, asyncio.Task[None]] = {
            name: asyncio.create_task(self._prepare_all(name, some), name=f"prepare {name}")
            for name, some in by_type.items()
        }

    @property
    def pending(self) -> frozenset[str]:
        """The names of the types that are still being prepared."""
        return frozenset(name for name, task in self._tasks.items() if not task.done())

    async def first_result(self) -> None:
        """Wait until one type is ready, none can be, or the head start is over.

        :raises ConfigError: none can be prepared in this place.
        :raises OSError: the same.
        """
        with contextlib.suppress(TimeoutError):
            async with self._clock.timeout(_HEAD_START):
                for task in asyncio.as_completed(self._tasks.values()):
                    await task
                    if len(self._tasks) > len(self.pending) + len(self.problems):
                        return
        places = [error for error in self._errors if isinstance(error, ConfigError | OSError)]
        if places and len(places) == len(self._tasks):
            raise places[0]

    async def close(self) -> None:
        """Stop what is not done yet. Idempotent."""
        await cancel_all(*self._tasks.values())

    async def _prepare_all(self, name: str, specs: Sequence[HomeServerSpec]) -> None:
        try:
            for spec in specs:
                await self._prepare(spec)
        except Exception as error:
            if not isinstance(error, TrafficlightError | OSError):
                logger.exception("%s cannot be prepared", name)
            self._errors.append(error)
            self.problems[name] = str(error)
        finally:
            # Not before this task is done.
            asyncio.get_running_loop().call_soon(lambda: self.on_change())
