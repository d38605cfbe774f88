"""The OpenAPI document, built from the routes, their descriptions and the wire's models; and its page."""

import re
from collections.abc import Callable
from http import HTTPStatus
from inspect import getdoc
from typing import Any, TypeAlias

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from quart import Blueprint, Quart, Response, current_app, jsonify, request

from trafficlight.clients.catalogue import brief
from trafficlight.http.api.specs import REFUSALS, OperationSpec, ResponseSpec, spec_of
from trafficlight.http.responses import page, rendered
from trafficlight.http.wire.app import ENDPOINTS
from trafficlight.protocol import JsonObject
from trafficlight.version import VERSION

blueprint = Blueprint("openapi", __name__)

View: TypeAlias = Callable[..., Any]

_REFERENCE = "#/components/schemas/{model}"
_SESSION = {
    "type": "string",
    "pattern": r"^[0-9a-z-]{1,40}$",
    "description": "A session's id, e.g. `2026-11-21--001`, or `latest`.",
}
_PARAMETERS: dict[str, JsonObject] = {
    "uuid": {
        "type": "string",
        "pattern": r"^[A-Za-z0-9_.:-]{1,100}$",
        "description": "The adapter's own id.",
    },
    "adapter": {
        "type": "string",
        "minLength": 1,
        "description": "An adapter's id, or the name of its program.",
    },
    "session": _SESSION,
    "before": _SESSION,
    "after": _SESSION,
    "key": {"type": "string", "pattern": "^[0-9a-f]{16}$", "description": "Names a case of the session."},
    "name": {"type": "string", "minLength": 1, "description": "A path below the session's folder."},
}
_GUARDS = {
    "registration": "The token that the coordinator has as `ADAPTER_TOKEN`.",
    "adapter": "The token in the answer to the adapter's registration.",
    "people": "The token that the coordinator has as `PEOPLE_TOKEN`.",
}


class RefusalBody(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="For programs: lower case, stable.")
    message: str = Field(description="For people: what is wrong, and what would be right.")


class ErrorResponse(BaseModel):
    """The one shape of every refusal."""

    error: RefusalBody


@blueprint.get("/openapi.json")
@OperationSpec("The lab", {200: ResponseSpec("The document.", media_type="application/json")})
async def openapi_json() -> Response:
    """Give this document."""
    return jsonify(document(current_app, request.root_path or "/"))


@blueprint.get("/openapi")
@OperationSpec("The lab", {200: ResponseSpec("The page.", media_type="text/html")})
async def openapi_page() -> Response:
    """Show this document as a page."""
    return page(rendered("openapi.html", document=document(current_app), schema=brief))


def endpoints(app: Quart) -> list[tuple[str, str, str, View]]:
    """Return method, path, id and view of all endpoints, those of adapters included, by path."""
    found: list[tuple[str, str, str, View]] = [
        (method, f"/client/{{uuid}}/{name}", f"adapter_api_{name}", view)
        for name, (method, view) in ENDPOINTS.items()
    ]
    for rule in app.url_map.iter_rules():
        path, view = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), app.view_functions[rule.endpoint]
        methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        found += [(method, path, str(rule.endpoint).replace(".", "_"), view) for method in methods]
    return sorted(found, key=lambda one: one[1])


def document(app: Quart, root: str = "/") -> JsonObject:
    """Return the OpenAPI 3.1 document of an application.

    :param root: the path below which clients find it.
    """
    paths: dict[str, JsonObject] = {}
    models: dict[type[BaseModel], None] = {ErrorResponse: None}
    for method, path, id, view in endpoints(app):
        if (endpoint := spec_of(view)) is None:
            continue
        named = [endpoint.body, *(response.model for response in endpoint.responses.values())]
        models |= dict.fromkeys(model for model in named if model is not None)
        item = paths.setdefault(path, {})
        if arguments := re.findall(r"{(\w+)}", path):
            item["parameters"] = [_path_parameter(name) for name in arguments]
        item[method.lower()] = _operation(id, view, endpoint)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE, title=None
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trafficlight",
            "version": VERSION,
            "summary": "The endpoints for adapters, people and CI.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": text}
                for name, text in _GUARDS.items()
            },
        },
    }


def _path_parameter(name: str) -> JsonObject:
    schema = dict(_PARAMETERS[name])
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": schema.pop("description"),
        "schema": schema,
    }


def _operation(id: str, view: View, endpoint: OperationSpec) -> JsonObject:
    summary, _, more = (getdoc(view) or "").partition("\n")
    operation: JsonObject = {
        "operationId": id,
        "summary": summary,
        "tags": [endpoint.group],
        "responses": _responses(endpoint),
    }
    if more.strip():
        operation["description"] = more.strip()
    if endpoint.query:
        operation["parameters"] = [
            {"name": one.name, "in": "query", "description": one.description, "schema": dict(one.schema)}
            for one in endpoint.query
        ]
    if endpoint.body is not None:
        content = {"application/json": {"schema": _reference(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.form is not None:
        content = {endpoint.form_type: {"schema": dict(endpoint.form)}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.guard is not None:
        # The empty alternative: tokens may be disabled.
        operation["security"] = [{}, {endpoint.guard: []}]
    return operation


def _responses(endpoint: OperationSpec) -> dict[str, JsonObject]:
    found: dict[str, JsonObject] = {}
    for status, answer in endpoint.responses.items():
        found[str(status)] = {"description": answer.description}
        if answer.media_type is not None:
            content = {"schema": _reference(answer.model)} if answer.model is not None else {}
            found[str(status)]["content"] = {answer.media_type: content}
    refused = {"application/json": {"schema": _reference(ErrorResponse)}}
    if endpoint.guard in (None, "people"):
        refused["text/html"] = {"schema": {"type": "string"}}
    for status in endpoint.refusals:
        found[str(status)] = {"description": REFUSALS[HTTPStatus(status)], "content": refused}
    return dict(sorted(found.items()))


def _reference(model: type[BaseModel]) -> JsonObject:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
