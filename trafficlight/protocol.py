"""The wire between coordinator and adapters: what travels over the five adapter endpoints.

Adapters and coordinator share nothing but this module. Everything beyond the original fields is optional, so
that adapters written years ago still run. Unknown fields are kept, never refused.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

JsonObject: TypeAlias = dict[str, Any]

IDLE = "idle"
EXIT = "exit"
RESET = "reset"

TOKEN_VARIABLES = ("TRAFFICLIGHT_ADAPTER_TOKEN", "ADAPTER_TOKEN")
"""Environment variables that hand the shared registration token to an adapter; the second is an old name."""


def _list(value: object) -> object:
    return [] if value is None else value


class Registration(BaseModel):
    """What an adapter registers as.

    Fields that are not listed are kept and shown to people.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    type: str = Field(
        min_length=1, max_length=200, description="What kind of client: `element-web`, for instance."
    )
    version: str | None = Field(default=None, max_length=1000, description="Shown to people.")
    labels: Annotated[list[str], BeforeValidator(_list)] = Field(
        default_factory=list, description="Free words that client types can ask for; null is none."
    )
    actions: list[str] | None = Field(
        default=None, description="The actions it can perform; absent: not declared."
    )
    instance: str | None = Field(
        default=None, max_length=200, description="Names the program, the same each time that it registers."
    )
    instance_secret: str | None = Field(
        default=None,
        max_length=200,
        description="Known to the program only, the same each time: others that register under its `instance`"
        " are other programs then. Never shown.",
    )
    reusable: bool | None = Field(
        default=None, description="It can be used again after a `reset` action, without registering again."
    )
    endpoint: str | None = Field(default=None, description="Network proxies: the base URL for clients.")

    def fields(self) -> JsonObject:
        """Return the JSON object that was sent, without the secret."""
        return self.model_dump(exclude_unset=True, exclude={"instance_secret"})


class Registered(BaseModel):
    """The coordinator's answer to a registration. Old adapters do not read it."""

    uuid: str = Field(description="The id under which the adapter registered.")
    coordinator: str = Field(description="The coordinator's version.")
    poll_hold: float = Field(description="Seconds that a poll is held at most.")
    deadlines: dict[str, float] = Field(description="Seconds: `alive` between polls, `action` to answer.")
    token: str | None = Field(default=None, description="Its own bearer token, where tokens are on.")


class ActionMessage(BaseModel):
    """The answer to a poll: an action to perform, or `idle`, or `exit`."""

    action: str = Field(description="The action's name; `idle` and `exit` are the coordinator's own.")
    data: JsonObject = Field(default_factory=dict, description="The action's parameters.")
    id: str | None = Field(default=None, description="Names it in the response; the same when repeated.")


class Respond(BaseModel):
    """An adapter's answer to its outstanding action."""

    model_config = ConfigDict(extra="allow")

    id: str | None = Field(default=None, description="The id of the action that this answers.")


class Empty(BaseModel):
    """An empty object."""


class Responded(BaseModel):
    """How a response was received."""

    receipt: Literal["accepted", "repeated", "unasked"] = Field(
        description="`accepted`: it answered the outstanding action. `repeated`: that was answered before, "
        "and nothing changed. `unasked`: nothing was outstanding; it is noted in the case's log."
    )
    next: ActionMessage | None = Field(
        default=None, description="What to do next, as from a poll; only if `?next=` asked for it."
    )


class UploadedFile(BaseModel):
    """One file that was received."""

    name: str = Field(description="The name that it was sent with.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Of its content, in hexadecimal.")


class Uploaded(BaseModel):
    """All files of the request; they are on the disk."""

    files: list[UploadedFile]


def _text(value: object) -> object:
    return "" if value is None else value if isinstance(value, str) else str(value)


LenientText: TypeAlias = Annotated[str, BeforeValidator(_text)]


class ErrorBody(BaseModel):
    """What went wrong in an adapter. Every field may be missing or null."""

    model_config = ConfigDict(extra="allow")

    type: LenientText = Field(
        default="unknown",
        description="`action`, or `unknown` during an action: the client failed; `unsupported`: the adapter"
        " cannot do that; anything else: the adapter failed.",
    )
    path: LenientText = Field(default="", description="Where it went wrong, e.g. file and line.")
    details: LenientText = Field(default="", description="What went wrong, in full: message, stack trace.")


class ErrorReport(BaseModel):
    """The body of `POST /client/<uuid>/error`."""

    model_config = ConfigDict(extra="allow")

    error: ErrorBody = Field(default_factory=ErrorBody)
