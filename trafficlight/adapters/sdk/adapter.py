"""What an adapter author subclasses."""

import difflib
import inspect
import os
import typing
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from trafficlight.errors import AdapterError, LabError, TrafficlightError
from trafficlight.protocol import JsonObject, Registration
from trafficlight.text import in_plain_words


class ActionFailed(TrafficlightError):  # noqa: N818 - an outcome, not a defect of the program
    """The client did the wrong thing: the case fails.

    The message says what was expected and what was seen instead.
    """


class UnsupportedActionError(TrafficlightError):
    """This adapter does not support the action; that says nothing about the client."""


class ReportedError(TrafficlightError):
    """An error that a program behind this adapter reports; it is passed on without a stack trace.

    :param details: what went wrong, in full.
    :param kind: ``action``, the client did the wrong thing; ``unsupported``; anything else is the program's
        own fault.
    :param path: where it went wrong.
    """

    def __init__(self, details: str, *, kind: str = "adapter", path: str = "") -> None:
        self.kind = kind if kind in ("action", "unsupported") else "adapter"
        self.path = path
        super().__init__(details)


class RegistrationRefusedError(LabError):
    """The coordinator refused the registration; a retry would not help.

    :param status: the HTTP status of its answer.
    :param reason: what it said.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        hint = " (is the registration token right?)" if status == 401 else ""
        super().__init__(f"the coordinator refused the registration: {status} {reason}{hint}")


class CoordinatorUnreachableError(LabError):
    """The coordinator did not answer within the configured time.

    :param url: where it was expected.
    :param seconds: how long it was tried.
    :param trouble: what happened at the last try.
    """

    def __init__(self, url: str, seconds: float, trouble: str) -> None:
        self.url = url
        self.seconds = seconds
        self.trouble = trouble
        super().__init__(f"no answer from {url} for {seconds:.0f} s: {trouble}")


class RegistrationLostError(LabError):
    """The coordinator does not know this uuid (any more): register under a new one."""


class Context(Protocol):
    """The registration, as an adapter uses it."""

    @property
    def uuid(self) -> str:
        """The id under which this adapter is registered."""
        ...

    @property
    def action_deadline(self) -> float | None:
        """Seconds that the coordinator gives an action; None where it does not say."""
        ...

    @property
    def storage(self) -> Path:
        """A folder for what the client stores. It is deleted with the registration; of a driver, it is there
        again when its process is started again."""
        ...

    async def upload(self, path: Path, name: str | None = None) -> str:
        """Send a file to the case's results, streaming from the disk, and return the name it has there.

        Connection trouble is retried. A refusal is no reason to end a case: it is logged, and the results get
        `NAME.not-uploaded.txt`, which says why.

        :param path: the file.
        :param name: the name it is to have; by default its own.
        :raises OSError: it cannot be read.
        """
        ...


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
                f"{'.'.join(str(part) for part in problem['loc'])}: {in_plain_words(problem)}"
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


class Adapter:
    """A program that drives one client for one registration. A fresh object each time, so nothing survives.

    Subclasses set :attr:`type`, declare methods with :func:`~trafficlight.adapters.sdk.action`, and release
    their resources in :meth:`close`.
    """

    type: ClassVar[str]
    """What kind of client this is, on the wire."""

    labels: ClassVar[Sequence[str]] = ()
    """Free words that client types can ask for."""

    reusable: ClassVar[bool] = False
    """Whether its action `reset` restores its initial state, so that it need not register again."""

    killable: ClassVar[bool] = False
    """Whether it performs `kill` also while it performs another action, which then ends."""

    actions: ClassVar[Mapping[str, Declared]] = {}
    """What it can perform, by name on the wire; filled from the declared methods."""

    version: str | None = None
    """The client's version, shown to people."""

    context: Context
    """Set before the first action."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.actions = declared_by(cls)

    async def open(self) -> None:
        """Get the client ready. Runs before the registration, so that the first action finds it ready."""

    async def close(self) -> None:
        """Release the client's resources. Always called once, also when :meth:`open` failed."""

    async def watch(self) -> None:
        """Raise when the client is lost while no action is outstanding; returning means that none can be.

        Runs beside the polls. The registration ends at once, with an error report.
        """

    def registration(self) -> Registration:
        """Return the registration; a subclass may add fields."""
        return Registration(
            type=self.type,
            version=self.version,
            labels=list(self.labels),
            actions=list(self.actions),
            reusable=self.reusable or None,
            # The process's supervisor sets it, to know which adapters exit with the process.
            instance=os.environ.get("TRAFFICLIGHT_INSTANCE"),
            instance_secret=os.environ.get("TRAFFICLIGHT_INSTANCE_SECRET"),
        )

    async def perform(self, name: str, data: JsonObject) -> JsonObject:
        """Perform an action and return the response object.

        :raises UnsupportedActionError: this adapter has no such action.
        :raises ActionFailed: the client did the wrong thing.
        """
        declared = self.actions.get(name)
        if declared is None:
            close = difflib.get_close_matches(name, self.actions, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UnsupportedActionError(f"{self.type} does not support this action{hint}")
        outcome = await declared.method(self, **declared.arguments(data))
        return declared.response(outcome)
