"""Actions, declared once: a typed async method whose signature is the wire and whose docstring is the manual.

`@action()` turns such a declaration into the call: it binds and validates the arguments, sends the action to
the adapter, and validates the answer. The action catalogue is generated from the same declarations.
"""

import inspect
import typing
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Annotated, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from trafficlight.errors import AdapterError
from trafficlight.protocol import JsonObject
from trafficlight.text import first_problem

P = ParamSpec("P")
R = TypeVar("R")

_DECLARED = "__trafficlight_action__"


@dataclass(frozen=True, slots=True)
class Wire:
    """A parameter's name on the wire, where it differs: ``user_id: Annotated[str, Wire("userId")]``."""

    name: str


class Performer(Protocol):
    """The class that declares an action."""

    async def _perform(self, action: str, data: JsonObject) -> JsonObject: ...

    @property
    def name(self) -> str:
        """The role."""


S = TypeVar("S", bound=Performer)


@dataclass(frozen=True)
class Parameter:
    """One parameter of an action.

    :param python: its name in the method.
    :param wire: its name on the wire.
    :param annotation: its type, as pydantic reads it.
    :param default: its default; ``inspect.Parameter.empty`` where it is required.
    """

    python: str
    wire: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether every message carries it."""
        return self.default is inspect.Parameter.empty

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Validate and serialise values of this parameter."""
        return TypeAdapter(self.annotation)


@dataclass(frozen=True)
class Action:
    """An action: its name on the wire, its parameters and its answer.

    :param name: the action's name on the wire.
    :param method: the method that declares it.
    :param answer_in: the key of the response that holds the answer; None if the whole response is the answer.
    """

    name: str
    method: Callable[..., Any]
    answer_in: str | None = None

    @cached_property
    def documentation(self) -> str:
        """The manual: what it does, and what holds when it returns."""
        return inspect.getdoc(self.method) or ""

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters, in the order of the signature."""
        hints = typing.get_type_hints(self.method, include_extras=True)
        found = []
        for parameter in list(self._signature.parameters.values())[1:]:
            annotation, wire = hints[parameter.name], parameter.name
            if get_origin(annotation) is Annotated:
                wire = next((extra.name for extra in get_args(annotation) if isinstance(extra, Wire)), wire)
            found.append(Parameter(parameter.name, wire, annotation, parameter.default))
        return tuple(found)

    @cached_property
    def answer(self) -> Any:
        """The answer's type; ``None`` if any response is accepted."""
        found = typing.get_type_hints(self.method, include_extras=True).get("return")
        return None if found is type(None) else found

    @cached_property
    def _answer_adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.answer)

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.method)

    def prepare(self) -> None:
        """Do ahead what the first call would have to wait for."""
        for parameter in self.parameters:
            parameter.adapter.rebuild()
        if self.answer is not None:
            self._answer_adapter.rebuild()

    def data(self, *args: Any, **kwargs: Any) -> JsonObject:
        """Return the data of a call with these arguments; omit optional parameters that are None.

        :raises TypeError: the arguments do not fit the signature.
        :raises ValueError: a value is not of the declared type.
        """
        bound = self._signature.bind(None, *args, **kwargs)
        bound.apply_defaults()
        data = {}
        for parameter in self.parameters:
            value = bound.arguments[parameter.python]
            if value is None and not parameter.required:
                continue
            try:
                checked = parameter.adapter.validate_python(value)
            except ValidationError as error:
                raise ValueError(
                    f"{self.name}: {parameter.python}={value!r}: {first_problem(error)[1]}"
                ) from None
            data[parameter.wire] = parameter.adapter.dump_python(checked, mode="json")
        return data

    def read(self, response: JsonObject, *, role: str = "") -> Any:
        """Return the answer out of a response.

        :raises AdapterError: the response does not hold what this action is declared to answer.
        """
        if self.answer is None:
            return None
        if self.answer_in is not None and self.answer_in not in response:
            raise AdapterError(
                f"the response has no {self.answer_in!r}: {response}", role=role, action=self.name
            )
        value = response if self.answer_in is None else response[self.answer_in]
        try:
            return self._answer_adapter.validate_python(value)
        except ValidationError as error:
            where, problem = first_problem(error)
            message = f"the response does not fit: {where + ': ' if where else ''}{problem}"
            raise AdapterError(message, role=role, action=self.name) from None


def action(
    name: str | None = None, *, answer_in: str | None = None
) -> Callable[
    [Callable[Concatenate[S, P], Awaitable[R]]], Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
]:
    """Declare an action. The body of the method never runs.

    :param name: the action's name on the wire; by default the method's name.
    :param answer_in: the key of the response that holds the answer.
    """

    def declare(
        method: Callable[Concatenate[S, P], Awaitable[R]],
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
        declared = Action(name or method.__name__.lstrip("_"), method, answer_in)

        @wraps(method)
        async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            response = await self._perform(declared.name, declared.data(*args, **kwargs))
            return cast("R", declared.read(response, role=self.name))

        setattr(call, _DECLARED, declared)
        return call

    return declare


def actions_of(client: type) -> dict[str, Action]:
    """Return the actions that a client class declares, by their name on the wire, in their order."""
    found: dict[str, Action] = {}
    for owner in reversed(client.__mro__):
        for member in vars(owner).values():
            declared = getattr(member, _DECLARED, None)
            if isinstance(declared, Action):
                found[declared.name] = declared
    return found
