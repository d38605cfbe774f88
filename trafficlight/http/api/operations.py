"""For those who run the lab: is it up, is it ready, and its numbers."""

import asyncio
from collections import Counter
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from quart import Blueprint, Quart, Response, current_app, jsonify, request

from trafficlight.coordinator.adapter import AdapterState
from trafficlight.coordinator.lab import Lab
from trafficlight.http.api.specs import OperationSpec, ResponseSpec
from trafficlight.http.requests import current_lab
from trafficlight.http.security import require_people
from trafficlight.logs import LogContext
from trafficlight.results.events import State
from trafficlight.version import VERSION

blueprint = Blueprint("operations", __name__)


class Health(BaseModel):
    """The lab is up."""

    status: Literal["ok"]
    version: str = Field(description="The coordinator's version.")


class Readiness(BaseModel):
    """Whether the lab can run cases."""

    ready: bool
    reasons: list[str] = Field(description="Why not; empty where it is ready.")


def install_log_context(app: Quart) -> None:
    """Let what is logged while a request is handled say which adapter or session it is about."""

    @app.before_request
    async def enter() -> None:
        named = request.view_args or {}
        name, session = str(named.get("adapter", "")), str(named.get("session", ""))
        if not name:
            LogContext(session=session).enter()
            return
        adapter = current_lab().engine.pool.named(name)
        (LogContext(adapter=name[:100]) if adapter is None else adapter.log_context).enter()


@blueprint.get("/health", endpoint="health")
@blueprint.get("/healthz")
@OperationSpec("The lab", {200: ResponseSpec("It is up.", Health)})
async def healthz() -> Response:
    """Liveness: the coordinator is up. Needs no token. Both paths do the same."""
    return jsonify(Health(status="ok", version=VERSION).model_dump())


@blueprint.get("/readyz")
@OperationSpec(
    "The lab", {200: ResponseSpec("It is ready.", Readiness), 503: ResponseSpec("It is not.", Readiness)}
)
async def readyz() -> Response:
    """Readiness: whether cases can run, that is engine, workers and journal work. Needs no token."""
    reasons = unready(current_lab())
    answer = jsonify(Readiness(ready=not reasons, reasons=reasons).model_dump())
    answer.status_code = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    return answer


@blueprint.get("/metrics")
@OperationSpec(
    "The lab", {200: ResponseSpec("The numbers.", media_type="text/plain")}, (401,), guard="people"
)
async def metrics() -> Response:
    """Give the lab's numbers in Prometheus's text format."""
    lab = current_lab()
    await require_people()
    text = await asyncio.to_thread(partial(lab.metrics.exposition, **_present(lab)))
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def unready(lab: Lab) -> list[str]:
    """Return why a lab cannot work; empty if it can."""
    reasons = []
    if lab.engine.stopping:
        reasons.append(f"the coordinator is shutting down: {lab.engine.stopping}")
    elif not lab.engine.alive:
        reasons.append("the engine does not run")
    if lab.workers is not None and not lab.workers.pids:
        reasons.append("no worker process is up")
    reasons += [session.writer.trouble for session in lab.engine.sessions.values() if session.writer.trouble]
    if (server := current_app.config.get("SERVER")) is not None and server.blocked:
        reasons.append(f"no new connections are accepted: {server.blocked}")
    return reasons


def _present(lab: Lab) -> dict[str, Any]:
    """Return what there is right now, from the records that the lab works with."""
    cases: Counter[State] = Counter()
    open_sessions = [one for one in lab.engine.sessions.values() if one.record.ended is None]
    oldest: list[float] = []
    now = lab.clock.monotonic()
    for session in open_sessions:
        cases.update(session.record.counts)
        oldest += [now - next(iter(group.cases.values())).since for group in session.startable]
    adapters: Counter[tuple[str, str]] = Counter()
    for adapter in lab.engine.pool:
        if adapter.state is not AdapterState.ENDED:
            state = "quarantined" if adapter.quarantined else "paused" if adapter.paused else adapter.state
            adapters[adapter.type, str(state)] += 1
    return {
        "cases": cases,
        "sessions": len(open_sessions),
        "adapters": adapters,
        "oldest": oldest,
        "stalled": lab.engine.stalled.seconds,
        "drained": bool(lab.engine.pool.drained),
    }
