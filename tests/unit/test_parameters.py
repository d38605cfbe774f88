"""Decorators for parameters, stacked in ducktape's sense."""

from collections.abc import Callable
from typing import Any

import pytest

from trafficlight.parameters import defaults, ignore, matrix, parameter_sets, parametrize


def sets(*decorators: Callable[..., Any]) -> list[tuple[dict[str, Any], str | None]]:
    """Return what a test runs with under decorators that are given from the top down."""

    async def run() -> None: ...

    for decorator in reversed(decorators):
        decorator(run)
    return [(dict(one.values), one.ignored) for one in parameter_sets(run)]


def values(*decorators: Callable[..., Any]) -> list[tuple[Any, ...]]:
    return [tuple(one.values()) for one, _ in sets(*decorators)]


def ignored(*decorators: Callable[..., Any]) -> list[str | None]:
    return [reason for _, reason in sets(*decorators)]


def test_without_decorators_it_runs_once() -> None:
    assert sets() == [({}, None)]


def test_each_parametrize_is_one_more() -> None:
    assert values(parametrize(x=1, y=2), parametrize(x=3, y=4)) == [(1, 2), (3, 4)]


def test_a_matrix_is_a_product_in_the_order_of_the_source() -> None:
    assert values(matrix(x=[1, 2], y=["ab", "c"])) == [(1, "ab"), (1, "c"), (2, "ab"), (2, "c")]


def test_they_add_up() -> None:
    assert values(matrix(x=range(2)), parametrize(x=7), matrix(x=(8, 9))) == [(0,), (1,), (7,), (8,), (9,)]


def test_defaults_fill_what_is_left_open_wherever_they_stand() -> None:
    stack = (matrix(x=[1], y=[1, 2]), parametrize(x=3, y=4), parametrize(x=3, y=4, z=999))
    expected = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (3, 4, 1), (3, 4, 2), (3, 4, 999)]
    assert values(defaults(z=[1, 2]), *stack) == values(*stack, defaults(z=[1, 2])) == expected
    assert values(defaults(z=[1, 2])) == [(1,), (2,)]
    assert values(defaults(z=[1]), defaults(w=[2, 3])) == [(2, 1), (3, 1)]


def test_ignore_takes_out_everything_below_it() -> None:
    assert ignored(ignore) == ["ignored"]
    assert ignored(ignore, matrix(x=[1, 2])) == ["ignored", "ignored"]
    assert ignored(parametrize(x=1), ignore, parametrize(x=2)) == [None, "ignored"]
    assert ignored(parametrize(x=1), ignore("why")) == ["why"]
    assert ignored(ignore(), defaults(x=[1, 2])) == ["ignored", "ignored"]


def test_ignore_with_values_takes_out_what_has_them() -> None:
    stack = matrix(x=[1, 2], y=[1, 2])
    assert ignored(ignore(x=2), stack) == [None, None, "ignored for x=2", "ignored for x=2"]
    assert ignored(ignore("slow", x=2, y=1), stack) == [None, None, "slow", None]
    assert ignored(ignore(x=1, z=5), defaults(z=[5, 6]), parametrize(x=1)) == ["ignored for x=1, z=5", None]


def test_ignore_above_a_class_takes_out_the_class_and_no_subclass() -> None:
    @ignore("not yet")
    class Base:
        @matrix(x=[1, 2])
        async def run(self) -> None: ...

    class Derived(Base): ...

    assert [one.ignored for one in parameter_sets(Base.run, Base)] == ["not yet", "not yet"]
    assert [one.ignored for one in parameter_sets(Derived.run, Derived)] == [None, None]


def test_an_ignore_that_means_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"@ignore\(x=3\) matches none"):
        sets(ignore(x=3), matrix(x=[1, 2]))


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: matrix(x=1),  # type: ignore[arg-type]
        lambda: matrix(x="text"),
        lambda: matrix(x=[]),
        lambda: defaults(x=3),  # type: ignore[arg-type]
        matrix,
        defaults,
        parametrize,
        lambda: ignore(1, 2),
        lambda: matrix(x=[1])(type("A", (), {})),
    ],
)
def test_mistakes_are_told_at_once(mistake: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="@"):
        mistake()


def test_the_values_of_a_set_have_one_order() -> None:
    @matrix(name={"carol", "alice", "bob"})
    async def run(self: object, name: str) -> None: ...

    assert [one.values["name"] for one in parameter_sets(run)] == ["alice", "bob", "carol"]
