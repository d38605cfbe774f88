"""The document says what the endpoints do: checked by validators, the routes, and many requests."""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from openapi_spec_validator import OpenAPIV31SpecValidator
from quart import Quart
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.integration.http.conftest import HttpHarness, Opener
from trafficlight.http.api.openapi import endpoints
from trafficlight.http.api.specs import spec_of
from trafficlight.http.app import create_app

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "http.md"
METHODS = ("get", "post", "put", "patch", "delete")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture
def app() -> Quart:
    return create_app()


def documented(app: Quart) -> set[tuple[str, str]]:
    """Return the endpoints, as people write them."""
    return {(method, path) for method, path, _, _ in endpoints(app) if path != "/static/{name}"}


async def test_the_document_is_valid(site: HttpHarness) -> None:
    OpenAPIV31SpecValidator((await site.get("/openapi.json")).json()).validate()


def test_every_endpoint_is_described(app: Quart) -> None:
    for _, path, _, view in endpoints(app):
        assert view.__doc__, path
        assert spec_of(view) is not None or path.startswith("/static/"), path


async def test_the_document_has_every_endpoint(app: Quart, site: HttpHarness) -> None:
    paths = (await site.get("/openapi.json")).json()["paths"]
    found = {(method.upper(), path) for path, item in paths.items() for method in item if method in METHODS}
    assert found == documented(app)


def test_the_reference_has_every_endpoint(app: Quart) -> None:
    found = set(re.findall(r"^### `(\w+) (\S+)`$", REFERENCE.read_text(), re.MULTILINE))
    assert found == documented(app)


async def test_the_page_shows_every_endpoint(app: Quart, site: HttpHarness) -> None:
    text = (await site.get("/openapi")).text()
    for method, path in documented(app):
        assert f'<span class="verb-name">{method}</span> {path}' in text


def test_every_code_is_in_the_reference() -> None:
    sources = Path(create_app.__code__.co_filename).parent.rglob("*.py")
    text = "".join(path.read_text() for path in sources)
    codes = set(re.findall(r'HTTPStatus\.\w+,\s*"(\w+)"', text))
    assert len(codes) > 10
    assert codes <= set(re.findall(r"`(\w+)`", REFERENCE.read_text()))


# Adapters and a session that exist, so that requests get further than a 404.
KNOWN = {"uuid": "known", "adapter": "known", "key": "0" * 16, "name": "events.jsonl"}
KNOWN |= dict.fromkeys(("session", "before", "after"), "latest")


# Some two thousand requests: a matter of minutes on a busy machine.
@pytest.mark.timeout(900)
async def test_many_requests_do_what_the_document_says(opener: Opener, tmp_path: Path) -> None:
    """Drive the live server with everything that the document allows, and with much that it does not."""
    # Sessions that ask for nothing in particular run this.
    site = await opener(poll_hold=0.01, tests=[str(tmp_path / "talk_test.py")])
    await site.post("/client/known/register", json={"type": "nio"})
    await site.start("await alice.perform('one')")
    document = (await site.get("/openapi.json")).json()
    await asyncio.to_thread(_drive, document, site.url)
    assert (await site.get("/health")).status == 200


def _drive(document: dict[str, Any], url: str) -> None:
    schema = schemathesis.openapi.from_dict(document)
    with requests.Session() as session:
        session.trust_env = False
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            known = {one.name: KNOWN[one.name] for one in operation.path_parameters}
            for mode in GenerationMode:
                for path in (known, None):
                    # Where nothing can be wrong there are no wrong requests.
                    with contextlib.suppress(Unsatisfiable):
                        _send(operation.as_strategy(mode, path_parameters=path), session, url)


def _send(cases: SearchStrategy[Any], session: requests.Session, url: str) -> None:
    @settings(
        max_examples=10,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def send(case: Any) -> None:
        case.call_and_validate(url, session, checks=CHECKS, allow_redirects=False)

    send()
