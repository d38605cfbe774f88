"""What the endpoints answer beside the wire's own messages."""

from typing import Literal

from pydantic import BaseModel, Field


class RefusedBody(BaseModel):
    """What is wrong."""

    code: str = Field(description="For programs: lower case, stable.")
    message: str = Field(description="For people: what is wrong, and what would be right.")


class Refused(BaseModel):
    """The one shape of everything that is refused."""

    error: RefusedBody


class Nothing(BaseModel):
    """An empty object."""


class Responded(BaseModel):
    """What became of a response."""

    receipt: Literal["accepted", "repeated", "unasked"] = Field(
        description="`accepted`: it answered the outstanding action. `repeated`: that was answered before, "
        "and nothing changed. `unasked`: nothing was outstanding; it is noted in the case's log."
    )


class UploadedFile(BaseModel):
    """One file that was taken."""

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
