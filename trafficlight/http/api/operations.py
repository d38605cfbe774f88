"""For those who run the lab: is it up, is it ready, and its numbers."""

import asyncio
from collections import Counter
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from quart import Blueprint, Quart, Response, current_app, jsonify, request

from trafficlight.coordinator.adapter import AdapterState
from trafficlight.coordinator.lab import Lab
from trafficlight.http.api.described import Answer, Endpoint, described
from trafficlight.http.context import current_lab, log_context_of
from trafficlight.http.schemas import Health
from trafficlight.http.security import require_people
from trafficlight.logs import LogContext
from trafficlight.results.events import State
from trafficlight.results.metrics import Standing
from trafficlight.version import VERSION

blueprint = Blueprint("operations", __name__)


class Readiness(BaseModel):
    """Whether the lab can run cases."""

    ready: bool
    reasons: list[str] = Field(description="Why not; empty where it is ready.")


def install_log_context(app: Quart) -> None:
    """Let what is logged while a request is handled say which adapter or session it is about."""

    @app.before_request
    async def enter() -> None:
        named = request.view_args or {}
        uuid, session = str(named.get("uuid", "")), str(named.get("session", ""))
        if not uuid:
            LogContext(session=session).enter()
            return
        adapter = current_lab().engine.pool.known(uuid)
        (LogContext(adapter=uuid[:100]) if adapter is None else log_context_of(adapter)).enter()


@blueprint.get("/health", endpoint="health")
@blueprint.get("/healthz")
@described(Endpoint("The lab", {200: Answer("It is up.", Health)}))
async def healthz() -> Response:
    """Tell that the coordinator is up: live, for an orchestrator; asks for no token. Both paths are one."""
    return jsonify(Health(status="ok", version=VERSION).model_dump())


@blueprint.get("/readyz")
@described(
    Endpoint("The lab", {200: Answer("It is ready.", Readiness), 503: Answer("It is not.", Readiness)})
)
async def readyz() -> Response:
    """Tell whether cases can run: engine, workers and journal are at work; asks for no token."""
    reasons = _unready(current_lab())
    answer = jsonify(Readiness(ready=not reasons, reasons=reasons).model_dump())
    answer.status_code = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    return answer


@blueprint.get("/metrics")
@described(
    Endpoint("The lab", {200: Answer("The numbers.", media_type="text/plain")}, (401,), guard="people")
)
async def metrics() -> Response:
    """Give the lab's numbers in Prometheus's text format."""
    lab = current_lab()
    await require_people()
    standing = _standing(lab)
    text = await asyncio.to_thread(lab.metrics.exposition, lambda: standing)
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def _unready(lab: Lab) -> list[str]:
    reasons = []
    if lab.engine.stopping:
        reasons.append(f"the coordinator is ending: {lab.engine.stopping}")
    elif not lab.engine.alive:
        reasons.append("the engine does not run")
    if lab.workers is not None and not lab.workers.pids:
        reasons.append("no worker process is up")
    reasons += [session.writer.trouble for session in lab.engine.sessions.values() if session.writer.trouble]
    if (server := current_app.config.get("SERVER")) is not None and server.blocked:
        reasons.append(f"no new connections are accepted: {server.blocked}")
    return reasons


def _standing(lab: Lab) -> Standing:
    """Return what there is right now, from the records that the lab works with."""
    cases: Counter[State] = Counter()
    open_sessions = [one for one in lab.engine.sessions.values() if one.record.ended is None]
    oldest: list[float] = []
    for session in open_sessions:
        cases.update(session.record.counts)
        oldest += [waiting.age for waiting in session.candidates(1)]
    adapters: Counter[tuple[str, str]] = Counter()
    for adapter in lab.engine.pool:
        if adapter.state is not AdapterState.ENDED:
            state = "quarantined" if adapter.quarantined else "paused" if adapter.paused else adapter.state
            adapters[adapter.type, str(state)] += 1
    return Standing(
        cases=cases,
        sessions=len(open_sessions),
        adapters=adapters,
        oldest=oldest,
        still=lab.engine.standstill.seconds,
        drained=bool(lab.engine.pool.drained),
    )
