"""Actions of an adapter: typed async methods whose signature says what the wire carries."""

import inspect
import typing
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from trafficlight.errors import AdapterError
from trafficlight.protocol import JsonObject

_DECLARED = "__trafficlight_adapter_action__"

Outcome: TypeAlias = JsonObject | BaseModel | None

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


@dataclass(frozen=True)
class Declared:
    """One action that an adapter can perform.

    :param name: its name on the wire.
    :param method: the async method that performs it.
    """

    name: str
    method: Callable[..., Coroutine[Any, Any, Outcome]]

    @cached_property
    def parameters(self) -> type[BaseModel]:
        """What the wire carries, as a model; a parameter's wire name is its alias, where it has one."""
        hints = typing.get_type_hints(self.method, include_extras=True)
        fields: dict[str, Any] = {}
        for parameter in list(inspect.signature(self.method).parameters.values())[1:]:
            required = parameter.default is inspect.Parameter.empty
            fields[parameter.name] = (hints[parameter.name], ... if required else parameter.default)
        return create_model(self.name, __config__=ConfigDict(extra="ignore"), **fields)

    def arguments(self, data: JsonObject) -> dict[str, Any]:
        """Return the method's keyword arguments out of an action's data. Unknown fields are ignored.

        :raises AdapterError: the data do not fit the signature; values are not shown, they may be secret.
        """
        try:
            checked = self.parameters.model_validate(data)
        except ValidationError as error:
            problems = [
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False)
            ]
            raise AdapterError(f"its data do not fit: {'; '.join(problems)}", action=self.name) from None
        return {name: getattr(checked, name) for name in type(checked).model_fields}

    def response(self, outcome: Outcome) -> JsonObject:
        """Return the response object for what the method returned."""
        if isinstance(outcome, BaseModel):
            outcome = outcome.model_dump(mode="json", by_alias=True)
        return {"response": self.name, **(outcome or {})}


def action(name: str | None = None) -> Callable[[F], F]:
    """Declare a method as the action that this adapter performs under a name.

    The parameters are validated by their annotations; ``Annotated[str, Field(alias="userId")]`` gives one
    another name on the wire. What the method returns (None, a dict or a model) becomes the response.

    :param name: the action's name on the wire; the method's own where it is left out.
    """

    def declare(method: F) -> F:
        setattr(method, _DECLARED, Declared(name or method.__name__, method))
        return method

    return declare


def declared_by(adapter: type) -> dict[str, Declared]:
    """Return the actions that a class declares, by their name on the wire, in the order of the source."""
    found: dict[str, Declared] = {}
    for owner in reversed(adapter.__mro__):
        for member in vars(owner).values():
            declared = getattr(member, _DECLARED, None)
            if isinstance(declared, Declared):
                found[declared.name] = declared
    return found
