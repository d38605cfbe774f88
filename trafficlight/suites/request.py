"""What a session is asked to run, as it travels and is kept: JSON in, a selection out."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trafficlight.errors import UsageError
from trafficlight.suites.expected_failures import ExpectedFailure, ExpectedFailures
from trafficlight.suites.selection import Selection


class ExpectedFailureRequest(BaseModel):
    """Cases that are known to fail."""

    model_config = ConfigDict(extra="forbid")

    case: str = Field(min_length=1, description="A case id; `*` and `?` stand for anything.")
    reason: str = Field(min_length=1, description="Why they fail.")
    link: str = Field(default="", description="Where it is being dealt with.")


class SessionRequest(BaseModel):
    """What a session is to run. Everything has the meaning of the option of that name."""

    model_config = ConfigDict(extra="forbid")

    targets: list[str] = Field(
        default_factory=list,
        description="Files, directories, symbols; the configured tests where there are none.",
    )
    keyword: str = Field(default="", description="An expression over case ids, with and, or, not.")
    clients: list[str] = Field(default_factory=list, description="The only client types.")
    servers: list[str] = Field(default_factory=list, description="The only server types.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Values in place of what tests state."
    )
    pairwise: bool = Field(default=False, description="Cover pairs, not every combination.")
    only: list[str] | None = Field(default=None, description="The ids of the only cases.")
    sample: int | None = Field(default=None, ge=1, description="Only so many cases, chosen by `seed`.")
    seed: int = Field(default=0, description="Chooses the sample.")
    repeat: int = Field(default=1, ge=1, description="How often each case runs.")
    shard: tuple[int, int] | None = Field(default=None, description="Which of how many parts, from 1.")
    expected_failures: list[ExpectedFailureRequest] = Field(
        default_factory=list, description="What is known to fail."
    )
    exit_first: bool = Field(default=False, description="End at the first failure or error.")
    deflake: int = Field(default=0, ge=0, description="Try a failed case again up to so many times.")

    @classmethod
    def read(cls, body: dict[str, Any]) -> "SessionRequest":
        """Return the request that a JSON object makes.

        :raises UsageError: it does not fit; the message names the field.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the request"
            raise UsageError(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}") from None

    @classmethod
    def of(
        cls, targets: "tuple[str, ...] | list[str]", selection: Selection, *, exit_first: bool, deflake: int
    ) -> "SessionRequest":
        """Return the request that a command line makes."""
        return cls(
            targets=list(targets),
            keyword=selection.keyword,
            clients=list(selection.clients),
            servers=list(selection.servers),
            parameters=dict(selection.parameters),
            pairwise=selection.pairwise,
            only=sorted(selection.only) if selection.only is not None else None,
            sample=selection.sample,
            seed=selection.seed,
            repeat=selection.repeat,
            shard=selection.shard,
            expected_failures=[
                ExpectedFailureRequest(case=entry.pattern, reason=entry.reason, link=entry.link)
                for entry in selection.expected_failures.entries
            ],
            exit_first=exit_first,
            deflake=deflake,
        )

    @property
    def selection(self) -> Selection:
        """What it selects.

        :raises UsageError: a value makes no sense.
        """
        entries = (ExpectedFailure(one.case, one.reason, one.link) for one in self.expected_failures)
        return Selection(
            clients=tuple(self.clients),
            servers=tuple(self.servers),
            parameters=self.parameters,
            pairwise=self.pairwise,
            keyword=self.keyword,
            only=frozenset(self.only) if self.only is not None else None,
            sample=self.sample,
            seed=self.seed,
            repeat=self.repeat,
            shard=self.shard,
            expected_failures=ExpectedFailures(tuple(entries)),
        )
