"""Metrics for Prometheus: counters of events, and gauges of the present state."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from trafficlight.results.events import (
    ActionAnswered,
    ActionFailed,
    AdapterLeased,
    AdapterLost,
    AdapterRegistered,
    AdapterReleased,
    CaseEnded,
    CasePlanned,
    CaseState,
    Event,
    ServerFailed,
    ServerReady,
    SessionEnded,
    State,
    kinds,
)
from trafficlight.results.journal import Journal, Reader

# Type names that get a label of their own; adapters must not be able to create any number of time series.
_MOST_TYPES = 50
# Characters of a type's name.
_LONGEST_NAME = 100
_OTHER = "other"
# Buckets, in seconds. An action takes milliseconds, or as long as its deadline.
_ACTION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PROVISION = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_WAIT = (0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)


class BoundedLabels:
    """A bounded set of label values: the first `most` names keep theirs, all others share one."""

    def __init__(self, most: int = _MOST_TYPES) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, name: object) -> str:
        """Return the label value for a name."""
        text = str(name)[:_LONGEST_NAME].encode("utf-8", "replace").decode()
        if text not in self._known and len(self._known) < self._most:
            self._known.add(text)
        return text if text in self._known else _OTHER


class Metrics:
    """Counts what the events of a journal say."""

    def __init__(self, journal: Journal) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Events(journal))
        self._adapter_types, self._server_types = BoundedLabels(), BoundedLabels()
        self._type_of: dict[str, str] = {}  # of adapters that have not ended
        # Since when cases wait, by session and case.
        self._waits: dict[tuple[str, str], datetime] = {}
        self._ended = self._counter("cases_ended", "Cases that ended, by their last state.", "state")
        self._retried = self._counter("attempts_retried", "Attempts that another one follows.")
        self._registered = self._counter("adapters_registered", "Registrations of adapters.", "type")
        self._lost = self._counter("adapters_lost", "Adapters that failed or went silent.", "type")
        self._failed = self._counter("homeservers_failed", "Homeservers that could not be provided.")
        self._action = self._histogram(
            "action_seconds",
            "From asking a client for an action to its answer.",
            _ACTION,
            "type",
            "outcome",
        )
        self._provision = self._histogram(
            "homeserver_provision_seconds", "Until a homeserver answered.", _PROVISION, "type"
        )
        self._waited = self._histogram(
            "case_wait_seconds", "From being planned, or tried before, to the start of an attempt.", _WAIT
        )

        readers: dict[type[Event], Reader] = {
            CasePlanned: self._case_planned,
            CaseState: self._case_state,
            CaseEnded: self._case_ended,
            SessionEnded: self._session_ended,
            AdapterRegistered: self._adapter_registered,
            AdapterLeased: self._learn_type,
            AdapterReleased: self._adapter_released,
            AdapterLost: self._adapter_lost,
            ActionAnswered: self._action_ended,
            ActionFailed: self._action_ended,
            ServerReady: self._server_ready,
            ServerFailed: lambda _: self._failed.inc(),
        }
        for kind, reader in readers.items():
            journal.subscribe(reader, (kind,))

    def exposition(
        self,
        *,
        cases: Mapping[State, int],
        sessions: int,
        adapters: Mapping[tuple[str, str], int],
        oldest: Sequence[float],
        stalled: float,
        drained: bool,
    ) -> bytes:
        """Return all metrics in the Prometheus text format.

        :param cases: cases of sessions that have not ended, by state.
        :param sessions: sessions that have not ended.
        :param adapters: the number of adapters by type and state, without those that have ended.
        :param oldest: seconds that the head of each queue has waited.
        :param stalled: seconds that cases have waited while none ran.
        :param drained: whether no adapter gets a new case.
        """
        now = CollectorRegistry()

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(f"trafficlight_{name}", documentation, labels, registry=now)

        by_state = gauge("cases", "Cases of sessions that have not ended.", "state")
        for state in State:
            by_state.labels(state.value).set(cases.get(state, 0))
        by_type = gauge("adapters", "Adapters that are registered.", "type", "state")
        for (kind, name), number in adapters.items():
            by_type.labels(self._adapter_types.label(kind), name).inc(number)
        ages = sorted(oldest)
        gauge("queues", "Groups of waiting cases with the same needs.").set(len(ages))
        age = gauge("queue_age_seconds", "How long the heads of the queues have waited.", "statistic")
        age.labels("median").set(ages[len(ages) // 2] if ages else 0.0)
        age.labels("max").set(ages[-1] if ages else 0.0)
        gauge("sessions", "Sessions that have not ended.").set(sessions)
        gauge("standstill_seconds", "How long cases have waited while none ran.").set(stalled)
        gauge("drained", "1 while no adapter gets a new case.").set(drained)
        return generate_latest(self._registry) + generate_latest(now)

    def _case_planned(self, event: CasePlanned) -> None:
        if event.skip is None:
            self._waits[event.session, event.case] = event.time

    def _case_state(self, event: CaseState) -> None:
        if (since := self._waits.pop((event.session, event.case), None)) is not None:
            self._waited.observe(max(0.0, (event.time - since).total_seconds()))

    def _case_ended(self, event: CaseEnded) -> None:
        key = (event.session, event.case)
        self._waits.pop(key, None)
        if event.will_retry:
            self._retried.inc()
            self._waits[key] = event.time
        else:
            self._ended.labels(event.state.value).inc()

    def _session_ended(self, event: SessionEnded) -> None:
        for key in [key for key in self._waits if key[0] == event.session]:
            del self._waits[key]

    def _learn_type(self, event: AdapterRegistered | AdapterLeased) -> None:
        self._type_of[event.adapter] = self._adapter_types.label(event.registration.get("type", ""))

    def _adapter_registered(self, event: AdapterRegistered) -> None:
        self._learn_type(event)
        self._registered.labels(self._type_of[event.adapter]).inc()

    def _adapter_released(self, event: AdapterReleased) -> None:
        self._type_of.pop(event.adapter, None)

    def _adapter_lost(self, event: AdapterLost) -> None:
        self._lost.labels(self._type_of.get(event.adapter, _OTHER)).inc()
        if event.case is None:  # one in a case is released after that
            self._type_of.pop(event.adapter, None)

    def _action_ended(self, event: ActionAnswered | ActionFailed) -> None:
        kind = self._type_of.get(event.adapter or "", _OTHER)
        outcome = "failed" if isinstance(event, ActionFailed) else "answered"
        self._action.labels(kind, outcome).observe(event.seconds)

    def _server_ready(self, event: ServerReady) -> None:
        self._provision.labels(self._server_types.label(event.type)).observe(event.seconds)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"trafficlight_{name}", documentation, labels, registry=self._registry)

    def _histogram(
        self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"trafficlight_{name}", documentation, labels, buckets=buckets, registry=self._registry
        )


class _Events(Collector):
    """How many events the journal has counted."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def collect(self) -> Iterable[Metric]:
        """Yield the metric."""
        events = CounterMetricFamily("trafficlight_events", "Events in the journal.", labels=["kind"])
        for event in kinds():
            events.add_metric([event.kind], self._journal.counts.get(event, 0))
        yield events
