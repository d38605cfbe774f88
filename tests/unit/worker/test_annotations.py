"""The annotation of a role is evaluated by itself."""

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from trafficlight.clients import ElementCallClient, MatrixClient
from trafficlight.worker.execution import annotation_of

FUTURE = "from __future__ import annotations\n"
HEAD = "import typing\nfrom trafficlight.clients import ElementCallClient, MatrixClient\n"


def method(signature: str, prelude: str = "") -> Callable[..., Any]:
    source = prelude + HEAD + f"async def run(self, {signature}): ...\n"
    found: dict[str, Any] = {}
    exec(compile(textwrap.dedent(source), "a_test.py", "exec", dont_inherit=True), found)
    run: Callable[..., Any] = found["run"]
    return run


@pytest.mark.parametrize("prelude", ["", FUTURE])
def test_a_class_is_found(prelude: str) -> None:
    run = method("alice: ElementCallClient, bob: 'MatrixClient', carol", prelude)
    assert annotation_of(run, "alice") is ElementCallClient
    assert annotation_of(run, "carol") is None
    assert annotation_of(run, "nobody") is None
    if not prelude:
        assert annotation_of(run, "bob") is MatrixClient


@pytest.mark.parametrize("wrong", ["OnlyForTypeCheckers", "typing.NoSuchName", "1 / 0", "not python"])
def test_one_that_cannot_be_evaluated_costs_no_other(wrong: str) -> None:
    run = method(f"alice: ElementCallClient, bob: '{wrong}'", FUTURE if " " not in wrong else "")
    assert annotation_of(run, "alice") is ElementCallClient
    assert annotation_of(run, "bob") in (None, wrong)


def test_a_wrapped_method_has_the_annotations_of_the_original() -> None:
    import functools

    original = method("alice: ElementCallClient")

    @functools.wraps(original)
    async def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert annotation_of(wrapper, "alice") is ElementCallClient
