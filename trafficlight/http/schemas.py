"""Bodies of responses that are not the wire's own messages."""

from typing import Literal

from pydantic import BaseModel, Field


class RefusalBody(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="For programs: lower case, stable.")
    message: str = Field(description="For people: what is wrong, and what would be right.")


class ErrorResponse(BaseModel):
    """The one shape of every refusal."""

    error: RefusalBody


class Empty(BaseModel):
    """An empty object."""


class Responded(BaseModel):
    """How a response was received."""

    receipt: Literal["accepted", "repeated", "unasked"] = Field(
        description="`accepted`: it answered the outstanding action. `repeated`: that was answered before, "
        "and nothing changed. `unasked`: nothing was outstanding; it is noted in the case's log."
    )


class UploadedFile(BaseModel):
    """One file that was received."""

    name: str = Field(description="The name that it was sent with.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Of its content, in hexadecimal.")


class Uploaded(BaseModel):
    """All files of the request; they are on the disk."""

    files: list[UploadedFile]


class Health(BaseModel):
    """The lab is up."""

    status: Literal["ok"]
    version: str = Field(description="The coordinator's version.")
