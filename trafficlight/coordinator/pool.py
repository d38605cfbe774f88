"""The adapters that registered, and who holds them. Nothing else touches an adapter's state."""

import asyncio
import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from trafficlight.clock import Clock
from trafficlight.coordinator.adapter import (
    Adapter,
    AdapterState,
    Lease,
    RegistrationConflictError,
    UnknownAdapterError,
)
from trafficlight.coordinator.channel import AdapterFailure, Channel
from trafficlight.coordinator.scheduling.inventory import MissingAdapter
from trafficlight.errors import AdapterError, TrafficlightError
from trafficlight.protocol import RESET, ErrorBody, JsonObject, Registration
from trafficlight.results.events import (
    AdapterLeased,
    AdapterLost,
    AdapterRegistered,
    AdapterReleased,
    Event,
    Log,
)
from trafficlight.results.journal import Journal, excerpt
from trafficlight.text import single_line, truncate

logger = logging.getLogger(__name__)

# Adapters that have ended and are still known by name, for late uploads and clear answers.
_REMEMBERED = 10_000
# Bytes of registrations that are kept: of adapters that have ended, and of those that have not polled yet.
_REMEMBERED_BYTES = 16 << 20
# Characters of what an adapter sends outside of cases: every running session has it in its events. And of the
# reason why an adapter has ended.
_OUTSIDE = 4000
# Missing adapters that are remembered for messages.
_MISSING = 20


class _Bounded:
    """The uuids of adapters whose registrations are kept only as long as there is room, the oldest first."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._bytes = 0

    def add(self, adapter: Adapter) -> None:
        """Add an adapter, unless it is in."""
        if adapter.uuid not in self._sizes:
            size = len(json.dumps(adapter.fields))
            self._sizes[adapter.uuid] = size
            self._bytes += size

    def discard(self, uuid: str) -> None:
        """Remove an adapter, if it is in."""
        self._bytes -= self._sizes.pop(uuid, 0)

    def surplus(self) -> Iterator[str]:
        """Remove the oldest and return them, until there is room."""
        while len(self._sizes) > _REMEMBERED or self._bytes > _REMEMBERED_BYTES:
            uuid = next(iter(self._sizes))
            self.discard(uuid)
            yield uuid


def _prune(programs: dict[str, Any]) -> None:
    """Forget the oldest programs."""
    while len(programs) > _REMEMBERED:
        del programs[next(iter(programs))]


class Pool:
    """All adapters, by uuid.

    :param clock: the monotonic clock for silence, the wall clock for people.
    :param on_change: called when an adapter became free or is gone; the scheduler looks again.
    :param alive: seconds without any request after which a free adapter is dropped.
    :param quarantine_after: cases in a row that a program may err in before it gets no more.
    """

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        on_change: Callable[[], None],
        *,
        alive: float = 60.0,
        quarantine_after: int = 3,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._on_change = on_change
        self._alive = alive
        self._adapters: dict[str, Adapter] = {}
        #: The types of the adapters that are remembered, and those that the settings name.
        self.known_types: Counter[str] = Counter()
        self._free: dict[str, Adapter] = {}
        self._ended = _Bounded()
        self._silent = _Bounded()  # registered, and not heard of since
        # By program: adapters that have not ended; else when the last one did, and how many cases it had.
        self._live: Counter[str] = Counter()
        self._exited: dict[str, tuple[float, int]] = {}
        self._closed: str | None = None
        #: Called with an adapter that may have another case after :meth:`reset`; None lets all of them end.
        self.on_reusable: Callable[[Adapter], None] | None = None
        self._quarantine_after = quarantine_after
        self._failed_in_a_row: dict[str, int] = {}
        #: How many leases each program has had.
        self.leases: Counter[str] = Counter()
        self._missing: dict[tuple[str, str], MissingAdapter] = {}
        #: Programs that the lab starts itself, by the secret in the URL that only they have: never
        #: quarantined, as their next process is a fresh one.
        self.own_programs: dict[str, str] = {}
        self._owners: dict[str, str] = {}  # the digest of the secret or the address, by the name of a program
        #: Why no adapter of a program gets a new case, by program; also of programs that are not there.
        self.paused: dict[str, str] = {}
        #: The programs that the lab starts itself, under names that the next lab does not know.
        self.started_here: frozenset[str] = frozenset()
        #: Why no adapter gets a new case; empty while they do.
        self.drained = ""

    def __iter__(self) -> Iterator[Adapter]:
        return iter(tuple(self._adapters.values()))

    def __len__(self) -> int:
        return len(self._adapters)

    @property
    def free(self) -> list[Adapter]:
        """The adapters that a case can have, in the order in which they came."""
        return [] if self.drained else [one for one in self._free.values() if not one.paused]

    @property
    def quarantined(self) -> list[Adapter]:
        """The adapters that a case can have only where no other adapter will do."""
        return [] if self.drained else [one for one in self._free.values() if one.quarantined]

    @property
    def held_back(self) -> list[Adapter]:
        """The adapters that only a person keeps from new cases: they are there, and will have some again."""
        return [one for one in self._free.values() if (self.drained or one.paused) and not one.quarantined]

    @property
    def paused_and_absent(self) -> dict[str, str]:
        """The paused programs that have no adapter at the moment, with the reasons."""
        return {program: why for program, why in self.paused.items() if not self._live[program]}

    @property
    def missing(self) -> list[MissingAdapter]:
        """Adapters that cases may wait for: those that failed outside of cases, and quarantined ones."""
        quarantined = [
            MissingAdapter(one.fields, f"the {one.type} adapter {one.uuid} is {one.paused}")
            for one in self._free.values()
            if one.quarantined
        ]
        return [*self._missing.values(), *quarantined[-_MISSING:]]

    def note_missing(self, program: str, what: str, why: str, registration: JsonObject | None) -> None:
        """Note why a program has no adapter, until a case has one of its adapters.

        :param what: ``adapter`` or ``process``: of each, the last reason is kept.
        :param registration: what it last registered as; None if it never has.
        """
        self._missing.pop((program, what), None)
        self._missing[program, what] = MissingAdapter(registration, why)
        while len(self._missing) > _MISSING:
            del self._missing[next(iter(self._missing))]
        self._on_change()

    def program_name(self, name: str, address: str, secret: str = "") -> str:
        """Return how a program is known that names itself: its name, unless that is another program's.

        :param address: where its registration came from.
        :param secret: what proves that it is the program, at any address; empty if it has none.
        """
        owner = hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest() if secret else address
        longer = f"{name} ({owner[:8]})" if secret else f"{name} at {address}"
        _prune(self._owners)
        return next(
            one
            for one in itertools.chain(
                (name, longer), (f"{longer} {number}" for number in itertools.count(2))
            )
            if one not in self.own_programs.values() and self._owners.setdefault(one, owner) == owner
        )

    def register(
        self,
        uuid: str,
        registration: Registration,
        *,
        token: str | None = None,
        program: str = "",
        address: str = "",
    ) -> Adapter:
        """Take an adapter in. The same registration again changes nothing.

        :param program: names its program across registrations, see :class:`Adapter`.
        :param address: where the registration came from.
        :raises RegistrationConflictError: the uuid is in use with another registration, or has ended.
        """
        known = self._adapters.get(uuid)
        if known is not None:
            if known.state is AdapterState.ENDED:
                why = f"the {known.type} adapter {uuid} has ended and must register under a new uuid"
                if why not in (one.why for one in self._missing.values()):
                    logger.warning("%s", why)
                    self.note_missing(known.program or uuid, "adapter", why, known.fields)
                raise RegistrationConflictError(uuid, f"this adapter has ended ({known.reason})")
            secrets = known.registration.instance_secret, registration.instance_secret
            if known.fields != registration.fields() or secrets[0] != secrets[1]:
                raise RegistrationConflictError(uuid, "already registered with other data")
            known.seen = self._clock.monotonic()
            return known
        adapter = Adapter(
            uuid,
            registration,
            Channel(self._clock),
            registered=self._clock.now(),
            seen=self._clock.monotonic(),
            token=token,
            program=program,
            address=address,
        )
        self._adapters[uuid] = adapter
        self.known_types[adapter.type] += 1
        self._live[adapter.program] += 1
        self._exited.pop(adapter.program, None)
        adapter.channel.on_rivals = partial(self._rivals, adapter)
        self._journal.append(AdapterRegistered(adapter=uuid, registration=excerpt(adapter.fields, _OUTSIDE)))
        if self._closed is not None:
            self._end(adapter, self._closed)
            return adapter
        failed = self._failed_in_a_row.get(adapter.program, 0)
        if adapter.program in self.paused:
            adapter.paused = self.paused[adapter.program]
        elif (
            failed
            and adapter.program not in self.own_programs.values()
            and failed >= self._quarantine_after * self._alike(adapter)
        ):
            adapter.paused = f"quarantined: its program erred in {failed} cases in a row"
            adapter.quarantined = True
            logger.warning("the %s adapter %s is %s", adapter.type, uuid, adapter.paused)
        self._free[uuid] = adapter
        self._silent.add(adapter)
        for oldest in self._silent.surplus():
            self.lose(self._adapters[oldest], "registered, but never polled, as many others do")
        self._on_change()
        return adapter

    def _alike(self, adapter: Adapter) -> int:
        """Return how many adapters share its name for the program: several, if it names none itself."""
        if adapter.registration.instance:
            return 1
        alike = (one for one in self._adapters.values() if one.program == adapter.program)
        # Not those that have failed, but whose case has not ended yet.
        return max(
            1, sum(one.state is not AdapterState.ENDED and one.channel.failure is None for one in alike)
        )

    def known(self, uuid: str) -> Adapter | None:
        """Return an adapter, or None if none is registered under this uuid."""
        return self._adapters.get(uuid)

    def get(self, uuid: str) -> Adapter:
        """Return an adapter.

        :raises UnknownAdapterError: none has registered under this uuid.
        """
        try:
            return self._adapters[uuid]
        except KeyError:
            raise UnknownAdapterError(uuid) from None

    def named(self, name: str) -> Adapter | None:
        """Return the adapter with this uuid, else the latest of the program with this name, else None."""
        return self._adapters.get(name) or next(
            (one for one in reversed([*self]) if one.program == name), None
        )

    def seen(self, adapter: Adapter) -> None:
        """Note that an adapter gave a sign of life."""
        adapter.seen = self._clock.monotonic()
        self._silent.discard(adapter.uuid)

    def acquire(self, lease: Lease) -> None:
        """Lease the adapters of an attempt, all or none.

        :raises AdapterError: one of them is not free any more; none is leased.
        """
        for role, adapter in lease.adapters.items():
            if adapter.state is not AdapterState.FREE:
                raise AdapterError(f"the {adapter.type} adapter {adapter.uuid} is no longer free", role=role)
        for role, adapter in lease.adapters.items():
            adapter.state, adapter.lease, adapter.role = AdapterState.LEASED, lease, role
            adapter.cases += 1
            self.leases[adapter.program] += 1
            _prune(self.leases)
            for what in ("adapter", "process"):
                self._missing.pop((adapter.program, what), None)
            del self._free[adapter.uuid]
            self._silent.discard(adapter.uuid)
            self._emit(adapter, AdapterLeased(adapter=adapter.uuid, registration=adapter.fields))

    def release(self, lease: Lease, reason: str) -> None:
        """Release the adapters of a lease. Idempotent.

        Reusable adapters are reset; the others are sent `exit` and register again.
        """
        if lease.released:
            return
        lease.released = True
        for adapter in lease.adapters.values():
            if adapter.state is not AdapterState.LEASED:  # it has ended
                continue
            self._emit(adapter, AdapterReleased(adapter=adapter.uuid, reason=reason))
            adapter.channel.on_delivered = None
            if self.on_reusable is not None and self._closed is None and adapter.usable_again:
                adapter.state = AdapterState.RESETTING
                self.on_reusable(adapter)
            else:
                self._end(adapter, reason)

    async def reset(self, adapter: Adapter, timeout: float) -> None:
        """Ask an adapter to forget its case, and let it have another one when it has.

        :param timeout: seconds that it has for that.
        """
        try:
            await adapter.channel.perform(RESET, {}, timeout)
        except TrafficlightError as error:
            self._end(adapter, f"could not be reset: {error}")
            return
        except asyncio.CancelledError:
            self._end(adapter, "its reset was cancelled")
            raise
        if adapter.state is AdapterState.RESETTING:
            adapter.state, adapter.role = AdapterState.FREE, None
            self._free[adapter.uuid] = adapter
            self._on_change()

    def end(self, adapter: Adapter, reason: str) -> None:
        """Send `exit` to an adapter that is not in a case."""
        if adapter.state is not AdapterState.LEASED:
            self._end(adapter, reason)

    def pause(self, adapter: Adapter, reason: str) -> None:
        """Give the program of an adapter no new case until :meth:`resume`; its current cases continue."""
        self.paused[adapter.program or adapter.uuid] = reason
        self._mark(adapter, reason)
        self._note(f"paused: {reason}", adapter)
        self._on_change()

    def resume(self, adapter: Adapter) -> None:
        """Let the program of an adapter have cases again, and forget how often it failed."""
        self.paused.pop(adapter.program or adapter.uuid, None)
        self._mark(adapter, "")
        self._failed_in_a_row.pop(adapter.program, None)
        self._note("resumed", adapter)
        self._on_change()

    def _mark(self, adapter: Adapter, paused: str) -> None:
        for one in self:
            if one is adapter or (one.program and one.program == adapter.program):
                one.paused, one.quarantined = paused, False

    def drain(self, reason: str) -> None:
        """Give no adapter a new case, those that will yet register included, until :meth:`undrain`."""
        self.drained = reason
        self._note(f"all adapters are drained: {reason}")
        self._on_change()

    def undrain(self) -> None:
        """Let adapters have cases again; those that are paused themselves stay so."""
        if self.drained:
            self.drained = ""
            self._note("adapters are no longer drained")
            self._on_change()

    def judge(self, lease: Lease, faulty: Collection[str]) -> None:
        """Note how the adapters of a case did; a program that errs in many cases in a row is quarantined.

        :param faulty: the roles whose adapters made the case an error.
        """
        # One that plays several roles errs once; the exit of a process is counted once for all its cases.
        erred = {adapter.program for role, adapter in lease.adapters.items() if role in faulty}
        exited = {adapter.program for adapter in lease.adapters.values() if adapter.exited}
        for program in {adapter.program for adapter in lease.adapters.values()} - exited - {""}:
            if program in erred:
                self._count_failure(program)
            elif self._failed_in_a_row.pop(program, None):
                for adapter in self:
                    there = adapter.program == program and adapter.state is not AdapterState.ENDED
                    if there and adapter.quarantined:
                        adapter.paused, adapter.quarantined = "", False
                        logger.warning(
                            "the %s adapter %s is no longer quarantined", adapter.type, adapter.uuid
                        )

    def _count_failure(self, program: str) -> None:
        self._failed_in_a_row[program] = self._failed_in_a_row.get(program, 0) + 1
        _prune(self._failed_in_a_row)

    def report(self, adapter: Adapter, error: ErrorBody) -> None:
        """Take an adapter's report that it went wrong: it is out, and its case learns of it."""
        self.seen(adapter)
        if outside := adapter.held_by is None:
            sent = error.model_fields_set & {"type", "path", "details"}
            error = error.model_copy(update={name: truncate(getattr(error, name), _OUTSIDE) for name in sent})
        lost = adapter.channel.report(error)
        if outside and adapter.state is not AdapterState.ENDED:
            self._failed_outside(adapter, str(lost))
        self._lost(adapter, lost)

    def process_exited(self, program: str, ending: str) -> bool:
        """Note that a process exited that the lab started: its adapters are lost.

        :return: whether a case had one of them since the last exit.
        """
        of_it = [one for one in self if one.program == program and one.state is not AdapterState.ENDED]
        if any(one.held_by is not None for one in of_it):
            self._count_failure(program)
        cases = {id(one.held_by) for one in of_it if one.held_by is not None}
        also = f", with its clients of {len(cases)} cases" if len(cases) > 1 else ""
        for adapter in of_it:
            adapter.exited = True
            self.lose(adapter, f"its process exited ({ending}){also}")
        return self.leases.pop(program, 0) > 0

    def registration_of(self, program: str) -> JsonObject | None:
        """Return what a program last registered as; None if it has not."""
        return next((one.fields for one in reversed([*self]) if one.program == program), None)

    @property
    def usable(self) -> Counter[str]:
        """How many adapters of each program cases have or can have."""
        there = (AdapterState.FREE, AdapterState.LEASED)
        return Counter(one.program for one in self._adapters.values() if one.state in there)

    def lose(self, adapter: Adapter, why: str) -> None:
        """Drop an adapter that is known to have exited."""
        if adapter.state is not AdapterState.ENDED and adapter.channel.failure is None:
            error = AdapterError(f"{why}; {adapter.channel.activity_summary()}", role=adapter.role or "")
            self._lost(adapter, error)

    def sweep(self) -> None:
        """Drop the adapters that have given no sign of life for too long."""
        now = self._clock.monotonic()
        for adapter in self:
            silent = now - adapter.seen
            busy = adapter.state is not AdapterState.FREE and adapter.channel.outstanding is not None
            if (
                adapter.state is AdapterState.ENDED
                or adapter.channel.polling
                or busy
                or silent <= self._alive
            ):
                continue
            why = f"gave no sign of life for {silent:.0f} s"
            if adapter.held_by is None:
                self._failed_outside(adapter, why)
            self.lose(adapter, why)

    @property
    def closed(self) -> bool:
        """Whether the lab ends, so that nothing may keep it waiting."""
        return self._closed is not None

    def close(self, reason: str) -> None:
        """Send `exit` to every adapter, including those that register later."""
        self._closed = reason
        for adapter in self:
            if adapter.state is not AdapterState.ENDED:
                self._end(adapter, reason)

    def _lost(self, adapter: Adapter, error: AdapterFailure) -> None:
        if adapter.state is AdapterState.ENDED:
            return
        raised_in_test = adapter.channel.fail(error)
        self._emit(adapter, AdapterLost(adapter=adapter.uuid, reason=str(error)))
        if (lease := adapter.held_by) is not None and adapter.role is not None:
            lease.on_lost(adapter.role, error, raised_in_test)
        else:
            self._end(adapter, str(error))
            self._on_change()

    def _failed_outside(self, adapter: Adapter, error: str) -> None:
        """Say what went wrong with an adapter that no case has, where people look: no verdict will."""
        why = f"the {adapter.type} adapter {adapter.uuid} failed while in no case: {single_line(error)}"
        logger.warning("%s", why)
        self.note_missing(adapter.program or adapter.uuid, "adapter", why, adapter.fields)

    def _rivals(self, adapter: Adapter) -> None:
        message = "polls again while a poll is held, several times: do two processes share one uuid?"
        logger.warning("the %s adapter %s %s", adapter.type, adapter.uuid, message)
        self._emit(adapter, Log(adapter=adapter.uuid, level="warning", logger="adapter", message=message))

    def since_exit(self, program: str, *, after_case: bool = False) -> float | None:
        """Return the seconds since the last adapter of a program ended; None if one has not.

        :param after_case: return None also if that adapter was in no case.
        """
        ended, cases = self._exited.get(program, (0.0, 0))
        if program not in self._exited or (after_case and not cases):
            return None
        return self._clock.monotonic() - ended

    def _end(self, adapter: Adapter, reason: str) -> None:
        if adapter.state is not AdapterState.ENDED:
            self._live[adapter.program] -= 1
            if self._live[adapter.program] == 0:
                del self._live[adapter.program]
                self._exited[adapter.program] = self._clock.monotonic(), adapter.cases
            _prune(self._exited)
        reason = truncate(reason, _OUTSIDE)
        adapter.state, adapter.reason = AdapterState.ENDED, reason
        adapter.channel.close(reason)
        self._free.pop(adapter.uuid, None)
        self._silent.discard(adapter.uuid)
        self._ended.add(adapter)
        for oldest in self._ended.surplus():
            gone = self._adapters.pop(oldest).type
            self.known_types[gone] -= 1
            if not self.known_types[gone]:
                del self.known_types[gone]

    def _note(self, message: str, adapter: Adapter | None = None) -> None:
        uuid = adapter.uuid if adapter is not None else None
        self._journal.append(Log(adapter=uuid, logger="pool", message=message))

    def _emit(self, adapter: Adapter, event: Event) -> None:
        """Record an event of an adapter: in its case, while it is leased."""
        if (lease := adapter.held_by) is not None:
            lease.emit(event, role=adapter.role)
        else:
            self._journal.append(event)
